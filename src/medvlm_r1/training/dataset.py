"""Data set of samples for TRL's trainers.

The columns are `prompt` (one user message), `images`, `question`, `letter`, `options`, `answer` (the text),
`sample_id`, `modality`, `question_type`, `subject`, `boxes` and `shown_size` (see `models.shown.BoxLabel`). For SFT
there is also `completion` (an assistant message with only the letter, or the text of an open answer). The stored rows
hold image paths, and an image is loaded when its row is read.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from medvlm_r1.data import Sample, folder_hash, load_image, read_folder
from medvlm_r1.data.difficulty import DIFFICULTY, histogram, read_pass_rates
from medvlm_r1.data.image_facts import image_sizes, unreadable_samples
from medvlm_r1.data.paths import inside
from medvlm_r1.errors import UserError
from medvlm_r1.models.processor import ImageFit
from medvlm_r1.models.shown import box_labels
from medvlm_r1.prompts.templates import hash_prompt, messages
from medvlm_r1.rewards import any_asks
from medvlm_r1.training.config import RunConfig

# A GRPO batch reads the same row once per completion. Caching a few dozen decoded images avoids most of that work.
_CACHED_IMAGES = 64
Result = TypeVar("Result")


def load_samples(
    folder: str,
    *,
    modality: Sequence[str] | None = None,
    skip_missing: bool = False,
    fit: ImageFit | None = None,
    open_questions: bool = False,
) -> list[Sample]:
    """Load the samples of a data folder and check that they can be used for training.

    Args:
        folder: the data folder.
        modality: modalities to keep; None keeps all.
        skip_missing: whether to skip samples whose images are unreadable or rejected by `fit`, instead of raising.
        fit: checks whether the model accepts the size of an image; None to skip this check.
        open_questions: whether questions without options are accepted.

    Raises:
        UserError: no sample is left, a sample is an open question and `open_questions` is false, or an image is
            unreadable or rejected and `skip_missing` is false.
    """
    everything = read_folder(folder)
    rows = [row for row in enumerate(everything, start=1) if modality is None or row[1].modality in modality]
    samples = [sample for _, sample in rows]
    if not samples:
        present = ", ".join(sorted({sample.modality for sample in everything}))
        raise UserError(f"{folder} has no sample of modality {', '.join(modality or ())}; it has {present}.")
    opened = [sample.id for sample in samples if not sample.options]
    if opened and not open_questions:
        raise UserError(
            f"{folder}: {len(opened)} open questions, the first {opened[0]!r}; this training needs options. Use GRPO"
            " with the reward open_answer (not with grounded), or leave these questions out."
        )
    sizes = image_sizes(folder, samples)
    unreadable = unreadable_samples(samples, sizes)
    if unreadable and not skip_missing:
        first = unreadable[0]
        raise UserError(
            f"{folder}: images of {len(unreadable)} of {len(samples)} samples are not readable, the first "
            f"{', '.join(first.images)} of {first.id!r}. Add them, or set data.skip_missing to leave the samples out."
        )
    unfit = {} if fit is None else fit.unfit(rows, sizes)
    if fit is not None and unfit:
        message = fit.message(folder, unfit)
        if not skip_missing:
            raise UserError(f"{message}. Crop or pad these images, or set data.skip_missing to leave the samples out.")
        print(f"Left out: {message}.", file=sys.stderr)
    dropped = {sample.id for sample in unreadable} | unfit.keys()
    samples = [sample for sample in samples if sample.id not in dropped]
    if not samples:
        raise UserError(f"{folder}: no sample has a readable image.")
    return samples


def select_by_difficulty(config: RunConfig, samples: Sequence[Sample]) -> tuple[list[Sample], Mapping[str, Any] | None]:
    """Select and order the training samples by `data.pass_rate` and `data.order`; report the selection on stderr.

    Returns:
        The samples in the order of training, and the entry of `data.json`: the model, the histograms of the pass rates
        of all samples and of those used, and a hash of their ids. It is None if the configuration has neither option.

    Raises:
        UserError: A sample has no pass rate, or has changed since the estimate; or no sample is left.
    """
    data, template = config.data, config.template
    if data.pass_rate is None and data.order is None:
        return list(samples), None
    known = read_pass_rates(data.train)

    def rated(sample: Sample) -> bool:
        rate, prompt = known.get(sample.id), hash_prompt(messages(sample, template))
        return rate is not None and (rate.answer, rate.key.get("prompt")) == (sample.answer, prompt)

    unrated = [sample.id for sample in samples if not rated(sample)]
    if unrated:
        raise UserError(
            f"{Path(data.train) / DIFFICULTY}: {len(unrated)} of {len(samples)} training samples have no pass rate for "
            f"their current question and answer and the template {template!r}, the first {unrated[0]!r}. Run "
            f"'medvlm-r1 data difficulty {data.train} --model MODEL --template {template}'; if questions or template "
            "have changed, delete the file first."
        )
    low, high = data.pass_rate or (0.0, 1.0)
    chosen = [sample for sample in samples if low <= known[sample.id].value <= high]
    rates = [known[sample.id] for sample in samples]
    left_out = {"below": sum(rate.value < low for rate in rates), "above": sum(rate.value > high for rate in rates)}
    line = (
        f"{data.train}: {len(chosen)} of {len(samples)} samples have a pass rate from {low:g} to {high:g} "
        f"({rates[0].model}, {rates[0].samples} completions each). Left out: {left_out['below']} below, "
        f"{left_out['above']} above"
    )
    if not chosen:
        raise UserError(f"{line}. Set a wider data.pass_rate.")
    print(f"{line}.", file=sys.stderr)
    if data.order:
        # Samples of equal pass rate are in random order, because a folder may be sorted by modality.
        random.Random(config.seed).shuffle(chosen)
        chosen.sort(key=lambda sample: -known[sample.id].value)
    return chosen, {
        "model": rates[0].model,
        "left_out": left_out,
        "all": histogram(rates),
        "used": histogram(known[sample.id] for sample in chosen),
        "ids": hashlib.sha256("\n".join(sample.id for sample in chosen).encode()).hexdigest(),
    }


def on_main_process(work: Callable[[], Result]) -> Result:
    """Run a function on the global main process only. Every process returns its result or raises its exception."""
    outcome: list[Any] = [None]
    if PartialState().is_main_process:
        try:
            outcome = [(work(), None)]
        except Exception as error:
            outcome = [(None, error)]
    broadcast_object_list(outcome)
    result, failure = outcome[0]
    if failure is not None:
        raise failure
    return result  # type: ignore[no-any-return]


def describe(folder: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """Entry of `data.json` for a data folder: its path and hash, and counts of the selected samples."""
    return {
        "folder": folder,
        "hash": folder_hash(folder),
        "samples": len(samples),
        "by_modality": dict(sorted(Counter(sample.modality for sample in samples).items())),
    }


def build_dataset(
    folder: str,
    samples: Sequence[Sample],
    *,
    template: str,
    completions: Mapping[str, str] | None = None,
    processor: Any = None,
) -> Any:
    """Build a `datasets.Dataset` with one row per sample.

    Args:
        folder: data folder that the image paths are relative to.
        samples: the samples, in the order of the rows.
        template: name of the prompt template.
        completions: texts of the `completion` column, for SFT, by sample id; None for no such column.
        processor: image processor of the model, which determines the boxes of a box template (see `box_labels`).

    Raises:
        UserError: with a box template, a box is not inside its image.
        UsageError: the template does not suit the processor.
    """
    from datasets import Dataset, Features, List, Value

    text = Value("string")
    # Prompts are JSON text, because an Arrow struct would give every part of a message the keys of all parts.
    columns: dict[str, Any] = {
        **dict.fromkeys(("prompt", "question", "letter", "answer", "sample_id"), text),
        **dict.fromkeys(("modality", "question_type", "subject"), text),
        **dict.fromkeys(("images", "options"), List(text)),
        "boxes": List(List(Value("float64"))),
        "shown_size": List(Value("int64")),
    }
    rows: list[dict[str, Any]] = [
        {
            "prompt": json.dumps(messages(sample, template)),
            "images": [str(inside(folder, image)) for image in sample.images],
            "question": sample.question,
            "letter": sample.letter,
            "options": list(sample.options),
            "answer": sample.answer,
            "sample_id": sample.id,
            "modality": sample.modality,
            "question_type": sample.question_type,
            "subject": sample.cluster,
            **asdict(label),
        }
        for sample, label in zip(samples, box_labels(folder, samples, template, processor), strict=True)
    ]
    if completions is not None:
        columns["completion"] = List({"role": text, "content": text})
        rows = [row | {"completion": [{"role": "assistant", "content": completions[row["sample_id"]]}]} for row in rows]
    return Dataset.from_list(rows, features=Features(columns)).with_transform(_Decode())


def check_boxes(names: Sequence[str], dataset: Any) -> None:
    """Reject a reward for boxes if the boxes of no sample are known.

    Args:
        names: names of the rewards.
        dataset: result of `build_dataset`.

    Raises:
        UserError: a reward names the column `boxes`, which is None in every row.
    """
    if any_asks(names, "boxes") and all(boxes is None for boxes in dataset.with_format(None)["boxes"]):
        raise UserError(
            "A reward needs boxes, but no training sample with one image has boxes, nor a truth without findings. "
            "Import them in a column 'boxes', or leave the reward out."
        )


def as_dataset(folder: str, *, template: str = "medvlm-r1") -> Any:
    """Load a data folder as a `datasets.Dataset` with the columns that TRL's trainers read.

    Every sample is a row, including open questions (their `letter` is empty). A missing image raises an error when its
    row is read.

    Args:
        folder: the data folder.
        template: name of the prompt template.

    Raises:
        UserError: the folder cannot be read (see `read_folder`).
    """
    return build_dataset(folder, read_folder(folder), template=template)


class _Decode:
    """Transform of stored rows: load the images and parse the prompts."""

    def __init__(self) -> None:
        self._load = functools.lru_cache(maxsize=_CACHED_IMAGES)(load_image)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        # Counterfactual images and balance use these columns of the stored rows.
        result = {name: values for name, values in batch.items() if name not in ("subject", "question_type")}
        if "images" in batch:
            result["images"] = [[self._load(path) for path in paths] for paths in batch["images"]]
        if "prompt" in batch:
            result["prompt"] = [json.loads(prompt) for prompt in batch["prompt"]]
        return result

    def __reduce__(self) -> tuple[type[_Decode], tuple[()]]:
        # Data loader workers and dataset fingerprints pickle this object. The cache cannot be pickled.
        return _Decode, ()
