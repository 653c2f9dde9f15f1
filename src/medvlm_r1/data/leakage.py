"""When two pictures are the same, or nearly: fingerprints, and the search for those that lie close.

The perceptual hash is imagehash's `phash`: the signs, against their median, of the 64 lowest frequencies of the
image reduced to 32 x 32 gray values. It survives changes of brightness, size and format, and a crop by one percent. It
ignores color and fine detail, so two different radiographs of one body part may agree. Mirrored copies are found by the
hashes of the mirrored image. Copies rotated by 90 degrees are not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

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

    Every pair is compared: 100,000 images take about a minute, much less than decoding them.

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
