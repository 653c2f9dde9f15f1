"""Every DICOM file that pydicom ships, shown as pydicom's own pipeline shows it or refused with its reason."""

from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from medvlm_r1.data.images import View, is_medical, load_picture
from medvlm_r1.errors import UserError

# Those of the installed wheel alone: pydicom would fetch others from the net when asked for them by name.
DATA = Path(pydicom.__file__).parent / "data"
FOLDERS = ("test_files", "charset_files", "palettes")
NOT_DICOM = {".txt", ".json", ".dump", ".md", ".icc"}

# Number of frames and what the note says of the window or the colours: the files. Those of test_files without it.
SHOWN = {
    (1, "full 127.5/255 value"): """
        charset_files/chrArab.dcm charset_files/chrFren.dcm charset_files/chrFrenMulti.dcm
        charset_files/chrGerm.dcm charset_files/chrGreek.dcm charset_files/chrH31.dcm charset_files/chrH32.dcm
        charset_files/chrHbrw.dcm charset_files/chrI2.dcm charset_files/chrRuss.dcm charset_files/chrX1.dcm
        charset_files/chrX2.dcm JPEGLSNearLossless_08.dcm image_dfl.dcm
    """,
    (1, "stored 40/100 HU"): """
        693_J2KI.dcm J2K_pixelrep_mismatch.dcm
    """,
    (1, "soft-tissue 40/400 HU"): """
        CT_small.dcm
    """,
    (1, "as stored"): """
        ExplVR_BigEnd.dcm SC_jpeg_no_color_transform.dcm SC_jpeg_no_color_transform_2.dcm
        SC_rgb_dcmtk_+eb+cr.dcm SC_rgb_gdcm_KY.dcm SC_rgb_jls_lossy_line.dcm SC_rgb_jls_lossy_sample.dcm
        SC_rgb_jpeg.dcm SC_rgb_jpeg_app14_dcmd.dcm SC_rgb_jpeg_dcmd.dcm SC_rgb_jpeg_gdcm.dcm SC_rgb_rle.dcm
        SC_rgb_small_odd.dcm SC_rgb_small_odd_big_endian.dcm examples_rgb_color.dcm
    """,
    (1, "YBR_RCT to RGB"): """
        GDCMJ2K_TextGBR.dcm examples_jpeg2k.dcm
    """,
    (1, "percentile 41/94 value"): """
        JPEG2000.dcm
    """,
    (1, "percentile 32767.5/65535 value"): """
        JPEGLSNearLossless_16.dcm
    """,
    (1, "percentile 46/92 value"): """
        JPGExtended.dcm
    """,
    (1, "stored 600/1600 value"): """
        MR_small.dcm MR_small_RLE.dcm MR_small_bigendian.dcm MR_small_expb.dcm MR_small_implicit.dcm
        MR_small_jp2klossless.dcm MR_small_jpeg_ls_lossless.dcm MR_small_padded.dcm
    """,
    (1, "YBR_FULL to RGB"): """
        SC_rgb_dcmtk_+eb+cy+n1.dcm SC_rgb_dcmtk_+eb+cy+n2.dcm SC_rgb_dcmtk_+eb+cy+s4.dcm SC_rgb_jpeg_dcmtk.dcm
        SC_rgb_jpeg_lossy_gdcm.dcm SC_rgb_small_odd_jpeg.dcm
    """,
    (1, "YBR_FULL_422 to RGB"): """
        SC_rgb_dcmtk_+eb+cy+np.dcm SC_rgb_dcmtk_+eb+cy+s2.dcm SC_ybr_full_422_uncompressed.dcm
    """,
    (1, "full 32767.5/65535 value"): """
        SC_rgb_rle_16bit.dcm
    """,
    (2, "full 32767.5/65535 value"): """
        SC_rgb_rle_16bit_2frame.dcm
    """,
    (2, "as stored"): """
        SC_rgb_rle_2frame.dcm
    """,
    (1, "full 2.14748e+09/4.29497e+09 value"): """
        SC_rgb_rle_32bit.dcm
    """,
    (2, "full 2.14748e+09/4.29497e+09 value"): """
        SC_rgb_rle_32bit_2frame.dcm
    """,
    (1, "stored 1600/2800 OD, inverted"): """
        dicomdirtests/77654033/CR1/6154 dicomdirtests/77654033/CR2/6247 dicomdirtests/77654033/CR3/6278
    """,
    (1, "stored 30/100 HU"): """
        dicomdirtests/77654033/CT2/17106 dicomdirtests/77654033/CT2/17136 dicomdirtests/77654033/CT2/17166
        dicomdirtests/77654033/CT2/17196
    """,
    (1, "stored 50/500 HU, aspect 0.914"): """
        dicomdirtests/98892001/CT2N/6293 dicomdirtests/98892001/CT2N/6924
    """,
    (1, "stored 40/400 HU"): """
        dicomdirtests/98892001/CT5N/2062 dicomdirtests/98892001/CT5N/2392 dicomdirtests/98892001/CT5N/2693
        dicomdirtests/98892001/CT5N/3023 dicomdirtests/98892001/CT5N/3353
    """,
    (1, "stored 243/798 value"): """
        dicomdirtests/98892003/MR1/15820
    """,
    (1, "stored 349/829 value"): """
        dicomdirtests/98892003/MR1/4919
    """,
    (1, "stored 282/782 value"): """
        dicomdirtests/98892003/MR1/5641
    """,
    (1, "stored 303/971 value"): """
        dicomdirtests/98892003/MR2/15970
    """,
    (1, "stored 378/919 value"): """
        dicomdirtests/98892003/MR2/4950
    """,
    (1, "stored 446/752 value"): """
        dicomdirtests/98892003/MR2/4981
    """,
    (1, "stored 388/836 value"): """
        dicomdirtests/98892003/MR2/5011
    """,
    (1, "stored 359/762 value"): """
        dicomdirtests/98892003/MR2/6273
    """,
    (1, "stored 325/761 value"): """
        dicomdirtests/98892003/MR2/6605
    """,
    (1, "stored 283/757 value"): """
        dicomdirtests/98892003/MR2/6935
    """,
    (1, "stored 149/359 value"): """
        dicomdirtests/98892003/MR700/4467 dicomdirtests/98892003/MR700/4528 dicomdirtests/98892003/MR700/4558
        dicomdirtests/98892003/MR700/4588 dicomdirtests/98892003/MR700/4618 dicomdirtests/98892003/MR700/4648
        dicomdirtests/98892003/MR700/4678
    """,
    (1, "stored 450/790 value"): """
        examples_overlay.dcm
    """,
    (1, "palette to RGB"): """
        examples_palette.dcm
    """,
    (30, "YBR_FULL_422 to RGB"): """
        examples_ybr_color.dcm
    """,
    (1, "full 0.5/1 value"): """
        liver_1frame.dcm liver_expb_1frame.dcm
    """,
    (15, "percentile 1.0245e+06/459000 value"): """
        rtdose.dcm rtdose_expb.dcm rtdose_rle.dcm
    """,
    (1, "percentile 1.0245e+06/459000 value"): """
        rtdose_1frame.dcm rtdose_expb_1frame.dcm rtdose_rle_1frame.dcm
    """,
}
REFUSED = {
    "a DICOM file without an image (Computed Radiography Image Storage)": """
        charset_files/chrJapMulti.dcm charset_files/chrJapMultiExplicitIR6.dcm charset_files/chrKoreanMulti.dcm
    """,
    "a DICOM file without an image (MR Image Storage)": """
        charset_files/chrSQEncoding.dcm charset_files/chrSQEncoding1.dcm priv_SQ.dcm
    """,
    "a DICOM file without an image (Color Palette Storage)": """
        palettes/fall.dcm palettes/hotiron.dcm palettes/hotmetalblue.dcm palettes/pet.dcm
        palettes/pet20step.dcm palettes/spring.dcm palettes/summer.dcm palettes/winter.dcm
    """,
    "a DICOM file without an image (RT Ion Plan Storage)": """
        ExplVR_BigEndNoMeta.dcm ExplVR_LitEndNoMeta.dcm
    """,
    "its pixels (JPEG Extended (Process 2 and 4)) are damaged, cut short or packed in a way that is not read": """
        JPEG-lossy.dcm
    """,
    "the compressed frame is 3722445056 x 1024 pixels and the header says 256 x 1024": """
        JPEG2000-embedded-sequence-delimiter.dcm
    """,
    "its pixels are cut short (8130 bytes of the 8192 that its header tells)": """
        MR_truncated.dcm
    """,
    "a DICOM file without an image (CT Image Storage)": """
        UN_sequence.dcm
    """,
    "the DICOM header is damaged or incomplete": """
        badVR.dcm
    """,
    "a DICOM file without an image (Media Storage Directory Storage)": """
        dicomdirtests/DICOMDIR dicomdirtests/DICOMDIR-bigEnd dicomdirtests/DICOMDIR-empty.dcm
        dicomdirtests/DICOMDIR-implicit dicomdirtests/DICOMDIR-nooffset dicomdirtests/DICOMDIR-nopatient
        dicomdirtests/DICOMDIR-reordered dicomdirtests/TINY_ALPHA/DICOMDIR
    """,
    "a DICOM file without an image": """
        empty_charset_LEI.dcm
    """,
    "a DICOM file of which no element of an image can be read": """
        meta_missing_tsyntax.dcm nested_priv_SQ.dcm no_meta.dcm
    """,
    "a DICOM file without an image (RT Image Storage)": """
        no_meta_group_length.dcm
    """,
    "a DICOM file without an image (Basic Text SR Storage)": """
        reportsi.dcm reportsi_with_empty_number_tags.dcm
    """,
    "a DICOM file without an image (RT Plan Storage)": """
        rtplan.dcm rtplan_truncated.dcm
    """,
    "a DICOM file without an image (RT Structure Set Storage)": """
        rtstruct.dcm
    """,
    "a DICOM file without an image (Comprehensive SR Storage)": """
        test-SR.dcm
    """,
    "a DICOM file without an image (12-lead ECG Waveform Storage)": """
        waveform_ecg.dcm
    """,
    "not a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image": """
        zipMR.gz
    """,
}
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TINY = [f"dicomdirtests/TINY_ALPHA/PT000000/ST000000/SE000000/IM0000{n // 36}{DIGITS[n % 36]}" for n in range(50)]


def file_of(name):
    return DATA / (name if name.startswith(FOLDERS) else f"test_files/{name}")


SHOWN_FILES = [(name, *told) for told, names in SHOWN.items() for name in names.split()]
REFUSED_FILES = [(name, reason) for reason, names in REFUSED.items() for name in names.split()]
REFUSED_FILES += [(name, "a DICOM file without an image (CT Image Storage)") for name in TINY]


def test_the_table_holds_every_file_once():
    there = [p for folder in FOLDERS for p in (DATA / folder).rglob("*") if p.is_file()]
    there = {p for p in there if p.suffix not in NOT_DICOM and p.name != "README"}
    table = Counter(file_of(name) for name, *_ in SHOWN_FILES + REFUSED_FILES)
    assert set(table) == there
    assert set(table.values()) == {1}
    # Of pydicom 3.0.2; a later one may ship others, and the line above then names them.
    assert (len(SHOWN_FILES), len(REFUSED_FILES)) == (101, 92)


@pytest.mark.parametrize(("name", "reason"), REFUSED_FILES)
def test_refused(name, reason):
    with pytest.raises(UserError) as caught:
        load_picture(file_of(name))
    assert str(caught.value).startswith(f"{file_of(name)}: {reason}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "JPEG-lossy.dcm",
        "JPEG2000-embedded-sequence-delimiter.dcm",
        "MR_truncated.dcm",
        "badVR.dcm",
        "no_meta.dcm",
    ],
)
def test_those_refused_with_pixels_cannot_be_decoded_by_pydicom_either(name):
    with pytest.raises((ValueError, RuntimeError, AttributeError)):
        pixel_array(pydicom.dcmread(file_of(name), force=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "frames", "told"), SHOWN_FILES)
def test_shown_as_by_pydicoms_own_pipeline(name, frames, told):
    path = file_of(name)
    assert is_medical(path)
    if frames > 1:
        with pytest.raises(UserError, match=f"has {frames} frames; choose one: frame 0 to {frames - 1}"):
            load_picture(path)
        with pytest.raises(UserError, match=f"frame {frames} of an image with {frames}"):
            load_picture(path, View(frame=frames))
    for frame in {0, frames // 2, frames - 1}:
        picture = load_picture(path, View(frame=frame) if frames > 1 else View())
        # Percentiles are the frame's own; the table has those of the first.
        assert what(picture.note) == told or (frame > 0 and told.startswith("percentile"))
        assert (picture.note.format, picture.note.frame, picture.note.frames) == ("DICOM", frame, frames)
        assert (picture.image.mode, picture.image.size) == ("RGB", picture.note.size)
        wanted = Image.fromarray(by_pydicom(path, frame, frames, picture.note)).convert("RGB")
        if picture.note.aspect != 1:
            wanted = wanted.resize(picture.note.size, Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(np.asarray(picture.image), np.asarray(wanted))


def what(note):
    window = note.window
    text = f"{window.name} {window.centre:g}/{window.width:g} {window.unit}" if window else note.colour or "as stored"
    text += ", inverted" if note.inverted else ""
    return text + (f", aspect {note.aspect:.3f}" if note.aspect != 1 else "")


def by_pydicom(path, frame, frames, note):
    """8 bits from pydicom's functions and the standard's definition of the output range, and from nothing of ours."""
    ds = pydicom.dcmread(path, force=True)
    # pydicom takes GDCM where it is installed, whose lossy JPEG differs by a step or two from the loader's decoder.
    syntax = ds.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    compressed = syntax.is_encapsulated and syntax != RLELossless
    pixels = pixel_array(ds, decoding_plugin="pylibjpeg" if compressed else "")
    pixels = pixels[frame] if frames > 1 else pixels
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(pixels, ds)
        return to_8_bits(colours, 0, np.iinfo(colours.dtype).max)
    if ds.SamplesPerPixel == 3:
        return to_8_bits(pixels, 0, 2**ds.BitsStored - 1)
    values = apply_modality_lut(pixels, ds)
    if "WindowCenter" not in ds and note.window.name == "soft-tissue":
        ds.WindowCenter, ds.WindowWidth = 40, 400
    if "WindowCenter" in ds:
        grey = to_8_bits(apply_voi_lut(values, ds), *output_range(ds))
    elif note.window.name == "full":
        grey = to_8_bits(values, 0, 2**ds.BitsStored - 1)
    else:
        low, high = np.percentile(values, [1, 99], method="inverted_cdf")
        grey = to_8_bits(np.clip(values, low, high), low, high)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    if "PixelPaddingValue" in ds:
        grey[pixels == ds.PixelPaddingValue] = 0
    return grey


def output_range(ds):
    bits = ds.BitsStored
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if ds.PixelRepresentation else [0, 2**bits - 1])
    return ends * ds.get("RescaleSlope", 1) + ds.get("RescaleIntercept", 0)


def to_8_bits(values, low, high):
    return np.floor((values.astype(float) - low) / (high - low) * 255 + 0.5 + 1e-9).astype(np.uint8)


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
