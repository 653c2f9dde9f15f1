"""Opening a file on the page: what can be chosen of it, and what the controls ask for."""

from __future__ import annotations

import gzip
import io
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medvlm_r1.data.images import View
from medvlm_r1.errors import UserError
from medvlm_r1.serving.page.image import Choice, Source, open_source
from medvlm_r1.serving.page.layout import EXAMPLES

START: dict[str, Any] = {"plane": None, "slice": 0, "frame": 0, "window": "automatic", "center": 0, "width": 0}


def sample(name: str) -> bytes:
    with open(str(get_testdata_file(name, download=False)), "rb") as file:
        return file.read()


def nifti(pixels: np.ndarray) -> bytes:
    return nibabel.Nifti1Image(pixels, np.diag([1, 1, 2, 1])).to_bytes()


def chosen(source: Source, **values: Any) -> View:
    return Choice(**START | values).view(source)


def test_a_png_has_nothing_to_choose() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (30, 20), "white").save(stream, "PNG")
    source, picture = open_source(stream.getvalue(), "white.png")
    assert (source.frames, source.slices, source.windows) == (1, {}, ())
    assert picture.image.size == (30, 20)
    assert chosen(source, window="lung", frame=9) == View(frame=0)


def test_a_ct_has_windows_and_the_range_of_its_values() -> None:
    source, picture = open_source(sample("CT_small.dcm"), "ct.dcm")
    names = [value for _, value in source.windows]
    assert names == ["automatic", "brain", "subdural", "lung", "soft-tissue", "bone", "percentile", "full", "own"]
    assert (source.values, source.own_window) == ((-896, 1167), True)
    assert source.windows[0][0] == "Automatic: soft-tissue"
    assert picture.note.window.name == "soft-tissue"
    assert chosen(source, window="lung") == View(frame=0, window="lung")
    own = chosen(source, window="own", center=50, width=0)
    assert own == View(frame=0, window="50/1")
    assert source.show(own).note.window.width == 1
    # The Hounsfield windows are offered for Hounsfield values alone.
    source, _ = open_source(sample("MR_small.dcm"), "mr.dcm")
    assert [value for _, value in source.windows] == ["automatic", "percentile", "full", "own"]


def test_frames_stay_in_bounds() -> None:
    source, picture = open_source(sample("examples_ybr_color.dcm"), "us.dcm")
    assert (source.frames, picture.note.frame, source.windows) == (30, 0, ())
    assert [chosen(source, frame=frame).frame for frame in (29, 99, None)] == [29, 29, 0]


def test_a_volume_opens_at_the_middle_of_its_axial_slices() -> None:
    pixels = np.arange(6 * 8 * 10, dtype=np.int16).reshape(6, 8, 10)
    source, picture = open_source(nifti(pixels), "volume.nii")
    assert source.slices == {"axial": 10, "coronal": 8, "sagittal": 6}
    assert source.view == View(frame=0, plane="axial", slice=5)
    assert picture.note.slice == 5
    view = chosen(source, plane="sagittal", slice=9)
    assert (view.plane, view.slice) == ("sagittal", 5)
    assert source.show(view).note.plane == "sagittal"


def test_values_within_a_range_of_one_have_no_sliders() -> None:
    pixels = np.random.default_rng(0).random((6, 6, 4), dtype=np.float32)
    source, _ = open_source(gzip.compress(nifti(pixels)), "map.nii.gz")
    assert source.windows
    assert not source.own_window


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"", "a.png", "empty"),
        (b"no image", "a.png", "a.png: not a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image"),
        (sample("reportsi.dcm"), "report.dcm", "without an image"),
        (sample("MR_truncated.dcm"), "mr.dcm", "cut short"),
        (nifti(np.ones((4, 4, 4), np.int16))[:400], "v.nii", "cut short"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_reason(data: bytes, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_source(data, name)


@pytest.mark.parametrize("label", EXAMPLES)
def test_every_example_opens_and_has_a_question(label: str) -> None:
    example = EXAMPLES[label]()
    source, picture = open_source(example.data, example.name)
    assert min(picture.image.size) >= 64
    assert source.name == example.name
    assert example.question
    assert 2 <= len(example.options) <= 10
    assert EXAMPLES[label]() == example
