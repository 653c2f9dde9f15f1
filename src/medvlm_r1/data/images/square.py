"""Pixels that are not square to square ones."""

import math
from pathlib import Path

from PIL import Image

from medvlm_r1.data.images.picture import check_pixels

_TOLERANCE = 0.01
_MOST = 20.0


def square_pixels(
    path: Path, image: Image.Image, height: float, width: float, *, smooth: bool = True
) -> tuple[Image.Image, float, tuple[str, ...]]:
    """Enlarge the coarser side of a picture until its pixels are square.

    Args:
        path: Named if the result would be too large.
        image: The picture.
        height: Of one pixel, in the unit of `width`.
        width: Of one pixel.
        smooth: Interpolate (bicubic); False repeats pixels, for masks.

    Returns:
        The picture; height over width where it was resampled (they differ by over 1 %), else 1; warnings.

    Raises:
        UserError: The result would have over `MAX_PIXELS` pixels.
    """
    usable = all(math.isfinite(side) and side > 0 for side in (height, width))
    ratio = height / width if usable else math.inf
    if not 1 / _MOST <= ratio <= _MOST:
        return image, 1.0, ("The stored pixel spacing is not plausible; pixels are shown as square.",)
    if abs(ratio - 1) <= _TOLERANCE:
        return image, 1.0, ()
    columns, rows = image.size
    size = (columns, round(rows * ratio)) if ratio > 1 else (round(columns / ratio), rows)
    check_pixels(path, *size, what="image with square pixels")
    filter_ = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return image.resize(size, filter_), ratio, ()
