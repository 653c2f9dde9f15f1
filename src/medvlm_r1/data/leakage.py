"""When two pictures are the same, or nearly: fingerprints, and the search for those that lie close.

The perceptual hash is imagehash's `phash`: the signs, against their median, of the 64 lowest frequencies of the
image reduced to 32 x 32 gray values. It survives changes of brightness, size and format, and a crop by one percent. It
ignores color and fine detail, so two different radiographs of one body part may agree. Mirrored copies are found by the
hashes of the mirrored image. Copies rotated by 90 degrees are not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from medvlm_r1.errors import UsageError

MOST_DISTANCE = 16
"""Even of random hashes one pair in about 25,000 differs in 16 of 64 bits or fewer; beyond, the share soars."""

FLIPS = {
    "mirrored left to right": Image.Transpose.FLIP_LEFT_RIGHT,
    "mirrored top to bottom": Image.Transpose.FLIP_TOP_BOTTOM,
    "turned by 180 degrees": Image.Transpose.ROTATE_180,
}

_REDUCED = 32
_LEAST_CONTRAST = 4
_BITS = 64

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Distances = npt.NDArray[np.uint8]


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
    hashes: Hashes, distance: int, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Indices, Indices, Distances]]:
    """Find all pairs of hashes that differ in few bits, without comparing every pair.

    The 64 bits are cut into `distance + 1` pieces. Hashes that differ in at most `distance` bits agree in at least one
    piece, so only hashes that agree in a piece are compared.

    Args:
        hashes: uint64 array (n,).
        distance: Maximum number of bits in which a pair may differ, 0 to 16.
        progress: Called with (pieces done, pieces in all).

    Yields:
        Blocks of pairs, each pair once and in one block: positions a, positions b (a < b), and their distances.

    Raises:
        UsageError: The distance is not in 0 to 16.
    """
    if not 0 <= distance <= MOST_DISTANCE:
        raise UsageError(
            f"a distance of {distance} bits; wanted 0 to {MOST_DISTANCE}: beyond, unrelated images look near"
        )
    masks = _pieces(distance + 1)
    for number, mask in enumerate(masks):
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        first, step = np.arange(len(hashes) - 1), 1
        # Equal keys stand in a row, lower positions first: compare each with its next, then with the one after, as
        # long as the keys agree.
        while (first := first[keys[first] == keys[first + step]]).size:
            a, b = order[first], order[first + step]
            difference = hashes[a] ^ hashes[b]
            bits = np.bitwise_count(difference)
            close = bits <= distance
            # A pair that agrees in an earlier piece was found there.
            for earlier in masks[:number]:
                close &= (difference & earlier) != 0
            if close.any():
                yield a[close], b[close], bits[close]
            step += 1
            first = first[first < len(hashes) - step]
        if progress is not None:
            progress(number + 1, len(masks))


def flipped_pairs(
    hashes: Hashes,
    flipped: Hashes,
    known: Sequence[Hashes],
    distance: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Indices, Indices, Distances]]:
    """Find the pairs of different images that are near-duplicates after flipping the second one.

    Args:
        hashes: uint64 array (n,).
        flipped: Hashes of the flipped images, in the same order.
        known: Further hashes of the images, such as those of another flip. Pairs that are near by one of these are
            excluded.
        distance: As for `near_pairs`.
        progress: As for `near_pairs`.

    Yields:
        As `near_pairs`.
    """
    n = len(hashes)
    for a, b, bits in near_pairs(np.concatenate([hashes, flipped]), distance, progress):
        chosen = (a < n) & (b - n > a)
        a, b, bits = a[chosen], b[chosen] - n, bits[chosen]
        new = np.ones(len(a), dtype=bool)
        for others in known:
            new &= np.bitwise_count(hashes[a] ^ others[b]) > distance
        yield a[new], b[new], bits[new]


def _pieces(count: int) -> list[np.uint64]:
    edges = [_BITS * i // count for i in range(count + 1)]
    return [np.uint64((1 << high) - (1 << low)) for low, high in pairwise(edges)]
