"""Windowing and isotropic resampling, as pure functions."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing
from pydicom.valuerep import DSfloat

from medvlm_r1.data.images.picture import Window, check_pixels
from medvlm_r1.errors import UsageError, UserError

_TOLERANCE = 0.01
_MOST = 20.0


def isotropic_resample(
    path: Path, image: Image.Image, height: float, width: float, *, smooth: bool = True
) -> tuple[Image.Image, float, tuple[str, ...]]:
    """Resample an image to isotropic (square) pixels by enlarging its coarser side.

    Args:
        path: File named in error messages.
        image: The image.
        height: Height of a stored pixel, in the same unit as `width`.
        width: Width of a stored pixel.
        smooth: Whether to interpolate (bicubic). False repeats pixels, for masks.

    Returns:
        The image, the pixel height divided by the pixel width, and warnings. If the sides differ by at most 1 % or are
        implausible, the image is unchanged and the ratio is 1.

    Raises:
        UserError: The result would have more than `MAX_PIXELS` pixels.
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


Array = npt.NDArray[Any]
_CHUNK = 2**22


@dataclass(frozen=True, slots=True)
class UniqueValues:
    """The unique values of an image. `values[index]` restores the image.

    Attributes:
        values: Values in ascending order, shape (n,), int64 or float64. For integers of 8 or 16 bits, every integer
            between the smallest and the largest value.
        counts: Number of pixels with each value, shape (n,).
        index: Index of each pixel's value in `values`; shape of the image.
    """

    values: Array
    counts: Array
    index: Array


def unique_values(pixels: Array) -> UniqueValues:
    """Find the unique values of an image, their counts and the index of each pixel.

    The DICOM pipeline then maps at most 65,536 values of a 16-bit mammogram, instead of several pixel arrays of 240 MB.

    Args:
        pixels: Real numbers, any shape, not empty.
    """
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
        low, high = int(pixels.min()), int(pixels.max())
        index = np.subtract(pixels, low, dtype=np.int32).astype(np.uint16)
        counts = np.zeros(high - low + 1, dtype=np.int64)
        flat = index.reshape(-1)
        # bincount converts its input to int64. Without chunks, an image of 100 megapixels would need 800 MB more.
        for start in range(0, flat.size, _CHUNK):
            counts += np.bincount(flat[start : start + _CHUNK], minlength=counts.size)
        return UniqueValues(values=np.arange(low, high + 1, dtype=np.int64), counts=counts, index=index)
    wide = pixels.astype(np.float64 if pixels.dtype.kind == "f" else np.int64, copy=False)
    values, places, counts = np.unique(wide, return_inverse=True, return_counts=True)
    return UniqueValues(values=values, counts=counts, index=places.reshape(pixels.shape))


HOUNSFIELD = "HU"
PRESETS = {
    **{"brain": (40.0, 80.0), "subdural": (80.0, 200.0), "lung": (-600.0, 1500.0)},
    **{"soft-tissue": (40.0, 400.0), "bone": (400.0, 1800.0)},
}
PERCENTILES = (1.0, 99.0)
_OTHERS = ("percentile", "full", "stored")


def parse_window(text: str) -> str | tuple[float, float]:
    """Parse a window as a user writes it.

    Args:
        text: The name of a preset, percentile, full, stored, or CENTER/WIDTH.

    Returns:
        The name, or (center, width).

    Raises:
        UsageError: The text is none of these, or the width is below 1, the minimum of a linear window in DICOM.
    """
    if text in PRESETS or text in _OTHERS:
        return text
    centre, _, width = text.partition("/")
    try:
        numbers = float(centre), float(width)
    except ValueError:
        names = ", ".join([*PRESETS, *_OTHERS])
        raise UsageError(f"window {text!r}; wanted one of {names}, or CENTER/WIDTH such as 40/400") from None
    if not all(map(math.isfinite, numbers)) or numbers[1] < 1:
        raise UsageError(f"window {text!r}; wanted finite numbers and a width of 1 or more")
    return numbers


def preset(name: str, why: str = "") -> Window:
    """Make one of the windows in `PRESETS`, with the reason for using it."""
    centre, width = PRESETS[name]
    source = f"preset: {why}" if why else "preset"
    return Window(name=name, centre=centre, width=width, unit=HOUNSFIELD, source=source, function="LINEAR")


def percentile_window(values: Array, counts: Array, unit: str) -> Window:
    """Window from the 1st to the 99th percentile of the pixel values.

    Percentiles are always values of the image (inverted distribution function). If the two are equal, as in a nearly
    empty mask, the smallest and largest values are used.

    Args:
        values: Finite values, shape (n,).
        counts: Number of pixels with each value, shape (n,); at least one pixel in total.
        unit: Unit of the values.
    """
    order = np.argsort(values, kind="stable")
    ranks = np.cumsum(counts[order])
    wanted = np.ceil(np.asarray(PERCENTILES) / 100 * ranks[-1])
    low, high = (float(values[order[index]]) for index in np.searchsorted(ranks, wanted))
    if low == high:
        present = values[counts > 0]
        return Window.full(float(present.min()), float(present.max()), unit, "the percentiles 1 and 99 are equal")
    return Window.between("percentile", low, high, unit, "percentile: 1 to 99")


def choose_window(
    path: Path,
    requested: str | None,
    values: Array,
    counts: Array,
    *,
    unit: str,
    stored: Window | None,
    full: Window | None = None,
    default: Window | None = None,
    any_unit: bool = False,
) -> Window:
    """Choose the requested window; otherwise the one stored in the file; otherwise the default.

    Args:
        path: File named in error messages.
        requested: Window in a form that `parse_window` accepts; None if none was requested.
        values: As for `percentile_window`.
        counts: As for `percentile_window`.
        unit: Unit of the values.
        stored: Window stored in the file, if any.
        full: Window to use for `full`. If None, it extends from the smallest to the largest value.
        default: Window for a file without a stored one. If None, the percentile window is used.
        any_unit: Whether presets can be used for values that are not known to be in Hounsfield units.

    Raises:
        UserError: A preset is requested for values that are not in Hounsfield units, or `stored` is requested but the
            file has no window.
        UsageError: The request is not a valid window.
    """
    choice = None if requested is None else parse_window(requested)
    if isinstance(choice, tuple):
        return Window(name="given", centre=choice[0], width=choice[1], unit=unit, source="given", function="LINEAR")
    if choice in PRESETS:
        if unit != HOUNSFIELD and not any_unit:
            raise UserError(
                f"{path}: the {choice} window is in Hounsfield units and the values of this image are not; "
                "give percentile, full, or CENTER/WIDTH"
            )
        return preset(choice)
    if choice in (None, "stored") and stored is not None:
        return stored
    if choice == "stored":
        raise UserError(f"{path}: no usable window is stored; give a preset, percentile, full, or CENTER/WIDTH")
    if choice == "full":
        present = values[counts > 0]
        return full or Window.full(float(present.min()), float(present.max()), unit, "smallest to largest value")
    return (choice is None and default) or percentile_window(values, counts, unit)


def to_grey(values: Array, window: Window) -> Array:
    """Map values through a window to gray.

    Args:
        values: Finite values, any shape.
        window: Window with a center and a width. A width of 0 (all values are equal) gives black.

    Returns:
        uint8 array of the same shape. Halves are rounded up.
    """
    if window.centre is None or not window.width:
        return np.zeros(values.shape, dtype=np.uint8)
    # With this data set, pydicom's output ranges from 0 to 255.
    frame = Dataset()
    frame.PhotometricInterpretation = "MONOCHROME2"
    frame.BitsStored = 8
    frame.PixelRepresentation = 0
    frame.VOILUTFunction = window.function
    frame.WindowCenter = DSfloat(window.centre, auto_format=True)
    frame.WindowWidth = DSfloat(window.width, auto_format=True)
    return to_bytes(apply_windowing(values, frame))


def to_bytes(grey: Array) -> Array:
    """Convert floats from 0 to 255 to uint8. Halves are rounded up, with a margin for rounding errors."""
    return np.floor(np.clip(grey, 0, 255) + (0.5 + 1e-9)).clip(0, 255).astype(np.uint8)
