"""Overlap of evaluation data with training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medvlm_r1.data.check.pictures import examine
from medvlm_r1.data.check.questions import count_touched, find_shared_subjects
from medvlm_r1.data.check.rows import read_rows
from medvlm_r1.data.leakage import Fingerprint
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.subjects import unlike_subjects

_TRAIN, _EVAL = "data.train", "data.eval"


def warn_of_overlap(
    train: str | Path, train_samples: Sequence[Sample], evaluation: str | Path, eval_samples: Sequence[Sample]
) -> str | None:
    """A warning if an evaluation shares pictures or subjects with the training, or cannot be compared; else None.

    Pictures are compared pixel by pixel, under whatever names and in whatever formats they are kept.

    Args:
        train: The data folder of the training.
        train_samples: The samples of it that are trained on.
        evaluation: The data folder of the evaluation.
        eval_samples: The samples of it that are evaluated on.

    Raises:
        UserError: A folder cannot be read.
    """
    pairs = ((train, _TRAIN, train_samples), (evaluation, _EVAL, eval_samples))
    folders = [replace(read_rows(Path(path), label), samples=list(used), splits=()) for path, label, used in pairs]
    files = list(
        {
            folder.path / name: (folder.path, name) for folder in folders for s in folder.samples for name in s.images
        }.values()
    )
    results = examine(files, lambda stage, done, total: None)
    prints = {
        folder / name: result
        for (folder, name), result in zip(files, results, strict=True)
        if isinstance(result, Fingerprint)
    }
    _, subjects = find_shared_subjects(folders)
    touched = {part.part: part for part in count_touched(folders, prints, {}, subjects)}
    if _EVAL not in touched:
        unlike = unlike_subjects({folder.label: folder.info for folder in folders})
        return f"Warning: {unlike}" if unlike else None
    counts = [
        f"{part.any} of {part.samples} questions of {name} (the same picture {part.picture}, the same subject "
        f"{part.subject})"
        for name, part in touched.items()
    ]
    check = f"medvlm-r1 data check {train} {evaluation}"
    listed = f" '{check}' lists what is shared, near and mirrored pictures included." if train != evaluation else ""
    return (
        f"Warning: {_EVAL} shares pictures or subjects with {_TRAIN}: {' and '.join(reversed(counts))}. Its accuracy "
        f"will be too high. 'medvlm-r1 data split' makes parts that share nothing.{listed}"
    )
