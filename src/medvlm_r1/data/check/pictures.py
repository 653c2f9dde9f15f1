"""Image checks: open each image once, and find unreadable, identical and near-duplicate images.

The perceptual hash is imagehash's `phash`. It reduces the image to 32 x 32 gray values, and stores for each of the 64
lowest frequencies whether it is above their median. The hash tolerates changes of brightness, size and format, and a
crop by one percent. It ignores color and fine detail, so different radiographs of the same body part may have equal
hashes. Mirrored copies are found by also hashing the flipped images. Copies rotated by 90 degrees are not found.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import nsmallest
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from medvlm_r1.data.check.findings import LISTED, Copies, Listed, NearPair, Place, Sharing
from medvlm_r1.data.images import load_image
from medvlm_r1.data.paths import inside
from medvlm_r1.data.workers import work_on_images
from medvlm_r1.errors import UserError

MOST_DISTANCE = 16
"""Largest accepted value for the maximum hash distance of near-duplicates, in bits.

About one in 25,000 pairs of random hashes differs in at most 16 of 64 bits. With a larger limit, many unrelated images
would match.
"""

FLIPS = {
    "mirrored left to right": Image.Transpose.FLIP_LEFT_RIGHT,
    "mirrored top to bottom": Image.Transpose.FLIP_TOP_BOTTOM,
    "turned by 180 degrees": Image.Transpose.ROTATE_180,
}

_REDUCED = 32
_LEAST_CONTRAST = 4

Hashes = npt.NDArray[np.uint64]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Fingerprint of an image, used to find identical and near-duplicate images.

    Attributes:
        pixels: SHA-256 of the size and the RGB values, in hexadecimal. It does not depend on the file format.
        hashes: 64-bit perceptual hashes of the image, and of the image after each transformation in `FLIPS`. Empty if
            the image has too little contrast: reduced to 32 x 32 pixels, it spans fewer than 4 of 255 gray levels.
        blank: Whether all pixels are equal.
        size: Width and height in pixels.
    """

    pixels: str
    hashes: tuple[int, ...]
    blank: bool
    size: tuple[int, int]


def fingerprint(image: Image.Image) -> Fingerprint:
    """Compute the fingerprint of an image in mode RGB."""
    digest = hashlib.sha256(f"{image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    # phash would otherwise do this conversion for each flip.
    small = image.convert("L").resize((_REDUCED, _REDUCED), Image.Resampling.LANCZOS)
    views = (small, *map(small.transpose, FLIPS.values())) if np.ptp(np.asarray(small)) >= _LEAST_CONTRAST else ()
    return Fingerprint(digest.hexdigest(), tuple(map(_phash, views)), image.getcolors(1) is not None, image.size)


def _phash(image: Image.Image) -> int:
    return int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes())


def near_pairs(
    hashes: Hashes, distance: int, progress: Callable[[int, int], None]
) -> Iterator[tuple[int, int, int, int]]:
    """Find the pairs of images that are near-duplicates, either unchanged or with the second image flipped.

    Every pair is compared. For 40,000 images this takes 12 seconds on one core, much less than decoding them.

    Args:
        hashes: uint64 array of shape (1 + number of flips, number of images). Row 0 holds the hashes of the unchanged
            images, and each further row those of the images after one flip.
        distance: Maximum number of bits in which the hashes of near-duplicates differ.
        progress: Called with (images done, total number of images).

    Yields:
        The distance in bits, the indices of both images in ascending order, and the row of the second image's hash. If
        several rows are near-duplicates, the first such row is given.
    """
    count = hashes.shape[1]
    for first in range(count):
        bits = np.bitwise_count(hashes[:, first + 1 :] ^ hashes[0, first])
        near = bits <= distance
        for offset in np.flatnonzero(near.any(axis=0)).tolist():
            flip = int(near[:, offset].argmax())
            yield int(bits[flip, offset]), first, first + 1 + offset, flip
        progress(first + 1, count)


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore progress reports. This is the default callback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One image file as used by one part.

    Attributes:
        place: The part, its first sample with the image, and the path of the image.
        file: The image file.
        subjects: Subjects of all samples in the part that use the image.
    """

    place: Place
    file: Path
    subjects: set[tuple[str, ...]] = field(default_factory=set)


def examine(
    images: Iterable[tuple[Path, str]], progress: Progress = no_progress
) -> dict[Path, Fingerprint | str | None]:
    """Open each image once and compute its fingerprint. Many images are processed in parallel.

    Args:
        images: Data folder and relative path of each image.
        progress: Called with "images", the number of images done and the total.

    Returns:
        For each file, its fingerprint, the reason why it cannot be displayed, or None if the file does not exist.

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
        # The path may name a patient, so only the rest of the message is kept.
        return file, str(error).replace(f"{file}: ", "").replace(str(file), "the image")
    except OSError as error:
        return file, f"cannot be read ({error.strerror or error})"


def compare(
    uses: Sequence[Use], prints: Mapping[Path, Fingerprint], checked: Collection[str], *, near: int, progress: Progress
) -> tuple[Sharing, dict[str, set[str]]]:
    """Find identical images, and pairs of near-duplicates with or without flipping one of them.

    Args:
        uses: Every image file of every part.
        prints: Fingerprints of the files that can be displayed.
        checked: Names of the parts that are not used for comparison only.
        near: Maximum number of bits in which the hashes of near-duplicates differ.
        progress: Called with "near pairs", the number of images done and the total.

    Returns:
        The identical and near-duplicate images; and for each image, identified by the hash of its pixels, the names of
        the parts that contain a near-duplicate of it. Identical files count as one image, and near-duplicates are
        counted as pairs of different images. Findings outside the checked parts are excluded.
    """
    pictures: dict[str, list[Use]] = {}
    for use in uses:
        if use.file in prints:
            pictures.setdefault(prints[use.file].pixels, []).append(use)
    groups = [(prints[group[0].file], group) for group in pictures.values()]
    own = [(print_, group) for print_, group in groups if any(use.place.part in checked for use in group)]
    copies = [
        Copies(places=Listed.of([use.place for use in group]), parts=tuple(dict.fromkeys(u.place.part for u in group)))
        for print_, group in own
        if len(group) > 1 and not print_.blank
    ]
    hashed = [(print_, group) for print_, group in groups if print_.hashes]
    parts = [{use.place.part for use in group} for _, group in hashed]
    subjects = [set().union(*(use.subjects for use in group)) for _, group in hashed]
    near_parts: list[set[str]] = [set() for _ in hashed]
    counts: Counter[str] = Counter()
    nearest: dict[str, list[tuple[int, int, int, int]]] = {"near_between": [], "near_subjects": [], "near_within": []}
    hashes = np.array([print_.hashes for print_, _ in hashed], dtype=np.uint64).reshape(-1, 1 + len(FLIPS)).T.copy()
    for bits, a, b, flip in near_pairs(hashes, near, partial(progress, "near pairs")):
        near_parts[a] |= parts[b]
        near_parts[b] |= parts[a]
        both = parts[a] | parts[b]
        if both.isdisjoint(checked):
            continue
        differ = len(subjects[a]) == len(subjects[b]) == 1 and subjects[a] != subjects[b]
        kind = "near_between" if len(both) > 1 else "near_subjects" if differ else "near_within"
        counts[kind] += 1
        nearest[kind].append((bits, a, b, flip))
        if len(nearest[kind]) > 10 * LISTED:
            nearest[kind] = nsmallest(LISTED, nearest[kind])
    near_duplicates = {
        kind: Listed(counts[kind], tuple(_pair(hashed, *pair) for pair in nsmallest(LISTED, pairs)))
        for kind, pairs in nearest.items()
    }
    sharing = Sharing(
        blank=Listed.of([use.place for print_, group in own if print_.blank for use in group]),
        faint=Listed.of([use.place for p, group in own if not p.hashes and not p.blank for use in group]),
        copies_between=Listed.of([group for group in copies if len(group.parts) > 1]),
        copies_within=Listed.of([group for group in copies if len(group.parts) == 1]),
        **near_duplicates,
    )
    return sharing, {print_.pixels: names for (print_, _), names in zip(hashed, near_parts, strict=True)}


def _pair(images: Sequence[tuple[Fingerprint, list[Use]]], distance: int, a: int, b: int, flip: int) -> NearPair:
    """Make a pair of near-duplicates, located in different parts if possible."""
    (_, first), (_, second) = images[a], images[b]
    places = ((x.place, y.place) for x in first for y in second if x.place.part != y.place.part)
    place_a, place_b = next(places, (first[0].place, second[0].place))
    return NearPair(a=place_a, b=place_b, distance=distance, flip=("", *FLIPS)[flip])
