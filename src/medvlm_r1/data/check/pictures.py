"""Image checks: open each image once, and find unreadable, identical and near-identical images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medvlm_r1.data.check.findings import LISTED, Copies, Listed, NearPair, Place, Sharing
from medvlm_r1.data.check.questions import Folder
from medvlm_r1.data.images import load_image
from medvlm_r1.data.leakage import FLIPS, Fingerprint, Indices, fingerprint, flipped_pairs, near_pairs
from medvlm_r1.data.paths import inside
from medvlm_r1.data.workers import work_on_images
from medvlm_r1.errors import UserError

MOST_PARTS = 63
"""Parts are the bits of one integer."""

Progress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One image file as one part uses it.

    Attributes:
        place: Part, first sample and name.
        folder: The data folder.
        subjects: Subjects of all samples of the part that show it.
    """

    place: Place
    folder: Path
    subjects: set[tuple[str, ...]] = field(default_factory=set)

    @property
    def file(self) -> Path:
        """The image file."""
        return self.folder / self.place.image


def list_uses(folder: Folder) -> list[Use]:
    """Every image of a folder, once for each part that uses it, in order of appearance."""
    uses: dict[tuple[str, str], Use] = {}
    for sample in folder.samples:
        part = folder.part_of(sample)
        for number, name in enumerate(sample.images, start=1):
            place = Place(part, sample.id, name, number if len(sample.images) > 1 else 0)
            use = uses.setdefault((part, name), Use(place=place, folder=folder.path))
            if sample.subject:
                use.subjects.add((*folder.source, sample.subject))
    return list(uses.values())


def examine(folders: Sequence[Folder], progress: Progress = no_progress) -> dict[Path, Fingerprint | str | None]:
    """Open each image once, on all cores where there are many.

    Args:
        folders: Data folders.
        progress: Called with "images", those done and those in all.

    Returns:
        For each file its fingerprint, the reason why it cannot be shown, or None where there is no file.

    Raises:
        UserError: A worker process was killed.
    """
    files = list(dict.fromkeys((f.path, name) for f in folders for sample in f.samples for name in sample.images))
    results: list[Fingerprint | str | None] = []

    def take(result: Fingerprint | str | None) -> None:
        results.append(result)
        progress("images", len(results), len(files))

    work_on_images(_examine, files, take)
    return {folder / name: result for (folder, name), result in zip(files, results, strict=True)}


def _examine(job: tuple[Path, str]) -> Fingerprint | str | None:
    folder, name = job
    file = folder / name
    try:
        if not inside(folder, name).exists():
            return None
        return fingerprint(load_image(file))
    except UserError as error:
        # Folder and file are the user's, and may name a patient; what is wrong with the image is the rest.
        return str(error).replace(f"{file}: ", "").replace(str(file), "the image")
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def compare(
    uses: Sequence[Use],
    prints: Mapping[Path, Fingerprint],
    references: Mapping[str, bool],
    *,
    near: int,
    progress: Progress,
) -> tuple[Sharing, dict[str, set[str]]]:
    """Find identical images, and near-duplicate pairs, also after flipping one of them.

    Args:
        uses: Every image file of every part.
        prints: Fingerprints of the files that can be shown.
        references: Name of each part, and whether it is for comparison only.
        near: Maximum number of bits in which near-duplicates differ.
        progress: Called with "near pairs", the steps done and the steps in all.

    Returns:
        The shared images, and for each image (by its pixels) the parts with a near-duplicate of it. Copies count
        images, and near pairs count pairs of different images, regardless of the number of files. Findings within
        reference parts are excluded.
    """
    pictures: dict[str, list[Use]] = {}
    for use in uses:
        if use.file in prints:
            pictures.setdefault(prints[use.file].pixels, []).append(use)
    first_prints = {key: prints[group[0].file] for key, group in pictures.items()}
    own = {key: any(not references[use.place.part] for use in group) for key, group in pictures.items()}
    plain = [use.place for key, group in pictures.items() if first_prints[key].blank and own[key] for use in group]
    faint = [key for key, print_ in first_prints.items() if print_.near is None and not print_.blank and own[key]]
    copies = [
        Copies(places=Listed.of(use.place for use in group), parts=tuple(dict.fromkeys(u.place.part for u in group)))
        for key, group in pictures.items()
        if len(group) > 1 and own[key] and not first_prints[key].blank
    ]
    hashed = [group for key, group in pictures.items() if first_prints[key].near is not None]
    pairs = _Pairs(hashed, references)
    first = [prints[group[0].file] for group in hashed]
    hashes = [np.array([print_.near for print_ in first], dtype=np.uint64)]
    hashes += [np.array([print_.flipped[flip] for print_ in first], dtype=np.uint64) for flip in range(len(FLIPS))]
    for number, flipped in enumerate(hashes):

        def report(done: int, total: int, number: int = number) -> None:
            progress("near pairs", number * total + done, len(hashes) * total)

        if number:
            blocks = flipped_pairs(hashes[0], flipped, hashes[:number], near, report)
        else:
            blocks = near_pairs(hashes[0], near, report)
        for a, b, bits in blocks:
            pairs.add(a, b, bits.astype(np.int64), number)
    sharing = Sharing(
        blank=Listed.of(plain),
        faint=Listed.of(use.place for key in faint for use in pictures[key]),
        copies_between=Listed.of(group for group in copies if len(group.parts) > 1),
        copies_within=Listed.of(group for group in copies if len(group.parts) == 1),
        near_between=pairs.listed("between"),
        near_subjects=pairs.listed("subjects"),
        near_within=pairs.listed("within"),
    )
    return sharing, {
        prints[group[0].file].pixels: parts for group, parts in zip(hashed, pairs.near_parts(), strict=True)
    }


class _Pairs:
    """Counts the near pairs by what they join, and keeps the nearest of each kind."""

    _KINDS = ("between", "subjects", "within")

    def __init__(self, pictures: Sequence[Sequence[Use]], references: Mapping[str, bool]) -> None:
        self._pictures = pictures
        bits = {name: 1 << number for number, name in enumerate(references)}
        self._parts = np.array([sum({bits[u.place.part] for u in group}) for group in pictures], dtype=np.uint64)
        self._near_parts = np.zeros(len(pictures), dtype=np.uint64)
        self._names = list(references)
        self._reference = np.uint64(sum(bits[name] for name, reference in references.items() if reference))
        numbers: dict[tuple[str, ...], int] = {}
        self._subject = np.array([self._number(group, numbers) for group in pictures], dtype=np.int64)
        self._count = dict.fromkeys(self._KINDS, 0)
        self._nearest = {kind: np.empty((0, 4), dtype=np.int64) for kind in self._KINDS}

    @staticmethod
    def _number(group: Sequence[Use], numbers: dict[tuple[str, ...], int]) -> int:
        """Of the one subject of a picture; -1 where it is unknown or there are several."""
        subjects = set().union(*(use.subjects for use in group))
        return numbers.setdefault(subjects.pop(), len(numbers)) if len(subjects) == 1 else -1

    def add(self, a: Indices, b: Indices, bits: Indices, flip: int) -> None:
        for first, second in ((a, b), (b, a)):
            np.bitwise_or.at(self._near_parts, first, self._parts[second])
        parts = self._parts[a] | self._parts[b]
        own = (parts & ~self._reference) != 0
        between = np.bitwise_count(parts) > 1
        first, second = self._subject[a], self._subject[b]
        differ = (first != second) & (first >= 0) & (second >= 0)
        rows = np.stack([bits, a, b, np.full_like(a, flip)], axis=1)
        for kind, chosen in zip(self._KINDS, (between, ~between & differ, ~between & ~differ), strict=True):
            chosen_rows = rows[own & chosen]
            self._count[kind] += len(chosen_rows)
            nearest = np.concatenate([self._nearest[kind], chosen_rows])
            self._nearest[kind] = nearest[np.lexsort(nearest.T[::-1])][:LISTED]

    def listed(self, kind: str) -> Listed[NearPair]:
        return Listed(self._count[kind], tuple(self._pair(*row) for row in self._nearest[kind].tolist()))

    def near_parts(self) -> list[set[str]]:
        """For each picture the parts that hold one near to it."""
        masks = self._near_parts.tolist()
        return [{name for number, name in enumerate(self._names) if mask >> number & 1} for mask in masks]

    def _pair(self, distance: int, a: int, b: int, flip: int) -> NearPair:
        """Shown by two places in different parts, where there are such."""
        first, second = self._pictures[a], self._pictures[b]
        left, right = next(
            ((x, y) for x in first for y in second if x.place.part != y.place.part), (first[0], second[0])
        )
        return NearPair(a=left.place, b=right.place, distance=distance, flip=("", *FLIPS)[flip])
