"""Selection of the rows of a data folder whose images are present, and loading of these images."""

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from medvlm_r1.data.folder import SAMPLES
from medvlm_r1.data.image_facts import image_sizes, unreadable_samples
from medvlm_r1.data.images import load_image
from medvlm_r1.data.paths import inside
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.models.load import image_fit

Row = tuple[int, Sample]
"""A row number in `samples.jsonl`, counted from 1, and the sample of that row."""


def present_rows(data_dir: Path, selected: Sequence[Row], skip_missing: bool, model: str | None = None) -> list[Row]:
    """The rows whose images are present. A damaged image always raises an error.

    Args:
        data_dir: The data folder.
        selected: The rows to check.
        skip_missing: Instead of raising an error, exclude rows with a missing image and rows with an image that the
            model cannot process. The latter are listed on stderr.
        model: A local model, whose processor determines which images it can process; None for other models.

    Raises:
        UserError: Images are missing or damaged (the message names the first such row), or the model cannot process
            them (the message names every such row).
    """
    absent = {
        s.id for _, s in selected if s.unnamed_image or not all(inside(data_dir, image).is_file() for image in s.images)
    }
    present = [row for row in selected if row[1].id not in absent]
    if absent and not skip_missing:
        row, sample = next(row for row in selected if row[1].id in absent)
        raise UserError(
            f"{data_dir}: images are missing for {len(absent)} of {len(selected)} rows, the first in row {row}"
            f" ({', '.join(sample.images) or 'its source does not name it'}); put the files there, or leave such rows"
            " out with --skip-missing"
        )
    if not present:
        raise UserError(f"{data_dir}: images are missing for all {len(selected)} rows, so nothing is left to answer")
    samples = [sample for _, sample in present]
    sizes = image_sizes(data_dir, samples)
    damaged = {sample.id for sample in unreadable_samples(samples, sizes)}
    for pair in present:
        if pair[1].id in damaged:
            load_row_images(data_dir, pair)
    fit = None if model is None else image_fit(model)
    unfit = {} if fit is None else fit.unfit(present, sizes)
    if fit is None or not unfit:
        return present
    message = fit.message(data_dir, unfit)
    if not skip_missing:
        raise UserError(f"{message}. Crop or pad these images, or leave such rows out with --skip-missing")
    fitting = [row for row in present if row[1].id not in unfit]
    if not fitting:
        raise UserError(f"{message}. Nothing is left to answer")
    print(f"Left out: {message}.", file=sys.stderr)
    return fitting


def load_row_images(data_dir: Path, row: Row) -> list[Image]:
    """Load the images of a row, in order, as RGB.

    Raises:
        UserError: An image cannot be read; the message names the file and the row.
    """
    number, sample = row
    try:
        return [load_image(inside(data_dir, image)) for image in sample.images]
    except UserError as error:
        raise UserError(
            f"{data_dir / SAMPLES}, row {number} (id {sample.id!r}): {error}; repair or remove the file"
            " (a removed one can be left out with --skip-missing), then run the same command again: answers are kept"
        ) from None
