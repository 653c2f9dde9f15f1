"""Check one or several data folders, and detect overlap of evaluation data with training data."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_r1.data.check.findings import BadImage, BadRow, Check, Listed, Part, Place, Question, SharedSubject, Touched
from medvlm_r1.data.check.pictures import MOST_DISTANCE, Fingerprint, Progress, Use, compare, examine, no_progress
from medvlm_r1.data.folder import SAMPLES, read_info, read_samples
from medvlm_r1.data.importing.draft import YOUR_OWN
from medvlm_r1.data.paths import telling_names
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.split import grouped, ties
from medvlm_r1.data.subjects import count_file_names, unlike_subjects
from medvlm_r1.errors import UsageError

NEAR = 4
_LONGEST_REASON = 300
_TRAIN, _EVAL = "data.train", "data.eval"
Info = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A usable sample and its location.

    Attributes:
        part: Name of the part: the folder, or one of its splits if it has several.
        sample: The sample.
        folder: Path of the data folder.
        source: Name and source from `info.json`. Equal subject names from different sources count as different
            subjects. For a user's own questions the name is empty, because `info.json` then stores only the file format
            as the name.
        reference: Whether the sample is used for comparison only.
    """

    part: str
    sample: Sample
    folder: Path
    source: tuple[str, str]
    reference: bool = False

    @property
    def place(self) -> Place:
        """Location of the question."""
        return Place(self.part, self.sample.id, self.sample.images[0] if self.sample.images else "")

    @property
    def files(self) -> list[Path]:
        """Paths of the images."""
        return [self.folder / name for name in self.sample.images]


def _entries(
    path: Path, label: str, samples: Sequence[Sample], info: Info, *, splits: bool = True, reference: bool = False
) -> list[Entry]:
    """Locate the samples of a folder. With `splits`, each of several splits becomes a part of its own."""
    several = splits and len({sample.split for sample in samples}) > 1
    origin = str(info.get("source", ""))
    source = "" if origin == YOUR_OWN else str(info.get("name", "")), origin
    names = [f"{label}/{sample.split or 'no split'}" if several else label for sample in samples]
    return [
        Entry(part=name, sample=sample, folder=path, source=source, reference=reference)
        for name, sample in zip(names, samples, strict=True)
    ]


def _parts(path: Path, label: str, entries: Sequence[Entry], *, reference: bool) -> list[Part]:
    groups: dict[str, list[Sample]] = {} if entries else {label: []}
    for entry in entries:
        groups.setdefault(entry.part, []).append(entry.sample)
    return [
        Part(
            name=name,
            folder=str(path),
            split="" if name == label else samples[0].split,
            reference=reference,
            samples=len(samples),
            images=len({image for sample in samples for image in sample.images}),
            without_image=sum(not sample.images for sample in samples),
            open_questions=sum(not sample.options for sample in samples),
            options=_counts(len(sample.options) for sample in samples if sample.options),
            modalities=_counts(sample.modality for sample in samples),
            question_types=_counts(sample.question_type for sample in samples),
        )
        for name, samples in groups.items()
    ]


def _counts(values: Iterable[Any]) -> dict[Any, int]:
    return dict(sorted(Counter(values).items()))


def _read_rows(path: Path, label: str) -> tuple[list[Sample], list[BadRow]]:
    """Read the usable rows of a data folder, and list the rows that `read_folder` would reject."""
    bad: list[BadRow] = []

    def add_bad(number: int, error: ValueError | str, row: dict[str, Any]) -> None:
        options, answer, reason = row.get("options"), row.get("answer"), str(error)
        no_option = isinstance(options, list) and options and isinstance(answer, str) and answer not in options
        if len(reason) > _LONGEST_REASON:
            reason = reason[:_LONGEST_REASON] + " ..."
        bad.append(BadRow(file=f"{label}/{SAMPLES}", row=number, kind="answer" if no_option else "row", reason=reason))

    return read_samples(path / SAMPLES, add_bad), bad


def _image_uses(entries: Sequence[Entry]) -> list[Use]:
    """List every image once for each part that uses it, in order of appearance."""
    uses: dict[tuple[str, str], Use] = {}
    for entry in entries:
        images = entry.sample.images
        for number, name in enumerate(images, start=1):
            place = Place(entry.part, entry.sample.id, name, number if len(images) > 1 else 0)
            use = uses.setdefault((entry.part, name), Use(place=place, file=entry.folder / name))
            if entry.sample.subject:
                use.subjects.add((*entry.source, entry.sample.subject))
    return list(uses.values())


def plain(text: str) -> str:
    """Normalize a text for comparison: ignore case, extra white space, character width and closing punctuation.

    Punctuation inside the text is kept, because `1.5` is not `15`.
    """
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return words.rstrip(" .?!:") or words


def _find_repeated(entries: Sequence[Entry], prints: Mapping[Path, Fingerprint]) -> Iterator[Question]:
    """Find questions that occur several times with the same images and the same options in any order."""
    groups: dict[Hashable, list[Entry]] = {}
    for entry in entries:
        sample = entry.sample
        if not sample.unnamed_image:
            files = zip(sample.images, entry.files, strict=True)
            images = tuple(prints[file].pixels if file in prints else (name,) for name, file in files)
            options = tuple(sorted(map(plain, sample.options)))
            groups.setdefault((images, plain(sample.question), options), []).append(entry)
    for group in groups.values():
        if len(group) > 1 and not all(entry.reference for entry in group):
            answers: dict[str, str] = {}
            for entry in group:
                answers.setdefault(plain(entry.sample.answer), entry.sample.answer)
            yield Question(
                places=Listed.of([entry.place for entry in group]),
                parts=tuple(dict.fromkeys(entry.part for entry in group)),
                question=group[0].sample.question,
                answers=tuple(answers.values()),
            )


def _find_shared_subjects(entries: Sequence[Entry]) -> tuple[list[SharedSubject], set[int]]:
    """Find subjects and volumes with samples in several parts, and the indices of their entries."""
    shared, touched = [], set()
    for indices in grouped([[(entry.source, tie) for tie in ties(entry.sample)] for entry in entries]):
        group = [entries[index] for index in indices]
        places: dict[str, Place] = {}
        for entry in group:
            places.setdefault(entry.part, entry.place)
        if len(places) > 1 and not all(entry.reference for entry in group):
            touched.update(indices)
            shared.append(SharedSubject(places=tuple(places.values()), samples=len(group)))
    return shared, touched


def _count_touched(
    entries: Sequence[Entry],
    prints: Mapping[Path, Fingerprint],
    near_parts: Mapping[str, set[str]],
    subjects: Collection[int],
) -> tuple[Touched, ...]:
    """Count the questions of each part that share an image, a near-duplicate, or a subject with another."""
    files = [[file for file in entry.files if file in prints] for entry in entries]
    # All images of one color look the same, so they count as shared only if they are the same file.
    images = [[str(file) if prints[file].blank else prints[file].pixels for file in row] for row in files]
    parts: dict[str, set[str]] = {}
    for entry, pixels in zip(entries, images, strict=True):
        for image in pixels:
            parts.setdefault(image, set()).add(entry.part)
    counts: dict[str, Counter[str]] = {}
    for index, (entry, pixels) in enumerate(zip(entries, images, strict=True)):
        kinds = {
            "picture": any(parts[image] - {entry.part} for image in pixels),
            "near": any(near_parts.get(image, set()) - {entry.part} for image in pixels),
            "subject": index in subjects,
        }
        count = counts.setdefault(entry.part, Counter(picture=0, near=0, subject=0))
        count.update(samples=1, any=int(any(kinds.values())), **kinds)
    return tuple(Touched(part=part, **count) for part, count in counts.items() if count["any"])


def _fingerprints(results: Mapping[Path, Fingerprint | str | None]) -> dict[Path, Fingerprint]:
    return {file: result for file, result in results.items() if isinstance(result, Fingerprint)}


def check_folders(
    folders: Sequence[str | Path],
    *,
    against: Sequence[str | Path] = (),
    near: int = NEAR,
    allow_near: bool = False,
    refuses: Callable[[tuple[int, int]], str | None] | None = None,
    progress: Progress = no_progress,
) -> Check:
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
    parts: list[Part] = []
    entries: list[Entry] = []
    bad: list[BadRow] = []
    infos: dict[str, Info] = {}
    file_name_subjects = 0
    for number, (path, label) in enumerate(zip(paths, telling_names(paths), strict=True)):
        reference = number >= len(folders)
        samples, bad_rows = _read_rows(path, label)
        infos[label] = read_info(path)
        file_name_subjects += count_file_names(samples, infos[label])
        own = _entries(path, label, samples, infos[label], reference=reference)
        parts += _parts(path, label, own, reference=reference)
        entries += own
        bad += bad_rows
    uses = _image_uses(entries)
    first = {use.file: use.place for use in reversed(uses)}
    results = examine(((entry.folder, name) for entry in entries for name in entry.sample.images), progress)
    prints = _fingerprints(results)
    checked = {part.name for part in parts if not part.reference}
    sharing, near_parts = compare(uses, prints, checked, near=near, progress=progress)
    shared_subjects, subjects = _find_shared_subjects(entries)
    questions = list(_find_repeated(entries, prints))
    repeated = [question for question in questions if len(question.answers) == 1]
    missing = [first[file] for file, result in results.items() if result is None]
    unnamed = [entry.place for entry in entries if entry.sample.unnamed_image]
    unreadable = [BadImage(first[file], result) for file, result in results.items() if isinstance(result, str)]
    # An image is listed once for each part that uses it.
    unfit = [
        BadImage(use.place, f"{' x '.join(map(str, prints[use.file].size))} pixels: {reason}")
        for use in uses
        if refuses and use.file in prints and (reason := refuses(prints[use.file].size))
    ]
    return Check(
        parts=tuple(parts),
        images=len(results),
        bad_rows=Listed.of(bad),
        answers_not_options=sum(row.kind == "answer" for row in bad),
        missing=Listed.of([*missing, *unnamed]),
        unreadable=Listed.of(unreadable),
        unfit=Listed.of(unfit),
        contradictory=Listed.of([question for question in questions if len(question.answers) > 1]),
        repeated_between=Listed.of([question for question in repeated if len(question.parts) > 1]),
        repeated_within=Listed.of([question for question in repeated if len(question.parts) == 1]),
        shared_subjects=Listed.of(shared_subjects),
        sharing=sharing,
        touched=_count_touched(entries, prints, near_parts, subjects),
        file_name_subjects=file_name_subjects,
        unlike_subjects=unlike_subjects(infos),
        near_distance=near,
        allow_near=allow_near,
    )


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
        UserError: The `info.json` of a folder cannot be read.
    """
    infos = {_TRAIN: read_info(train), _EVAL: read_info(evaluation)}
    entries = [
        *_entries(Path(train), _TRAIN, train_samples, infos[_TRAIN], splits=False),
        *_entries(Path(evaluation), _EVAL, eval_samples, infos[_EVAL], splits=False),
    ]
    prints = _fingerprints(examine((entry.folder, name) for entry in entries for name in entry.sample.images))
    _, subjects = _find_shared_subjects(entries)
    touched = {part.part: part for part in _count_touched(entries, prints, {}, subjects)}
    if _EVAL not in touched:
        unlike = unlike_subjects(infos)
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
