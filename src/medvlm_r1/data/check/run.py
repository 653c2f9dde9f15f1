"""Check one or several data folders, and detect overlap of evaluation data with training data."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medvlm_r1.data.check import findings
from medvlm_r1.data.check.pictures import MOST_DISTANCE, Fingerprint, Progress, Use, compare, examine, no_progress
from medvlm_r1.data.folder import SAMPLES, read_info, read_samples
from medvlm_r1.data.importing.draft import YOUR_OWN
from medvlm_r1.data.paths import telling_names
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.split import grouped, ties
from medvlm_r1.data.subjects import count_file_names, unlike_subjects
from medvlm_r1.errors import UsageError, UserError

NEAR = 4
_LONGEST_REASON = 300
_TRAIN, _EVAL = "data.train", "data.eval"
Refuses = Callable[[tuple[int, int]], str | None]
Value = TypeVar("Value", int, str)


@dataclass(slots=True, kw_only=True)
class Folder:
    """A data folder and its rows.

    Attributes:
        path: Path, as passed by the caller.
        label: Short name used in findings.
        reference: Whether the folder is used for comparison only.
        samples: The usable rows.
        bad: The unusable rows.
        info: Content of the folder's `info.json`.
        splits: Names of the splits in the samples, in order of appearance.
    """

    path: Path
    label: str
    reference: bool
    samples: list[Sample]
    bad: list[findings.BadRow]
    info: dict[str, Any]
    splits: tuple[str, ...]

    @property
    def source(self) -> tuple[str, str]:
        """Name and source from `info.json`. Equal subject names from different sources count as different subjects.

        For a user's own questions the name is empty, because `info.json` then stores only the file format as the name.
        """
        source = str(self.info.get("source", ""))
        return "" if source == YOUR_OWN else str(self.info.get("name", "")), source

    def part_of(self, sample: Sample) -> str:
        """Name of the part that a sample belongs to: the folder, or the split if the folder has several."""
        return f"{self.label}/{sample.split or 'no split'}" if len(self.splits) > 1 else self.label

    def parts(self) -> list[findings.Part]:
        """List the splits of the folder if it has several; otherwise the folder itself as the only part."""
        several = len(self.splits) > 1
        groups: dict[tuple[str, str], list[Sample]] = {} if several else {(self.label, ""): self.samples}
        for sample in self.samples if several else ():
            groups.setdefault((self.part_of(sample), sample.split), []).append(sample)
        return [
            findings.Part(
                name=name,
                folder=str(self.path),
                split=split,
                reference=self.reference,
                samples=len(samples),
                images=len({image for sample in samples for image in sample.images}),
                without_image=sum(not sample.images for sample in samples),
                open_questions=sum(not sample.options for sample in samples),
                options=_counts(len(sample.options) for sample in samples if sample.options),
                modalities=_counts(sample.modality for sample in samples),
                question_types=_counts(sample.question_type for sample in samples),
            )
            for (name, split), samples in groups.items()
        ]

    def images(self) -> Iterator[tuple[Path, str]]:
        """Data folder and relative path of each image, as input for `examine`."""
        return ((self.path, name) for sample in self.samples for name in sample.images)

    def uses(self) -> list[Use]:
        """List every image once for each part that uses it, in order of appearance."""
        uses: dict[tuple[str, str], Use] = {}
        for sample in self.samples:
            for number, name in enumerate(sample.images, start=1):
                place = findings.Place(self.part_of(sample), sample.id, name, number if len(sample.images) > 1 else 0)
                use = uses.setdefault((place.part, name), Use(place=place, file=self.path / name))
                if sample.subject:
                    use.subjects.add((*self.source, sample.subject))
        return list(uses.values())


def read_rows(path: Path, label: str, *, reference: bool = False) -> Folder:
    """Read the usable rows of a data folder, and collect the faults of the others.

    Args:
        path: The data folder.
        label: Short name of the folder in findings.
        reference: Whether the folder is used for comparison only.

    Returns:
        The folder. Its bad rows are all rows that `read_folder` would reject.

    Raises:
        UserError: `samples.jsonl` is missing, or `samples.jsonl` or `info.json` cannot be read.
    """
    file = path / SAMPLES
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a data folder, as 'medvlm-r1 data import' makes it")
    bad: list[findings.BadRow] = []

    def add_bad(number: int, error: ValueError | str, row: dict[str, Any]) -> None:
        options, answer, reason = row.get("options"), row.get("answer"), str(error)
        no_option = isinstance(options, list) and options and isinstance(answer, str) and answer not in options
        if len(reason) > _LONGEST_REASON:
            reason = reason[:_LONGEST_REASON] + " ..."
        bad.append(
            findings.BadRow(file=f"{label}/{SAMPLES}", row=number, kind="answer" if no_option else "row", reason=reason)
        )

    info, samples = read_info(path), read_samples(file, add_bad)
    splits = tuple(dict.fromkeys(sample.split for sample in samples))
    return Folder(path=path, label=label, reference=reference, samples=samples, bad=bad, info=info, splits=splits)


def _counts(values: Iterable[Value]) -> dict[Value, int]:
    return dict(sorted(Counter(values).items()))


def plain(text: str) -> str:
    """Normalize a text for comparison: ignore case, extra white space, character width and closing punctuation.

    Punctuation inside the text is kept, because `1.5` is not `15`.
    """
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return words.rstrip(" .?!:") or words


def find_repeated(folders: Sequence[Folder], prints: Mapping[Path, Fingerprint]) -> list[findings.Question]:
    """Find questions that occur several times with the same images and the same options in any order.

    Args:
        folders: Folders to search.
        prints: Fingerprints of the image files that can be displayed. Other files are identified by name.

    Returns:
        The repeated questions. Questions that occur only in reference folders, or whose image the source does not name,
        are excluded.
    """
    groups: dict[Hashable, list[tuple[Folder, Sample]]] = {}
    for folder in folders:
        for sample in folder.samples:
            if not sample.unnamed_image:
                files = {name: folder.path / name for name in sample.images}
                images = tuple(prints[file].pixels if file in prints else (name,) for name, file in files.items())
                options = tuple(sorted(map(plain, sample.options)))
                groups.setdefault((images, plain(sample.question), options), []).append((folder, sample))
    questions = []
    for group in groups.values():
        if len(group) > 1 and not all(folder.reference for folder, _ in group):
            answers: dict[str, str] = {}
            for _, sample in group:
                answers.setdefault(plain(sample.answer), sample.answer)
            question = findings.Question(
                places=findings.Listed.of(_place(folder, sample) for folder, sample in group),
                parts=tuple(dict.fromkeys(folder.part_of(sample) for folder, sample in group)),
                question=group[0][1].question,
                answers=tuple(answers.values()),
            )
            questions.append(question)
    return questions


def find_shared_subjects(
    folders: Sequence[Folder],
) -> tuple[findings.Listed[findings.SharedSubject], set[tuple[str, str]]]:
    """Find subjects and volumes with samples in several parts.

    A volume is found even if its samples name different subjects. If `info.json` of two folders has different names or
    sources, equal subject names count as different subjects.

    Returns:
        The shared subjects and volumes, and the part and id of each of their samples.
    """
    samples = [(folder, sample) for folder in folders for sample in folder.samples]
    shared, touched = [], set()
    for positions in grouped([[(folder.source, tie) for tie in ties(sample)] for folder, sample in samples]):
        group = [samples[position] for position in positions]
        places: dict[str, findings.Place] = {}
        for folder, sample in group:
            places.setdefault(folder.part_of(sample), _place(folder, sample))
        if len(places) > 1 and not all(folder.reference for folder, _ in group):
            touched |= {(folder.part_of(sample), sample.id) for folder, sample in group}
            shared.append(findings.SharedSubject(places=tuple(places.values()), samples=len(group)))
    return findings.Listed.of(shared), touched


def count_touched(
    folders: Sequence[Folder],
    prints: Mapping[Path, Fingerprint],
    near_parts: Mapping[str, set[str]],
    subjects: Collection[tuple[str, str]],
) -> tuple[findings.Touched, ...]:
    """Count the questions of each part that share an image, a near-duplicate, or a subject with another part.

    Args:
        folders: Folders to search.
        prints: Fingerprints of the image files that can be displayed. Images of a single color count as shared only if
            they are the same file.
        near_parts: For each image, identified by the hash of its pixels, the parts that contain a near-duplicate of it.
        subjects: Part and id of each sample whose subject is in several parts.

    Returns:
        Counts for the parts that contain such questions.
    """
    pixels_by_sample: dict[tuple[str, str], list[str]] = {}
    parts: dict[str, set[str]] = {}
    for folder in folders:
        for sample in folder.samples:
            files = [folder.path / name for name in sample.images]
            # All images of one color look the same, so they count as shared only if they are the same file.
            pixels = [str(file) if prints[file].blank else prints[file].pixels for file in files if file in prints]
            part = folder.part_of(sample)
            pixels_by_sample[part, sample.id] = pixels
            for image in pixels:
                parts.setdefault(image, set()).add(part)
    counts: dict[str, Counter[str]] = {}
    for (part, id), pixels in pixels_by_sample.items():
        kinds = {
            "picture": any(parts[image] - {part} for image in pixels),
            "near": any(near_parts.get(image, set()) - {part} for image in pixels),
            "subject": (part, id) in subjects,
        }
        counts.setdefault(part, Counter()).update(samples=1, any=int(any(kinds.values())), **kinds)
    return tuple(
        findings.Touched(part=part, **{name: count[name] for name in ("samples", "any", "picture", "near", "subject")})
        for part, count in counts.items()
        if count["any"]
    )


def _place(folder: Folder, sample: Sample) -> findings.Place:
    return findings.Place(folder.part_of(sample), sample.id, sample.images[0] if sample.images else "")


def check_folders(
    folders: Sequence[str | Path],
    *,
    against: Sequence[str | Path] = (),
    near: int = NEAR,
    allow_near: bool = False,
    refuses: Refuses | None = None,
    progress: Progress = no_progress,
) -> findings.Check:
    """Check data folders individually and against each other.

    If a folder contains several splits, each split is checked as a separate part.

    Args:
        folders: Data folders to check.
        against: Data folders to compare with. Findings within them are not reported, except unusable rows and images,
            which cannot be compared.
        near: Maximum number of bits in which the 64-bit perceptual hashes of near-duplicates differ, 0 to 16.
        allow_near: Whether to report near-duplicates in different parts as a note instead of a problem.
        refuses: Function of (width, height) that returns the reason why a model cannot process an image of this size,
            or None if it can.
        progress: Called with the stage ("images" or "near pairs"), the number of steps done and the total.

    Returns:
        All findings.

    Raises:
        UsageError: No folder is given, a folder is given twice, or `near` is out of range.
        UserError: `samples.jsonl` of a folder is missing, or a `samples.jsonl` or `info.json` cannot be read.
    """
    if not 0 <= near <= MOST_DISTANCE:
        raise UsageError(f"--near {near}; wanted 0 to {MOST_DISTANCE} bits of 64")
    if not folders:
        raise UsageError("no data folder was given; wanted at least one")
    paths = [Path(path) for path in (*folders, *against)]
    data_folders = [
        read_rows(path, label, reference=number >= len(folders))
        for number, (path, label) in enumerate(zip(paths, telling_names(paths), strict=True))
    ]
    parts = [part for folder in data_folders for part in folder.parts()]
    uses = [use for folder in data_folders for use in folder.uses()]
    first = {use.file: use.place for use in reversed(uses)}
    results = examine((image for folder in data_folders for image in folder.images()), progress)
    prints = _fingerprints(results)
    references = {part.name: part.reference for part in parts}
    sharing, near_parts = compare(uses, prints, references, near=near, progress=progress)
    shared_subjects, subjects = find_shared_subjects(data_folders)
    questions = find_repeated(data_folders, prints)
    repeated = [question for question in questions if len(question.answers) == 1]
    bad = [row for folder in data_folders for row in folder.bad]
    unnamed = [
        findings.Place(folder.part_of(s), s.id) for folder in data_folders for s in folder.samples if s.unnamed_image
    ]
    unreadable = [findings.BadImage(first[file], result) for file, result in results.items() if isinstance(result, str)]
    return findings.Check(
        parts=tuple(parts),
        images=len(results),
        bad_rows=findings.Listed.of(bad),
        answers_not_options=sum(row.kind == "answer" for row in bad),
        missing=findings.Listed.of([*(first[file] for file, result in results.items() if result is None), *unnamed]),
        unreadable=findings.Listed.of(unreadable),
        unfit=findings.Listed.of(_unfit(uses, prints, refuses)) if refuses else findings.Listed(),
        contradictory=findings.Listed.of(question for question in questions if len(question.answers) > 1),
        repeated_between=findings.Listed.of(question for question in repeated if len(question.parts) > 1),
        repeated_within=findings.Listed.of(question for question in repeated if len(question.parts) == 1),
        shared_subjects=shared_subjects,
        sharing=sharing,
        touched=count_touched(data_folders, prints, near_parts, subjects),
        file_name_subjects=sum(count_file_names(folder.samples, folder.info) for folder in data_folders),
        unlike_subjects=unlike_subjects({folder.label: folder.info for folder in data_folders}),
        near_distance=near,
        allow_near=allow_near,
    )


def _unfit(uses: Sequence[Use], prints: Mapping[Path, Fingerprint], refuses: Refuses) -> Iterator[findings.BadImage]:
    """Yield the images that a model cannot process, once for each part that uses them."""
    for use in uses:
        if use.file in prints:
            width, height = prints[use.file].size
            if reason := refuses((width, height)):
                yield findings.BadImage(use.place, f"{width} x {height} pixels: {reason}")


def _fingerprints(results: Mapping[Path, Fingerprint | str | None]) -> dict[Path, Fingerprint]:
    return {file: result for file, result in results.items() if isinstance(result, Fingerprint)}


def warn_of_overlap(
    train: str | Path, train_samples: Sequence[Sample], evaluation: str | Path, eval_samples: Sequence[Sample]
) -> str | None:
    """Warn if evaluation and training data share images or subjects, or if their subjects cannot be compared.

    Images are compared pixel by pixel, regardless of file name and format.

    Args:
        train: Data folder of the training.
        train_samples: Samples of this folder that are used for training.
        evaluation: Data folder of the evaluation.
        eval_samples: Samples of this folder that are used for evaluation.

    Returns:
        The warning; None if there is no reason for one.

    Raises:
        UserError: A folder cannot be read.
    """
    folders = []
    for path, label, samples in ((train, _TRAIN, train_samples), (evaluation, _EVAL, eval_samples)):
        folder = read_rows(Path(path), label)
        folder.samples, folder.splits = list(samples), ()
        folders.append(folder)
    prints = _fingerprints(examine(image for folder in folders for image in folder.images()))
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
