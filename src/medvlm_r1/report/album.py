"""Embedded images of one page, deduplicated and within a size budget.

Each image gets an equal share of `PAGE_BYTES`: it is reduced in size first and then in quality until it fits. An image
that appears several times is written once and referenced.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from medvlm_r1.console import progress_bar
from medvlm_r1.data.images import load_image
from medvlm_r1.data.paths import inside
from medvlm_r1.errors import UserError

PAGE_BYTES = 16_000_000
"""Budget for all encoded images of a page; the rest of 25 MB is for the text."""
LONGEST_SIDE = 448
_LOSSLESS_SIDE = 256
"""Up to this size images are lossless, so that no compression artifact looks like a finding."""
_STEPS = ((448, 90), (448, 80), (384, 80), (320, 80), (256, 80), (256, 70), (224, 65), (192, 60), (160, 50), (96, 40))
"""(longest side, JPEG quality), in order of preference."""
_SLOW = 100
"""Number of items from which progress is shown."""


@dataclass(slots=True, eq=False)
class Picture:
    """An image as data URI with its size in pixels; `uses` counts its occurrences."""

    name: str
    uri: str
    width: int
    height: int
    uses: int = 0


class Album:
    """Encodes the images of one page.

    Args:
        expected: Maximum number of images. More are accepted, and the page grows.
    """

    def __init__(self, expected: int) -> None:
        self._most = PAGE_BYTES // max(expected, 1)
        self._files: dict[tuple[Path, int], Picture] = {}
        self._pictures: dict[str, Picture] = {}

    def file(self, path: Path, longest_side: int = LONGEST_SIDE) -> Picture:
        """Encode the image of a file; the file is read once.

        Raises:
            UserError: The file is not a readable image.
        """
        picture = self._files.get((path, longest_side))
        if picture is None:
            picture = self._files[path, longest_side] = self.picture(load_image(path), longest_side)
        else:
            picture.uses += 1
        return picture

    def picture(self, image: Image.Image, longest_side: int = LONGEST_SIDE) -> Picture:
        """Encode an image in memory (mode RGB) without changing it."""
        uri, (width, height) = _fitted(image, longest_side, self._most)
        name = f"picture-{len(self._pictures)}"
        picture = self._pictures.setdefault(uri, Picture(name=name, uri=uri, width=width, height=height))
        picture.uses += 1
        return picture

    def find(self, folder: Path, image: str, longest_side: int = LONGEST_SIDE) -> Picture | None:
        """Encode an image of a data folder; None if it can no longer be read."""
        try:
            return self.file(inside(folder, image), longest_side)
        except UserError:
            return None

    @property
    def shared(self) -> list[Picture]:
        """Images that appear several times."""
        return [picture for picture in self._pictures.values() if picture.uses > 1]


def picture_uri(picture: Image.Image, longest_side: int = LONGEST_SIDE) -> str:
    """Encode an image in memory as data URI, without changing it.

    Args:
        picture: Mode RGB.
        longest_side: Larger images are scaled down to this many pixels on the longer side.
    """
    return _fitted(picture, longest_side, None)[0]


def each_with_progress(ids: Sequence[str]) -> Iterator[str]:
    """Yield the ids, with a progress bar if there are many."""
    if len(ids) < _SLOW:
        yield from ids
        return
    with progress_bar("Items of the report") as advance:
        for done, name in enumerate(ids, start=1):
            yield name
            advance(done, len(ids))


def _fitted(picture: Image.Image, longest_side: int, most: int | None) -> tuple[str, tuple[int, int]]:
    """Return the first encoding with at most `most` characters (or the smallest), and its width and height."""
    steps: list[tuple[int, int | None]] = [(longest_side, 90)]
    steps += [step for step in _STEPS if step[0] <= longest_side and step != steps[0]]
    if min(longest_side, max(picture.size)) <= _LOSSLESS_SIDE:
        steps.insert(0, (longest_side, None))
    uri, image, current = "", picture, 0
    for side, quality in steps:
        if side != current:
            image, current = _shrunk(picture, side), side
        uri = _encoded(image, quality)
        if most is None or len(uri) <= most:
            break
    return uri, image.size


def _shrunk(picture: Image.Image, longest_side: int) -> Image.Image:
    """Return a smaller copy, in grayscale if the image has no color."""
    image = picture.copy()
    image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    gray = image.convert("L")
    return gray if gray.convert("RGB").tobytes() == image.tobytes() else image


def _encoded(image: Image.Image, quality: int | None) -> str:
    """Return a data URI: JPEG of that quality, or PNG if None."""
    buffer = io.BytesIO()
    kind, options = ("png", {}) if quality is None else ("jpeg", {"quality": quality})
    image.save(buffer, kind, optimize=True, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
