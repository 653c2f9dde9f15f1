"""Repeated questions, and subjects shared between parts."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path

from medvlm_r1.data.check.findings import Listed, Place, Question, SharedSubject, Touched
from medvlm_r1.data.check.rows import Folder
from medvlm_r1.data.leakage import Fingerprint
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.split import grouped, ties


def plain(text: str) -> str:
    """A text without what does not change its meaning: case, white space, width of letters, closing punctuation.

    Inner punctuation stays, as `1.5` is not `15`.
    """
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return words.rstrip(" .?!:") or words


def find_repeated(
    folders: Sequence[Folder], prints: Mapping[Path, Fingerprint]
) -> tuple[Listed[Question], Listed[Question], Listed[Question]]:
    """Find the questions asked several times about the same pictures with the same options in any order.

    Args:
        folders: To look through.
        prints: Of the image files that can be shown; one that cannot is known by its name.

    Returns:
        Those with different answers; those with one answer, in several parts; those with one answer, in one part.
        What lies within reference folders alone is left out, and questions about images that the source does not name.
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
    """Find the subjects with samples in several parts, and the volumes, whatever subject each sample names.

    Folders whose `info.json` gives another name or source are taken to name other subjects by the same word.

    Returns:
        The subjects, and part and id of every sample of theirs.
    """
    samples = [(folder, sample) for folder in folders for sample in folder.samples]
    found, touched = [], set()
    for positions in grouped([[(folder.source, tie) for tie in ties(sample)] for folder, sample in samples]):
        group = [samples[position] for position in positions]
        by_part = {folder.part_of(sample): (folder, sample) for folder, sample in reversed(group)}
        if len(by_part) > 1 and not all(folder.reference for folder, _ in group):
            touched |= {(folder.part_of(sample), sample.id) for folder, sample in group}
            places = tuple(_place(folder, sample) for folder, sample in reversed(by_part.values()))
            found.append(SharedSubject(places=places, samples=len(group)))
    return Listed.of(found), touched


def count_touched(
    folders: Sequence[Folder],
    prints: Mapping[Path, Fingerprint],
    near_parts: Mapping[str, set[str]],
    subjects: Collection[tuple[str, str]],
) -> tuple[Touched, ...]:
    """Count the questions of each part that share a picture, nearly a picture, or a subject with another part.

    Args:
        folders: To look through.
        prints: Of the image files that can be shown; pictures of one colour all over are not counted as shared.
        near_parts: Parts with a picture near to that of these pixels.
        subjects: Part and id of the samples whose subject is in several parts.

    Returns:
        The parts that have such questions.
    """
    shown = {}
    parts: dict[str, set[str]] = {}
    for folder in folders:
        for sample in folder.samples:
            files = [folder.path / name for name in sample.images]
            # All pictures of one colour are equal: they are the same if they are one file.
            pixels = [str(file) if prints[file].blank else prints[file].pixels for file in files if file in prints]
            part = folder.part_of(sample)
            shown[part, sample.id] = pixels
            for picture in pixels:
                parts.setdefault(picture, set()).add(part)
    counts: dict[str, Counter[str]] = {}
    for (part, id), pixels in shown.items():
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
