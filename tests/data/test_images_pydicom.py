"""Encodings of one image among the files that pydicom ships, and frames of those with several."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from medvlm_r1.data.images import View, load_picture
from medvlm_r1.errors import UserError

# Those of the installed wheel alone: pydicom would fetch others from the net when asked for them by name.
DATA = Path(pydicom.__file__).parent / "data"


def file_of(name):
    return DATA / "test_files" / name


@pytest.mark.parametrize("name", ["rtdose.dcm", "SC_rgb_rle_2frame.dcm"])
def test_a_frame_must_be_chosen_and_must_be_there(name):
    frames = pydicom.dcmread(file_of(name)).NumberOfFrames
    with pytest.raises(UserError, match=f"has {frames} frames; choose one: frame 0 to {frames - 1}"):
        load_picture(file_of(name))
    with pytest.raises(UserError, match=f"frame {frames} of an image with {frames}"):
        load_picture(file_of(name), View(frame=frames))


BARS = {
    5: (255, 0, 0),
    15: (255, 128, 128),
    25: (0, 255, 0),
    35: (128, 255, 128),
    45: (0, 0, 255),
    55: (128, 128, 255),
    65: (0, 0, 0),
    75: (64, 64, 64),
    85: (192, 192, 192),
    95: (255, 255, 255),
}


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("SC_rgb_rle.dcm", 0),
        ("SC_rgb_rle_16bit.dcm", 0),
        ("SC_rgb_rle_32bit.dcm", 0),
        ("SC_rgb_jpeg_gdcm.dcm", 0),
        ("SC_rgb_gdcm_KY.dcm", 1),
        ("SC_ybr_full_422_uncompressed.dcm", 6),
        ("SC_rgb_jpeg_dcmtk.dcm", 6),
        ("SC_rgb_jpeg_lossy_gdcm.dcm", 6),
        ("SC_rgb_dcmtk_+eb+cr.dcm", 6),
        ("SC_rgb_dcmtk_+eb+cy+n1.dcm", 6),
        ("SC_rgb_dcmtk_+eb+cy+n2.dcm", 6),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", 6),
        ("SC_rgb_dcmtk_+eb+cy+s2.dcm", 6),
        ("SC_rgb_dcmtk_+eb+cy+s4.dcm", 6),
        ("SC_rgb_jls_lossy_line.dcm", 10),
        ("SC_rgb_jls_lossy_sample.dcm", 10),
    ],
)
def test_the_colour_bars_have_their_colours(name, tolerance):
    image = load_picture(file_of(name)).image
    for row, colour in BARS.items():
        np.testing.assert_allclose(image.getpixel((50, row)), colour, atol=tolerance)


def test_the_encodings_of_one_image_agree():
    names = ("", "_RLE", "_bigendian", "_expb", "_implicit", "_jp2klossless", "_jpeg_ls_lossless", "_padded")
    first, *others = (np.asarray(load_picture(file_of(f"MR_small{name}.dcm")).image) for name in names)
    for other in others:
        np.testing.assert_array_equal(other, first)
