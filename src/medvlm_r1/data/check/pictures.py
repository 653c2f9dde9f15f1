"""Image checks: open each image once, and find unreadable, identical and near-identical images.

The perceptual hash is imagehash's `phash`: the signs, against their median, of the 64 lowest frequencies of the
image reduced to 32 x 32 gray values. It survives changes of brightness, size and format, and a crop by one percent. It
ignores color and fine detail, so two different radiographs of one body part may agree. Mirrored copies are found by the
hashes of the mirrored image. Copies rotated by 90 degrees are not found.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""Even of random hashes one pair in about 25,000 differs in 16 of 64 bits or fewer; beyond, the share soars."""

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
    """Fingerprint of an image, to find identical and near-duplicate images.

    Attributes:
        pixels: SHA-256 of size and RGB values, hexadecimal. It does not depend on the file format.
        near: 64-bit perceptual hash; None for an image with too little contrast (reduced to 32 x 32, it spans fewer
            than 4 of 255 gray levels).
        flipped: Hash of the image after each of `FLIPS`; empty without `near`.
        blank: Whether all pixels are equal.
        size: Width and height.
    """

    pixels: str
    near: int | None
    blank: bool
    size: tuple[int, int]
    flipped: tuple[int, ...] = ()


def fingerprint(image: Image.Image) -> Fingerprint:
    """Fingerprint of one picture.

    Args:
        image: RGB, 8 bit.
    """
    digest = hashlib.sha256(f"{image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    # What phash does first itself, and then finds done.
    small = image.convert("L").resize((_REDUCED, _REDUCED), Image.Resampling.LANCZOS)
    darkest, brightest = np.asarray(small).min(), np.asarray(small).max()
    near: int | None = None
    flipped: tuple[int, ...] = ()
    if int(brightest) - int(darkest) >= _LEAST_CONTRAST:
        near = _phash(small)
        flipped = tuple(_phash(small.transpose(flip)) for flip in FLIPS.values())
    return Fingerprint(digest.hexdigest(), near, image.getcolors(1) is not None, image.size, flipped)


def _phash(image: Image.Image) -> int:
    return int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes())


def near_pairs(
    hashes: Hashes, distance: int, progress: Callable[[int, int], None]
) -> Iterator[tuple[int, int, int, int]]:
    """Find the pairs of images that are near-duplicates, as they are or after flipping the second one.

    Every pair is compared: 40,000 images take 12 seconds on one core, much less than decoding them.

    Args:
        hashes: uint64 array (1 + flips, n): in row 0 the hashes of the images, below those of the flipped images.
        distance: Maximum number of bits in which near-duplicates differ.
        progress: Called with (images done, images in all).

    Yields:
        Distance in bits, positions of both images (the first is smaller), and the row of the second one's hash: the
        first row in which the two are near.
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
    """Open each image once, on all cores if there are enough images.

    Args:
        images: Data folder and name of each image.
        progress: Called with "images", the number of images done and the total.

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
