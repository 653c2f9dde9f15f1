"""DICOM files that are odd, broken, too large or full of names: read, or refused without a word of their text."""

import json
import logging
import sys
import traceback
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import HOUNSFIELD, RESCALED, SHOWN, dataset, greys, without_meta
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from medvlm_r1.data.images import dicom, is_medical, load_picture
from medvlm_r1.data.images.dicom import codestream_size
from medvlm_r1.errors import UserError

MARKER = "ZZTOPSECRET"
TWO = np.uint8([[0, 255]])


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_burned_in_text_and_overlays_are_reported(saved):
    for annotation, burned_in in (("YES", "yes"), ("NO", "no"), (None, "unknown"), ("maybe", "unknown")):
        ds = dataset(TWO)
        del ds.BurnedInAnnotation
        if annotation:
            ds.BurnedInAnnotation = annotation
        note = load_picture(saved(ds)).note
        assert note.burned_in == burned_in
        assert any("may name the patient" in warning for warning in note.warnings) == (burned_in != "no")
    for group in (0x6000, 0x6002, 0x601E):
        ds = dataset(TWO)
        ds.add_new((group << 16) + 0x10, "US", 1)
        assert load_picture(saved(ds)).note.warnings == ("An overlay is stored with the image and is not drawn.",)


@pytest.mark.parametrize("name", ["x.dcm", "x"])
def test_without_file_meta_information(tmp_path, name):
    (tmp_path / name).write_bytes(without_meta(dataset(HOUNSFIELD, **RESCALED)))
    assert is_medical(tmp_path / name)
    assert greys(tmp_path / name) == [SHOWN]


def test_rle_and_deflated(saved, monkeypatch):
    values = np.arange(64, dtype="<u2").reshape(8, 8) * 50
    plain = dataset(values, WindowCenter=1000, WindowWidth=2000)
    deflated = dataset(values, DeflatedExplicitVRLittleEndian, WindowCenter=1000, WindowWidth=2000)
    wanted = greys(saved(plain))
    plain.compress(RLELossless)
    assert greys(saved(plain)) == greys(saved(deflated)) == wanted
    # A file of 10 kB that inflates to 4 MB, and bytes behind it.
    path = saved(dataset(np.zeros((2000, 2000), np.uint8), DeflatedExplicitVRLittleEndian))
    assert path.stat().st_size < 10_000
    path.write_bytes(path.read_bytes() + b"more")
    assert load_picture(path).image.size == (2000, 2000)
    monkeypatch.setattr("medvlm_r1.data.images.dicom_header.MAX_INFLATED", 2**21)
    with pytest.raises(UserError, match=r"x.dcm: the deflated file holds over 2 MB"):
        load_picture(path)


def jpeg(width, height):
    marker = b"\xff\xc0\x00\x0b\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x01\x01\x11\x00"
    return b"\xff\xd8\xff\xe0\x00\x04ab" + marker


def jpeg2000(width, height):
    numbers = b"".join(n.to_bytes(4, "big") for n in (width + 3, height + 2, 3, 2))
    return b"\xff\x4f\xff\x51\x00\x29\x00\x00" + numbers + bytes(40)


@pytest.mark.parametrize(("syntax", "stream"), [(JPEGBaseline8Bit, jpeg), (JPEG2000Lossless, jpeg2000)])
def test_a_frame_larger_than_its_header_is_refused_before_it_is_decoded(saved, syntax, stream):
    ds = dataset(TWO, syntax)
    ds.PixelData = encapsulate([stream(65_500, 65_000)])
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(UserError, match="the compressed frame is 65500 x 65000 pixels and the header says 2 x 1"):
        load_picture(saved(ds))
    # A fill byte may precede a marker; without a size, the decoder decides.
    assert codestream_size(b"\xff\xd8\xff\xff" + jpeg(30, 20)[3:]) == (30, 20)
    assert codestream_size(b"") is codestream_size(b"\xff\xd8nonsense that is long enough") is None


def without(keyword):
    ds = dataset(np.zeros((2, 2, 3), np.uint8))
    delattr(ds, keyword)
    return ds, rf"a DICOM file \(CT Image Storage\) without {keyword}; its"


def high(bit):
    return dataset(np.uint16([[0, 2**bit]]), BitsStored=12, HighBit=bit), f"12 bits with HighBit {bit}; only HighBit 11"


# The file, and why it is refused by its header alone.
REFUSED = [
    (dataset(TWO, Rows=60_000, Columns=60_000), r"the image is too large \(60000 x 60000 pixels\)"),
    (dataset(TWO, PhotometricInterpretation=MARKER), "its photometric interpretation is none of those"),
    *map(without, ("Rows", "PhotometricInterpretation", "BitsStored", "PixelRepresentation", "PlanarConfiguration")),
    *map(high, (15, 12, 10)),
]


@pytest.mark.parametrize(("ds", "reason"), REFUSED)
def test_headers_that_are_refused(saved, ds, reason):
    path = saved(ds)
    tracemalloc.start()
    with pytest.raises(UserError, match=rf"x.dcm: .*{reason}"):
        load_picture(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


# What is shown of them otherwise: the upper half, a skewed picture, noise, the first of two frames.
@pytest.mark.parametrize(
    "changed", [{"Rows": 32}, {"Columns": 63}, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, {"Rows": 31}]
)
def test_pixels_longer_than_their_header_tells_are_refused(saved, tried, changed):
    pixels = np.arange(1, 64 * 64 + 1, dtype="<u2").reshape(64, 64)
    with pytest.raises(UserError, match=r"x.dcm: its pixels are 8192 bytes, and its header declares \d+: rows"):
        load_picture(saved(dataset(pixels, **changed)))
    tried("lying-lengths", 1)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_padding_behind_the_pixels_is_said_and_other_lengths_refused(saved, tried, syntax):
    ds = dataset(np.arange(64, dtype="<u2").reshape(8, 8), syntax)
    sound = load_picture(saved(ds))
    ds.PixelData += bytes(10)
    padded = load_picture(saved(ds))
    assert padded.image.tobytes() == sound.image.tobytes()
    assert "10 bytes of padding follow the pixels." in padded.note.warnings
    assert not any("padding follow" in warning for warning in sound.note.warnings)
    ds.PixelData = ds.PixelData[:126]
    with pytest.raises(UserError, match=r"x.dcm: its pixels are cut short \(126 bytes of the 128"):
        load_picture(saved(ds))
    tried("lying-lengths", 2)


def marked(**elements):
    """A file with the marker in every kind of element that could name a person."""
    ds = dataset(HOUNSFIELD, **{**RESCALED, **elements})
    ds.PatientName = ds.PatientID = ds.AccessionNumber = ds.InstitutionName = MARKER
    ds.StudyDescription = ds.SeriesDescription = ds.ImageComments = ds.StationName = ds.ProtocolName = MARKER
    ds.WindowCenterWidthExplanation = ds.BodyPartExamined = MARKER
    ds.StudyDate = ds.PatientBirthDate = "18991231"
    ds.StudyInstanceUID = "1.9.8.7.6.5.4.3.2.1"
    ds.add_new(0x00100030, "DA", MARKER)  # no date: pydicom warns and quotes it
    ds.add_new(0x00091001, "LO", MARKER)
    return ds


SECRETS = (MARKER[:4], "18991231", "1.9.8.7")


@pytest.mark.filterwarnings("ignore")
def test_no_header_text_leaves_the_loader(saved, capfd, caplog):
    codes = ("PhotometricInterpretation", "RescaleType", "Modality", "BurnedInAnnotation")
    broken = {"whole": {}, "no rows": {"Rows": None}, "bits": {"BitsStored": 99}}
    broken |= {keyword: {keyword: MARKER} for keyword in codes}
    broken["window"] = {"VOILUTFunction": MARKER, "WindowCenter": 1, "WindowWidth": 1}
    paths = {name: saved(marked(**elements), f"{name}.dcm") for name, elements in broken.items()}
    # The end cut off, and numbers that are none: pydicom's errors quote them.
    whole = paths["whole"].read_bytes()
    for name, old, new in (
        ("cut", whole[-4:], b""),
        ("slope", b"S\x10DS\x04\x001.0 ", b"S\x10DS\x04\x00ZZTO"),
        ("frames", b"\x28\x00\x10\x00US", b"\x28\x00\x08\x00IS\x04\x00ZZTO\x28\x00\x10\x00US"),
    ):
        assert whole.count(old) == 1
        paths[name] = paths["whole"].with_name(f"{name}.dcm")
        paths[name].write_bytes(whole.replace(old, new))
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        texts = []
        for path in paths.values():
            try:
                picture = load_picture(path)
                texts += [repr(picture.note), picture.note.summary(), json.dumps(picture.note.as_record())]
                texts.append(repr(picture.image.info))
            except UserError:
                texts.append("".join(traceback.format_exception(*sys.exc_info())))
    assert not caught
    for text in (*texts, *capfd.readouterr(), caplog.text):
        assert not any(secret in text for secret in SECRETS), text
    assert sum("UserError" in text for text in texts) >= 4


def test_damaged_rle_is_refused(saved):
    ds = dataset(np.arange(64, dtype="<u2").reshape(8, 8))
    ds.compress(RLELossless)
    frame = bytearray(get_frame(ds.PixelData, 0, number_of_frames=1))
    frame[64] = 0x3F  # after the header of 64 bytes the first run: now 64 literal bytes, of the 128 that follow
    ds.PixelData = encapsulate([bytes(frame[:100])])
    with pytest.raises(UserError, match=r"x.dcm: its pixels \(RLE Lossless\) are damaged"):
        load_picture(saved(ds))


PLUGINS = {"CT_small.dcm": "", "image_dfl.dcm": "", "MR_small_RLE.dcm": "pydicom", "SC_rgb_jpeg_dcmtk.dcm": "pylibjpeg"}


@pytest.mark.parametrize(("name", "plugin"), PLUGINS.items())
def test_the_decoder_does_not_depend_on_the_installed_packages(monkeypatch, name, plugin):
    """GDCM, which pydicom prefers where it is installed, aborts the process on some damaged files."""
    original, used = dicom.pixel_array, []

    def watched(*arguments, **options):
        used.append(options["decoding_plugin"])
        return original(*arguments, **options)

    monkeypatch.setattr(dicom, "pixel_array", watched)
    load_picture(Path(pydicom.__file__).parent / "data/test_files" / name)
    assert used == [plugin]
