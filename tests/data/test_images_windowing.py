"""Pure functions of the loader: unique values, windows, isotropic pixels."""

import math
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from medvlm_r1.data.images.files import silence_logging
from medvlm_r1.data.images.picture import Window
from medvlm_r1.data.images.windowing import (
    isotropic_resample,
    parse_window,
    percentile_window,
    to_bytes,
    to_grey,
    unique_values,
)
from medvlm_r1.errors import UsageError, UserError


def by_the_standard(x, c, w, function):
    """DICOM PS3.3, C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, for outputs 0 to 255."""
    if function == "SIGMOID":
        return 255 / (1 + math.exp(-4 * (x - c) / w))
    if function == "LINEAR":
        c, w = c - 0.5, w - 1
    if x <= c - w / 2:
        return 0
    return 255 if x > c + w / 2 else ((x - c) / w + 0.5) * 255


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@settings(deadline=None)
@given(x=st.integers(-3000, 3000), c=st.integers(-1000, 1000), w=st.integers(1, 4000))
def test_the_formulas_of_the_standard(function, x, c, w):
    # SIGMOID's exponential overflows a float beyond some 170 widths.
    if function != "SIGMOID" or abs(x - c) <= 100 * w:
        window = Window(name="given", centre=c, width=w, unit="value", source="given", function=function)
        [grey] = to_grey(np.array([x], float), window)
        assert abs(grey - by_the_standard(x, c, w, function)) <= 0.5 + 1e-6


def test_full_range_and_rounding():
    assert Window.full(9, -1, "HU", "x") == Window.full(-1, 9, "HU", "x")
    assert Window.full(1.5e308, 1.6e308, "value", "x").centre == pytest.approx(1.55e308)
    assert to_grey(np.array([1.0, 2.0]), Window.full(7, 7, "value", "no width is black")).tolist() == [0, 0]
    assert to_bytes(np.array([0.4999, 0.5, 1.5, 254.5, 300, -3])).tolist() == [0, 1, 2, 255, 255, 0]


@settings(deadline=None, max_examples=100)
@given(arrays(np.int64, st.integers(1, 60), elements=st.integers(-50, 50)), st.booleans())
def test_percentiles_are_numpys(values, backward):
    there, counts = np.unique(values, return_counts=True)
    # A lookup table may reverse the order of the values.
    result = percentile_window(*((there[::-1], counts[::-1]) if backward else (there, counts)), "value")
    low, high = np.percentile(values, [1, 99], method="inverted_cdf")
    if low == high:
        assert (result.name, result.width) == ("full", values.max() - values.min())
    else:
        assert (result.centre, result.width) == ((low + high) / 2, high - low)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">i2", "<u4", "<f4"])
def test_unique_values_give_the_image_again(dtype, monkeypatch):
    monkeypatch.setattr("medvlm_r1.data.images.windowing._CHUNK", 2)
    image = np.random.default_rng(0).integers(0, 100, (7, 5)).astype(dtype)
    if np.dtype(dtype).kind in "iu":
        image[0, :2] = np.iinfo(dtype).min, min(np.iinfo(dtype).max, 2**20)
    unique = unique_values(image)
    assert (unique.values[unique.index] == image).all()
    assert (np.diff(unique.values) > 0).all()
    assert all(count == (image == value).sum() for value, count in zip(unique.values, unique.counts, strict=True))


def test_windows_as_they_are_written():
    windows = {"brain": "brain", "stored": "stored", "-600/1500": (-600, 1500), "0.5/1": (0.5, 1)}
    assert {text: parse_window(text) for text in windows} == windows
    for text in ("", "40", "/400", "40/0", "40/nan", "inf/2", "1/2/3", "Brain"):
        with pytest.raises(UsageError, match="wanted"):
            parse_window(text)


@pytest.mark.parametrize(
    ("height", "width", "size", "ratio"),
    [
        *((1.005, 1, (40, 20), 1), (2, 1, (40, 40), 2), (1, 2, (80, 20), 0.5), (0.3, 0.2, (40, 30), 1.5)),
        *((height, width, (40, 20), None) for height, width in ((0, 1), (1, 0), (-1, 1), (math.nan, 1), (21, 1))),
    ],
)
def test_the_coarser_side_is_enlarged(height, width, size, ratio):
    image, aspect, warnings = isotropic_resample(Path("x"), Image.new("RGB", (40, 20)), height, width)
    assert (image.size, aspect) == (size, pytest.approx(ratio or 1))
    assert ["not plausible" in warning for warning in warnings] == ([] if ratio else [True])


def test_warnings_are_silenced_in_one_thread_at_a_time():
    before = list(warnings.filters)

    def other():
        with silence_logging():
            warnings.warn("silent", stacklevel=1)

    threads = [threading.Thread(target=other) for _ in range(4)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with silence_logging():
            for thread in threads:
                thread.start()
            warnings.warn("silent too", stacklevel=1)
        for thread in threads:
            thread.join(10)
        warnings.warn("a warning", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["a warning"]
    assert warnings.filters == before


def test_square_pixels_of_masks_and_large_images(monkeypatch):
    mask = Image.fromarray(np.uint8([[255, 255, 0, 0]] * 2)).convert("RGB")
    image, _, _ = isotropic_resample(Path("x"), mask, 1.5, 1, smooth=False)
    assert {colour for _, colour in image.getcolors()} == {(0, 0, 0), (255, 255, 255)}
    monkeypatch.setattr("medvlm_r1.data.images.picture.MAX_PIXELS", 1_000_000)
    with pytest.raises(UserError, match="x: the image with square pixels is too large"):
        isotropic_resample(Path("x"), Image.new("RGB", (1000, 600)), 2, 1)
