"""The check of one or several data folders, and the overlap of evaluation data with training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medvlm_r1.data.check.findings import BadImage, Check, Listed, Place
from medvlm_r1.data.check.pictures import MOST_PARTS, Progress, Use, compare, examine, list_uses, no_progress
from medvlm_r1.data.check.questions import count_touched, find_repeated, find_shared_subjects, read_rows
from medvlm_r1.data.leakage import MOST_DISTANCE, Fingerprint
from medvlm_r1.data.paths import telling_names
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.subjects import count_file_names, unlike_subjects
from medvlm_r1.errors import UsageError

NEAR = 4
_TRAIN, _EVAL = "data.train", "data.eval"


def check_folders(
    folders: Sequence[str | Path],
    *,
    against: Sequence[str | Path] = (),
    near: int = NEAR,
    allow_near: bool = False,
    refuses: Callable[[tuple[int, int]], str | None] | None = None,
    progress: Progress = no_progress,
) -> Check:
    """Check data folders, individually and against each other.

    A folder whose samples are of several splits counts as that many parts.

    Args:
        folders: Data folders.
        against: Data folders to compare with; what lies within them is not reported, except what cannot be read, since
            it could not be compared.
        near: Maximum number of bits in which 64-bit perceptual hashes of near-duplicates differ, 0 to 16.
        allow_near: Report near-duplicates in different parts as a note, not as a problem.
        refuses: Gives the reason why a model cannot take an image of a width and height; None where it can.
        progress: Called with the stage ("images", "near pairs"), the steps done and the steps in all.

    Returns:
        All findings.

    Raises:
        UsageError: No folder, one given twice, over 63 parts, or `near` out of range.
        UserError: A folder has no readable `samples.jsonl`.
    """
    if not 0 <= near <= MOST_DISTANCE:
        raise UsageError(f"--near {near}; wanted 0 to {MOST_DISTANCE} bits of 64")
    if not folders:
        raise UsageError("no data folder was given; wanted at least one")
    paths = [Path(path) for path in (*folders, *against)]
    labels = telling_names(paths)
    data_folders = [
        read_rows(path, label, reference=number >= len(folders))
        for number, (path, label) in enumerate(zip(paths, labels, strict=True))
    ]
    parts = [part for folder in data_folders for part in folder.parts()]
    if len(parts) > MOST_PARTS:
        raise UsageError(f"{len(parts)} parts (folders, or splits in them); at most {MOST_PARTS} can be compared")
    uses = [use for folder in data_folders for use in list_uses(folder)]
    first = {use.file: use.place for use in reversed(uses)}
    results = examine(data_folders, progress)
    prints = _fingerprints(results)
    references = {part.name: part.reference for part in parts}
    sharing, near_parts = compare(uses, prints, references, near=near, progress=progress)
    shared_subjects, subjects = find_shared_subjects(data_folders)
    contradictory, repeated_between, repeated_within = find_repeated(data_folders, prints)
    bad = [row for folder in data_folders for row in folder.bad]
    unnamed = [Place(folder.part_of(s), s.id) for folder in data_folders for s in folder.samples if s.unnamed_image]
    return Check(
        parts=tuple(parts),
        images=len(results),
        bad_rows=Listed.of(bad),
        answers_not_options=sum(row.kind == "answer" for row in bad),
        missing=Listed.of([*(first[file] for file, result in results.items() if result is None), *unnamed]),
        unreadable=Listed.of(
            BadImage(first[file], result) for file, result in results.items() if isinstance(result, str)
        ),
        unfit=Listed.of(_unfit(uses, prints, refuses)) if refuses else Listed(),
        contradictory=contradictory,
        repeated_between=repeated_between,
        repeated_within=repeated_within,
        shared_subjects=shared_subjects,
        sharing=sharing,
        touched=count_touched(data_folders, prints, near_parts, subjects),
        file_name_subjects=sum(count_file_names(folder.samples, folder.info) for folder in data_folders),
        unlike_subjects=unlike_subjects({folder.label: folder.info for folder in data_folders}),
        near_distance=near,
        allow_near=allow_near,
    )


def _unfit(
    uses: Sequence[Use], prints: Mapping[Path, Fingerprint], refuses: Callable[[tuple[int, int]], str | None]
) -> Iterator[BadImage]:
    """The images that a model cannot take, once for each part that uses them."""
    for use in uses:
        size = prints[use.file].size if use.file in prints else None
        reason = refuses(size) if size else None
        if size and reason:
            yield BadImage(use.place, f"{size[0]} x {size[1]} pixels: {reason}")


def _fingerprints(results: Mapping[Path, Fingerprint | str | None]) -> dict[Path, Fingerprint]:
    return {file: result for file, result in results.items() if isinstance(result, Fingerprint)}


def warn_of_overlap(
    train: str | Path, train_samples: Sequence[Sample], evaluation: str | Path, eval_samples: Sequence[Sample]
) -> str | None:
    """A warning if an evaluation shares images or subjects with the training, or cannot be compared; else None.

    Pictures are compared pixel by pixel, under whatever names and in whatever formats they are kept.

    Args:
        train: The data folder of the training.
        train_samples: The samples of it that are trained on.
        evaluation: The data folder of the evaluation.
        eval_samples: The samples of it that are evaluated on.

    Raises:
        UserError: A folder cannot be read.
    """
    folders = [
        replace(read_rows(Path(path), label), samples=list(samples), splits=())
        for path, label, samples in ((train, _TRAIN, train_samples), (evaluation, _EVAL, eval_samples))
    ]
    prints = _fingerprints(examine(folders))
    _, subjects = find_shared_subjects(folders)
    touched = {part.part: part for part in count_touched(folders, prints, {}, subjects)}
    if _EVAL not in touched:
        unlike = unlike_subjects({folder.label: folder.info for folder in folders})
        return f"Warning: {unlike}" if unlike else None
    counts = [
        f"{part.any} of {part.samples} questions of {name} (the same image {part.picture}, the same subject "
        f"{part.subject})"
        for name, part in touched.items()
    ]
    check = f"medvlm-r1 data check {train} {evaluation}"
    listed = (
        f" '{check}' lists what is shared, including near-duplicate and mirrored images." if train != evaluation else ""
    )
    return (
        f"Warning: {_EVAL} shares images or subjects with {_TRAIN}: {' and '.join(reversed(counts))}. Its accuracy "
        f"will be too high. 'medvlm-r1 data split' makes parts that share nothing.{listed}"
    )
