"""Rows of a data folder with their faults, repeated questions, and subjects shared between parts."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from medvlm_r1.data.check.findings import BadRow, Listed, Part, Place, Question, SharedSubject, Touched
from medvlm_r1.data.folder import SAMPLES, read_info, read_samples
from medvlm_r1.data.importing.draft import YOUR_OWN
from medvlm_r1.data.leakage import Fingerprint
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.split import grouped, ties
from medvlm_r1.errors import UserError

_LONGEST_REASON = 300
Value = TypeVar("Value", int, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A data folder, read row by row.

    Attributes:
        path: As given.
        label: Short name for findings.
        reference: Whether it is for comparison only.
        source: Name and source from `info.json`; equal subjects of different sources are different. A user's own
            questions have no name here, because theirs is only the format of the file.
        samples: The usable rows.
        bad: The other rows.
        info: The folder's `info.json`.
        splits: The splits among the samples, in order of appearance.
    """

    path: Path
    label: str
    reference: bool
    source: tuple[str, str]
    samples: list[Sample]
    bad: list[BadRow]
    splits: tuple[str, ...]
    info: dict[str, Any] = field(default_factory=dict)

    def part_of(self, sample: Sample) -> str:
        """Name of the part of a sample: the folder, or the split if the folder has several."""
        return f"{self.label}/{sample.split or 'no split'}" if len(self.splits) > 1 else self.label

    def parts(self) -> list[Part]:
        """The parts the folder has, at least one."""
        if len(self.splits) < 2:
            return [self._part(self.label, "", self.samples)]
        groups = {split: [sample for sample in self.samples if sample.split == split] for split in self.splits}
        return [self._part(self.part_of(group[0]), split, group) for split, group in groups.items()]

    def _part(self, name: str, split: str, samples: Sequence[Sample]) -> Part:
        return Part(
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


def read_rows(path: Path, label: str, *, reference: bool = False) -> Folder:
    """Read the usable rows of a data folder, and collect the faults of the others.

    Args:
        path: The data folder.
        label: Its name in findings.
        reference: Whether it is for comparison only.

    Returns:
        The folder. Its bad rows are those for which `read_folder` raises, every one of them.

    Raises:
        UserError: There is no `samples.jsonl`, or it or `info.json` cannot be read at all.
    """
    file = path / SAMPLES
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a data folder, as 'medvlm-r1 data import' makes it")
    info = read_info(path)
    name, source = str(info.get("name", "")), str(info.get("source", ""))
    bad: list[BadRow] = []

    def add_bad(number: int, error: ValueError | str, row: dict[str, Any]) -> None:
        options, answer, reason = row.get("options"), row.get("answer"), str(error)
        no_option = isinstance(options, list) and options and isinstance(answer, str) and answer not in options
        if len(reason) > _LONGEST_REASON:
            reason = reason[:_LONGEST_REASON] + " ..."
        bad.append(BadRow(file=f"{label}/{SAMPLES}", row=number, kind="answer" if no_option else "row", reason=reason))

    samples = read_samples(file, add_bad)
    return Folder(
        path=path,
        label=label,
        reference=reference,
        source=("" if source == YOUR_OWN else name, source),
        samples=samples,
        bad=bad,
        splits=tuple(dict.fromkeys(sample.split for sample in samples)),
        info=info,
    )


def _counts(values: Iterable[Value]) -> dict[Value, int]:
    return dict(sorted(Counter(values).items()))


def plain(text: str) -> str:
    """Normal form of a text: without case, extra white space, letter width and closing punctuation.

    Inner punctuation stays, because `1.5` is not `15`.
    """
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return words.rstrip(" .?!:") or words


def find_repeated(
    folders: Sequence[Folder], prints: Mapping[Path, Fingerprint]
) -> tuple[Listed[Question], Listed[Question], Listed[Question]]:
    """Find questions that occur several times with the same images and the same options in any order.

    Args:
        folders: Folders to search.
        prints: Fingerprints of the image files that can be shown. Other files are identified by name.

    Returns:
        Those with different answers; those with one answer, in several parts; those with one answer, in one part.
        Findings within reference folders, and questions about images that the source does not name, are excluded.
    """
    groups: dict[Hashable, list[tuple[Folder, Sample]]] = {}
    for folder in folders:
        for sample in folder.samples:
            if sample.unnamed_image:
                continue
            pictures = tuple(_picture(folder.path / name, name, prints) for name in sample.images)
            options = tuple(sorted(map(plain, sample.options)))
            groups.setdefault((pictures, plain(sample.question), options), []).append((folder, sample))
    repeated = [g for g in groups.values() if len(g) > 1 and not all(folder.reference for folder, _ in g)]
    questions = [_question(group) for group in repeated]
    return (
        Listed.of(question for question in questions if len(question.answers) > 1),
        Listed.of(q for q in questions if len(q.answers) == 1 and len(q.parts) > 1),
        Listed.of(q for q in questions if len(q.answers) == 1 and len(q.parts) == 1),
    )


def find_shared_subjects(folders: Sequence[Folder]) -> tuple[Listed[SharedSubject], set[tuple[str, str]]]:
    """Find subjects with samples in several parts, and volumes in several parts whatever the subject.

    If `info.json` of two folders has different names or sources, equal subject names count as different subjects.

    Returns:
        The subjects, and part and id of each of their samples.
    """
    samples = [(folder, sample) for folder in folders for sample in folder.samples]
    shared, touched = [], set()
    for positions in grouped([[(folder.source, tie) for tie in ties(sample)] for folder, sample in samples]):
        group = [samples[position] for position in positions]
        by_part = {folder.part_of(sample): (folder, sample) for folder, sample in reversed(group)}
        if len(by_part) > 1 and not all(folder.reference for folder, _ in group):
            touched |= {(folder.part_of(sample), sample.id) for folder, sample in group}
            places = tuple(_place(folder, sample) for folder, sample in reversed(by_part.values()))
            shared.append(SharedSubject(places=places, samples=len(group)))
    return Listed.of(shared), touched


def count_touched(
    folders: Sequence[Folder],
    prints: Mapping[Path, Fingerprint],
    near_parts: Mapping[str, set[str]],
    subjects: Collection[tuple[str, str]],
) -> tuple[Touched, ...]:
    """Count the questions of each part that share an image, a near-duplicate, or a subject with another part.

    Args:
        folders: Folders to search.
        prints: Fingerprints of the image files that can be shown. Images of a single color do not count as shared.
        near_parts: Parts with a near-duplicate, by the pixels of the image.
        subjects: Part and id of the samples whose subject is in several parts.

    Returns:
        The parts that have such questions.
    """
    pixels_by_sample = {}
    parts: dict[str, set[str]] = {}
    for folder in folders:
        for sample in folder.samples:
            files = [folder.path / name for name in sample.images]
            # All pictures of one color are equal: they are the same if they are one file.
            pixels = [str(file) if prints[file].blank else prints[file].pixels for file in files if file in prints]
            part = folder.part_of(sample)
            pixels_by_sample[part, sample.id] = pixels
            for picture in pixels:
                parts.setdefault(picture, set()).add(part)
    counts: dict[str, Counter[str]] = {}
    for (part, id), pixels in pixels_by_sample.items():
        kinds = {
            "picture": any(parts[picture] - {part} for picture in pixels),
            "near": any(near_parts.get(picture, set()) - {part} for picture in pixels),
            "subject": (part, id) in subjects,
        }
        counts.setdefault(part, Counter()).update(samples=1, any=int(any(kinds.values())), **kinds)
    return tuple(
        Touched(part=part, **{name: count[name] for name in ("samples", "any", "picture", "near", "subject")})
        for part, count in counts.items()
        if count["any"]
    )


def _picture(file: Path, name: str, prints: Mapping[Path, Fingerprint]) -> tuple[str, str]:
    return ("pixels", prints[file].pixels) if file in prints else ("name", name)


def _question(group: Sequence[tuple[Folder, Sample]]) -> Question:
    answers = {plain(sample.answer): sample.answer for _, sample in reversed(group)}
    return Question(
        places=Listed.of(_place(folder, sample) for folder, sample in group),
        parts=tuple(dict.fromkeys(folder.part_of(sample) for folder, sample in group)),
        question=group[0][1].question,
        answers=tuple(reversed(answers.values())),
    )


def _place(folder: Folder, sample: Sample) -> Place:
    return Place(folder.part_of(sample), sample.id, sample.images[0] if sample.images else "")
