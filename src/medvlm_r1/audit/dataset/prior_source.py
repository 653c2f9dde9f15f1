"""Prior source: the questions on which the fitted option prior is estimated."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlm_r1.data.folder import SAMPLES, read_folder
from medvlm_r1.data.modality import modality_name
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.evaluation.score import order_modalities


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorSource:
    """Questions on which the fitted option prior is estimated.

    Attributes:
        name: Name of the modality or the folder, for display.
        items: The questions, all with options.
        modality: Their modality if they are part of the audited set; None if they come from another folder.
        shared: Number of questions in the folder that are also in the audited set. They are not in `items`.
        images: Paths of all images in the folder; empty for a modality of the audited set.
    """

    name: str
    items: tuple[Sample, ...]
    modality: str | None = None
    shared: int = 0
    images: frozenset[str] = frozenset()


def find_prior_source(wish: str, folder: Path, samples: Sequence[Sample]) -> PriorSource:
    """Find the prior source that `--fit-on` names.

    Args:
        wish: A modality of the audited set, in any known spelling, or a data folder. A folder that has the name of a
            modality is written as `./MRI`.
        folder: The audited data folder.
        samples: The samples of `folder`.

    Raises:
        UsageError: `wish` is neither a modality nor a data folder, or it is the audited folder itself.
        UserError: The folder cannot be read, or none of its questions can be used.
    """
    present = order_modalities(sample.modality for sample in samples)
    modality = wish if wish in present else modality_name(wish)
    if modality in present:
        items = tuple(s for s in samples if s.modality == modality and s.options)
        if not items:
            raise UserError(f"--fit-on {wish}: all {modality} questions of {folder} are open; nothing can be counted")
        return PriorSource(name=modality, items=items, modality=modality)
    path = Path(wish)
    if not (path / SAMPLES).is_file():
        raise UsageError(
            f"--fit-on {wish!r} is neither a data folder nor a modality of {folder}; {did_you_mean(wish, present)}"
        )
    if os.path.samefile(path, folder):
        raise UsageError(
            f"--fit-on {wish} is the audited folder itself; name another one or one of its modalities, "
            "or leave --fit-on out: option_prior_loo is the figure within a set"
        )
    everything = read_folder(path)
    counted = [sample for sample in everything if sample.options]
    own = {_identity(sample) for sample in samples if sample.images}
    items = tuple(sample for sample in counted if _identity(sample) not in own)
    if not items:
        why = "are all in the audited set too" if counted else "are all open"
        raise UserError(f"--fit-on {wish}: its questions {why}; nothing can be counted. Name another folder")
    images = frozenset(image for sample in everything for image in sample.images)
    return PriorSource(name=path.resolve().name, items=items, shared=len(counted) - len(items), images=images)


def _identity(sample: Sample) -> tuple[tuple[str, ...], str, frozenset[str]]:
    return sample.images, sample.question, frozenset(sample.options)
