"""Embedded images of one page, deduplicated and within a size budget.

Each image gets an equal share of `PAGE_BYTES`: its JPEG quality and its size are reduced until it fits. An image that
appears several times is written once and referenced.
"""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from medvlm_r1.data.images import load_image
from medvlm_r1.data.paths import inside
from medvlm_r1.errors import UserError

PAGE_BYTES = 16_000_000
"""Budget for all encoded images of a page. A page may have 25 MB in total; the rest is for the text."""
LONGEST_SIDE = 448
_LOSSLESS_SIDE = 256
"""Images up to this size in pixels are encoded without loss, so that no compression artifact looks like a finding."""
_STEPS = ((448, 90), (448, 80), (384, 80), (320, 80), (256, 80), (256, 70), (224, 65), (192, 60), (160, 50), (96, 40))
"""(longest side, JPEG quality), in order of preference."""


@dataclass(slots=True, eq=False)
class Picture:
    """An image as a data URI, with its size in pixels. `uses` is the number of times that it appears on the page."""

    name: str
    uri: str
    width: int
    height: int
    uses: int = 0


class Album:
    """Encodes the images of one page.

    Args:
        expected: Number of images that share the budget. More images are accepted, but exceed the budget.
    """

    def __init__(self, expected: int) -> None:
        self._most = PAGE_BYTES // max(expected, 1)
        self._files: dict[tuple[Path, int], Picture] = {}
        self._pictures: dict[str, Picture] = {}

    def picture(self, image: Image.Image, longest_side: int = LONGEST_SIDE) -> Picture:
        """Encode an in-memory RGB image. The given image is not modified."""
        uri, size = _encoded(image, longest_side, self._most)
        picture = self._pictures.setdefault(uri, Picture(f"picture-{len(self._pictures)}", uri, *size))
        picture.uses += 1
        return picture

    def find(self, folder: Path, image: str, longest_side: int = LONGEST_SIDE) -> Picture | None:
        """Encode an image of a data folder; None if it can no longer be read. Each file is read only once."""
        try:
            path = inside(folder, image)
            if picture := self._files.get((path, longest_side)):
                picture.uses += 1
            else:
                picture = self._files[path, longest_side] = self.picture(load_image(path), longest_side)
        except UserError:
            return None
        return picture

    @property
    def shared(self) -> list[Picture]:
        """Images that appear several times."""
        return [picture for picture in self._pictures.values() if picture.uses > 1]


def picture_uri(picture: Image.Image, longest_side: int = LONGEST_SIDE) -> str:
    """Encode an in-memory image as a data URI. The given image is not modified.

    Args:
        picture: An image in mode RGB.
        longest_side: Larger images are scaled down to this many pixels on the longer side.
    """
    return _encoded(picture, longest_side)[0]


def _encoded(picture: Image.Image, longest_side: int, most: float = math.inf) -> tuple[str, tuple[int, int]]:
    """Return the first encoding of at most `most` characters, or the last one, as a data URI, and its image size."""
    steps: list[tuple[int, int | None]] = [(longest_side, 90), *(step for step in _STEPS if step[0] <= longest_side)]
    if min(longest_side, max(picture.size)) <= _LOSSLESS_SIDE:
        steps.insert(0, (longest_side, None))
    for side, quality in dict.fromkeys(steps):
        image = picture.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        gray = image.convert("L")
        image = gray if gray.convert("RGB").tobytes() == image.tobytes() else image
        buffer = io.BytesIO()
        kind, options = ("jpeg", {"quality": quality}) if quality else ("png", {})
        image.save(buffer, kind, optimize=True, **options)
        uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(uri) <= most:
            break
    return uri, image.size
