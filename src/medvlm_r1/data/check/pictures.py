"""Image checks: open each image once, and find unreadable, identical and near-identical images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import nsmallest
from pathlib import Path

import numpy as np

from medvlm_r1.data.check.findings import LISTED, Copies, Listed, NearPair, Place, Sharing
from medvlm_r1.data.images import load_image
from medvlm_r1.data.leakage import FLIPS, Fingerprint, fingerprint, near_pairs
from medvlm_r1.data.paths import inside
from medvlm_r1.data.workers import work_on_images
from medvlm_r1.errors import UserError

Progress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One image file as one part uses it.

    Attributes:
        place: Part, first sample and name.
        file: The image file.
        subjects: Subjects of all samples of the part that show it.
    """

    place: Place
    file: Path
    subjects: set[tuple[str, ...]] = field(default_factory=set)


def examine(
    images: Iterable[tuple[Path, str]], progress: Progress = no_progress
) -> dict[Path, Fingerprint | str | None]:
    """Open each image once, on all cores if there are many.

    Args:
        images: Data folder and name of each image.
        progress: Called with "images", those done and those in all.

    Returns:
        For each file its fingerprint, the reason why it cannot be shown, or None if there is no file.

    Raises:
        UserError: A worker process was killed.
    """
    jobs = list(dict.fromkeys(images))
    results: dict[Path, Fingerprint | str | None] = {}

    def take(result: tuple[Path, Fingerprint | str | None]) -> None:
        results.update([result])
        progress("images", len(results), len(jobs))

    work_on_images(_examine, jobs, take)
    return results


def _examine(job: tuple[Path, str]) -> tuple[Path, Fingerprint | str | None]:
    folder, name = job
    file = folder / name
    try:
        return file, fingerprint(load_image(file)) if inside(folder, name).exists() else None
    except UserError as error:
        # Folder and file are the user's, and may name a patient; what is wrong with the image is the rest.
        return file, str(error).replace(f"{file}: ", "").replace(str(file), "the image")
    except OSError as error:
        return file, f"cannot be read ({error.strerror or error})"


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
    groups = [(prints[group[0].file], group) for group in pictures.values()]
    own = [(print_, group) for print_, group in groups if not all(references[use.place.part] for use in group)]
    copies = [
        Copies(places=Listed.of(use.place for use in group), parts=tuple(dict.fromkeys(u.place.part for u in group)))
        for print_, group in own
        if len(group) > 1 and not print_.blank
    ]
    hashed = [(print_, group) for print_, group in groups if print_.near is not None]
    parts = [{use.place.part for use in group} for _, group in hashed]
    subjects = [set().union(*(use.subjects for use in group)) for _, group in hashed]
    near_parts: list[set[str]] = [set() for _ in hashed]
    counts: Counter[str] = Counter()
    nearest: dict[str, list[tuple[int, int, int, int]]] = {"between": [], "subjects": [], "within": []}
    rows = [(print_.near, *print_.flipped) for print_, _ in hashed]
    hashes = np.array(rows, dtype=np.uint64).reshape(-1, 1 + len(FLIPS)).T.copy()
    for bits, a, b, flip in near_pairs(hashes, near, partial(progress, "near pairs")):
        near_parts[a] |= parts[b]
        near_parts[b] |= parts[a]
        both = parts[a] | parts[b]
        if all(references[part] for part in both):
            continue
        differ = len(subjects[a]) == len(subjects[b]) == 1 and subjects[a] != subjects[b]
        kind = "between" if len(both) > 1 else "subjects" if differ else "within"
        counts[kind] += 1
        nearest[kind].append((bits, a, b, flip))
        if len(nearest[kind]) > 10 * LISTED:
            nearest[kind] = nsmallest(LISTED, nearest[kind])

    def listed(kind: str) -> Listed[NearPair]:
        pairs = nsmallest(LISTED, nearest[kind])
        return Listed(counts[kind], tuple(_pair(hashed[a][1], hashed[b][1], bits, flip) for bits, a, b, flip in pairs))

    sharing = Sharing(
        blank=Listed.of(use.place for print_, group in own if print_.blank for use in group),
        faint=Listed.of(use.place for p, group in own if p.near is None and not p.blank for use in group),
        copies_between=Listed.of(group for group in copies if len(group.parts) > 1),
        copies_within=Listed.of(group for group in copies if len(group.parts) == 1),
        near_between=listed("between"),
        near_subjects=listed("subjects"),
        near_within=listed("within"),
    )
    return sharing, {print_.pixels: names for (print_, _), names in zip(hashed, near_parts, strict=True)}


def _pair(first: Sequence[Use], second: Sequence[Use], distance: int, flip: int) -> NearPair:
    """A near pair, located at two places in different parts if possible."""
    places = ((x.place, y.place) for x in first for y in second if x.place.part != y.place.part)
    a, b = next(places, (first[0].place, second[0].place))
    return NearPair(a=a, b=b, distance=distance, flip=("", *FLIPS)[flip])
