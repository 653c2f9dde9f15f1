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
    full_range,
    isotropic_resample,
    parse_window,
    percentile_window,
    to_bytes,
    to_grey,
    unique_values,
)
from medvlm_r1.errors import UsageError, UserError

FINITE = {"allow_nan": False, "allow_infinity": False}


def window(centre, width, function="LINEAR"):
    return Window(name="given", centre=centre, width=width, unit="value", source="given", function=function)


def by_the_standard(x, c, w, function):
    """DICOM PS3.3, C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, as printed there, for outputs 0 to 255."""
    if function == "SIGMOID":
        return 255 / (1 + math.exp(-4 * (x - c) / w))
    if function == "LINEAR":
        if x <= c - 0.5 - (w - 1) / 2:
            return 0
        if x > c - 0.5 + (w - 1) / 2:
            return 255
        return ((x - (c - 0.5)) / (w - 1) + 0.5) * 255
    if x <= c - w / 2:
        return 0
    if x > c + w / 2:
        return 255
    return ((x - c) / w + 0.5) * 255


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@settings(deadline=None)
@given(x=st.integers(-3000, 3000), c=st.integers(-1000, 1000), w=st.integers(1, 4000))
def test_the_formulas_of_the_standard(function, x, c, w):
    # SIGMOID's exponential overflows a float beyond some 170 widths.
    if function == "SIGMOID" and abs(x - c) > 100 * w:
        return
    [grey] = to_grey(np.array([x], float), window(c, w, function))
    assert abs(grey - by_the_standard(x, c, w, function)) <= 0.5 + 1e-6


def test_eight_bits_through_their_full_range_stay_what_they_are():
    values = np.arange(256.0)
    assert to_grey(values, full_range(0, 255, "value", "test")).tolist() == list(range(256))


def test_no_width_is_black():
    assert to_grey(np.array([1.0, 2.0]), full_range(7, 7, "value", "test")).tolist() == [0, 0]


def test_full_range_in_either_order_and_of_the_largest_numbers():
    assert full_range(9, -1, "HU", "x") == full_range(-1, 9, "HU", "x")
    assert full_range(1.5e308, 1.6e308, "value", "x").centre == pytest.approx(1.55e308)


def test_a_half_is_rounded_up():
    assert to_bytes(np.array([0.4999, 0.5, 1.5, 254.5, 300, -3])).tolist() == [0, 1, 2, 255, 255, 0]


@settings(deadline=None, max_examples=100)
@given(arrays(np.int64, st.integers(1, 60), elements=st.integers(-50, 50)))
def test_percentiles_are_numpys(values):
    there, counts = np.unique(values, return_counts=True)
    low, high = np.percentile(values, [1, 99], method="inverted_cdf")
    result = percentile_window(there, counts, "value")
    if low == high:
        assert (result.name, result.width) == ("full", values.max() - values.min())
    else:
        assert (result.centre, result.width) == ((low + high) / 2, high - low)


def test_percentiles_of_values_out_of_order():
    """A lookup table may turn the order of the values round."""
    counts = np.array([1, 98, 1])
    assert percentile_window(np.array([9, 5, 0]), counts, "value") == percentile_window(
        np.array([0, 5, 9]), counts, "value"
    )


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">i2", "<u4", "<i8", "<f4", ">f8"])
def test_levels_give_the_image_again(dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0 if np.dtype(dtype).kind == "u" else -100, 100, (7, 5)).astype(dtype)
    unique = unique_values(image)
    assert (unique.values[unique.index] == image).all()
    assert (np.diff(unique.values) > 0).all()
    assert unique.counts.sum() == image.size
    assert all(count == (image == value).sum() for value, count in zip(unique.values, unique.counts, strict=True))


def test_levels_at_the_ends_of_16_bits_and_in_pieces(monkeypatch):
    monkeypatch.setattr("medvlm_r1.data.images.windowing._CHUNK", 2)
    for dtype in (np.uint16, np.int16):
        ends = np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max, np.iinfo(dtype).max]], dtype)
        unique = unique_values(ends)
        assert (unique.values[unique.index] == ends).all()
        assert (unique.counts[0], unique.counts[-1], unique.counts.sum()) == (1, 2, 3)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("brain", "brain"),
        ("percentile", "percentile"),
        ("stored", "stored"),
        ("full", "full"),
        ("40/400", (40, 400)),
        ("-600/1500", (-600, 1500)),
        ("0.5/1", (0.5, 1)),
    ],
)
def test_windows_as_they_are_written(text, wanted):
    assert parse_window(text) == wanted


@pytest.mark.parametrize("text", ["", "40", "40/", "/400", "40/0", "40/-1", "40/nan", "inf/2", "1/2/3", "Brain", "a/b"])
def test_windows_that_are_none(text):
    with pytest.raises(UsageError, match="wanted"):
        parse_window(text)


@pytest.mark.parametrize(
    ("height", "width", "size", "ratio"),
    [
        (1, 1, (40, 20), 1),
        (1.005, 1, (40, 20), 1),
        (2, 1, (40, 40), 2),
        (1, 2, (80, 20), 0.5),
        (0.3, 0.2, (40, 30), 1.5),
    ],
)
def test_the_coarser_side_is_enlarged(height, width, size, ratio):
    image, aspect, warnings_ = isotropic_resample(Path("x"), Image.new("RGB", (40, 20)), height, width)
    assert (image.size, aspect, warnings_) == (size, pytest.approx(ratio), ())


@pytest.mark.parametrize(("height", "width"), [(0, 1), (1, 0), (-1, 1), (math.nan, 1), (math.inf, 1), (21, 1), (1, 21)])
def test_spacing_that_cannot_be_is_said(height, width):
    image, ratio, warnings_ = isotropic_resample(Path("x"), Image.new("RGB", (40, 20)), height, width)
    assert (image.size, ratio) == ((40, 20), 1)
    assert "not plausible" in warnings_[0]


def test_square_pixels_stay_under_the_limit(monkeypatch):
    monkeypatch.setattr("medvlm_r1.data.images.picture.MAX_PIXELS", 1_000_000)
    with pytest.raises(UserError, match="x: the image with square pixels is too large"):
        isotropic_resample(Path("x"), Image.new("RGB", (1000, 600)), 2, 1)


def test_a_mask_keeps_its_two_values():
    mask = Image.new("RGB", (4, 2), (0, 0, 0))
    mask.paste((255, 255, 255), (0, 0, 2, 2))
    image, _, _ = isotropic_resample(Path("x"), mask, 1.5, 1, smooth=False)
    assert {colour for _, colour in image.getcolors()} == {(0, 0, 0), (255, 255, 255)}


def test_silence_of_two_that_overlap():
    before = list(warnings.filters)
    entered, leave = threading.Event(), threading.Event()

    def other():
        with silence_logging():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        with silence_logging():
            thread.start()
            assert entered.wait(10)
        warnings.warn("the other is still inside", stacklevel=1)
        leave.set()
        thread.join(10)
        assert warnings.filters == inside
        assert not caught
        warnings.warn("a warning", stacklevel=1)
        assert [str(warning.message) for warning in caught] == ["a warning"]
    assert warnings.filters == before
