"""Headers that real writers get wrong: each file is shown as its correct twin, or refused for what it is."""

import io
from itertools import product

import numpy as np
import pytest
from dicom_files import INTERCEPT, SHOWN, SLOPE, STORED, WINDOW, dataset, greys, table, without_meta
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from medvlm_r1.data.images import View, load_picture
from medvlm_r1.data.images.dicom_header import _KEYWORDS
from medvlm_r1.errors import UserError

NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def ct(**elements):
    return dataset(STORED, Modality="CT", **elements)


def notes(path, **view):
    return " ".join(load_picture(path, View(**view)).note.warnings)


@pytest.mark.parametrize("missing", [("LUTDescriptor",), ("LUTData",), ("LUTDescriptor", "LUTData")])
@pytest.mark.parametrize(("keyword", "name"), [("ModalityLUTSequence", "modality"), ("VOILUTSequence", "VOI")])
def test_an_empty_lookup_table_counts_as_absent(saved, keyword, name, missing):
    items = table(0, 16, [9, 8, 7])
    for element in missing:
        items[0][element].value = None
    path = saved(ct(WindowCenter=1064, WindowWidth=400, **{keyword: items}))
    assert greys(path) == [SHOWN]
    assert f"The stored {name} lookup table is empty" in notes(path)


# An empty table of offsets is refused with the pixels that it is for.
@pytest.mark.parametrize("keyword", [keyword for keyword in _KEYWORDS if keyword != "ExtendedOffsetTable"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_an_empty_element_counts_as_absent(saved, syntax, keyword):
    def outcome(value):
        ds = dataset(STORED, syntax, Modality="CT", **SLOPE, **INTERCEPT, RescaleType="HU")
        if keyword in ds:
            del ds[keyword]
        if value is not None:
            vr = dictionary_VR(keyword)
            ds.add_new(tag_for_keyword(keyword), "US" if " or " in vr else vr, value if vr == "SQ" else None)
        try:
            return greys(saved(ds))
        except UserError as error:
            return str(error)

    assert outcome([]) == outcome(None)


@pytest.mark.parametrize("syntax", [*NATIVE, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_file_meta_information_without_a_preamble(tmp_path, syntax):
    native = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
    ds = dataset(STORED.repeat(64, 0).repeat(16, 1), native, Modality="CT", **SLOPE, **INTERCEPT)
    if syntax.is_encapsulated:
        ds.compress(syntax)
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    for name in ("x.dcm", "x"):
        (tmp_path / name).write_bytes(stream.getvalue()[132:])
        assert greys(tmp_path / name) == np.repeat([SHOWN], 16, 1).tolist() * 64


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("syntax", NATIVE)
def test_a_palette_has_the_colors_of_its_little_endian_twin(saved, syntax, bits):
    # Values before and behind the table take its ends.
    ds = dataset(np.uint8([[9, 10, 11, 12, 200]]), syntax, PhotometricInterpretation="PALETTE COLOR")
    words = {"Red": [255, 0, 51, 9], "Green": [0, 255, 102, 9], "Blue": [0, 0, 153, 9]}
    for name, entries in words.items():
        raw = (np.array(entries) * (1 if bits == 8 else 257)).astype("u1" if bits == 8 else "<u2").tobytes()
        if syntax == ExplicitVRBigEndian:
            raw = np.frombuffer(raw, "<u2").byteswap().tobytes()
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [4, 10, bits])
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", raw)
    picture = load_picture(saved(ds))
    wanted = [[255, 0, 0], [255, 0, 0], [0, 255, 0], [51, 102, 153], [9, 9, 9]]
    assert (np.asarray(picture.image)[0].tolist(), picture.note.colour) == (wanted, "palette to RGB")


@pytest.mark.parametrize("kind", ["US", "UNSPECIFIED", "HU"])
def test_presets_of_a_ct_by_its_rescale_type(saved, kind):
    path = saved(ct(**SLOPE, **INTERCEPT, RescaleType=kind))
    assert greys(path) == greys(path, View(window="soft-tissue")) == [SHOWN]
    assert load_picture(path, View(window="lung")).note.window.unit == "HU"
    for view in ({}, {"window": "lung"}):
        assert ("The rescale type does not name Hounsfield units" in notes(path, **view)) == (kind != "HU")
    with pytest.raises(UserError, match="the lung window is in Hounsfield units"):
        load_picture(saved(ct(**SLOPE, **INTERCEPT, RescaleType="OD")), View(window="lung"))


RAMP = np.linspace(40_000, 59_000, 96).astype("<u2").reshape(8, 12)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(
    ("pixels", "stored"),
    [
        (RAMP, {"WindowCenter": 2725, "WindowWidth": 5310}),  # all white
        (RAMP, {"WindowCenter": 65_000, "WindowWidth": 1000}),  # all black
        (RAMP, {"WindowCenter": 50_000, "WindowWidth": 1}),  # black and white
        (RAMP, {"WindowCenter": 40_000, "WindowWidth": 4_000_000, "RescaleIntercept": -2_000_000}),  # nearly black
        (RAMP, {"VOILUTSequence": table(0, 12, [0, 4095])}),  # all white
        (np.linspace(0, 1, 96, dtype=np.float32).reshape(8, 12), {"WindowCenter": 0.5, "WindowWidth": 1}),
    ],
)
def test_a_stored_window_that_shows_nothing_gives_way_to_the_percentiles(saved, pixels, stored, inverted):
    more = {"PhotometricInterpretation": "MONOCHROME1"} if inverted else {}
    path = saved(dataset(pixels, Modality="DX", **stored, **more))
    displayed = load_picture(path)
    assert displayed.note.window.name == "percentile"
    assert len(np.unique(np.asarray(displayed.image))) > 80
    assert "practically all pixels are black or white: shown through the percentiles instead" in notes(path)
    as_stored = load_picture(path, View(window="stored"))
    assert as_stored.note.window.source.startswith("stored")
    grey = np.asarray(as_stored.image)
    assert ((grey < 4) | (grey > 251)).all()
    assert "practically all pixels are black or white." in notes(path, window="stored")


def test_a_window_that_shows_a_little_is_used(saved):
    pixels = RAMP.repeat(10, 0).copy()
    pixels[0, 0] = 2725
    path = saved(dataset(pixels, Modality="DX", WindowCenter=2725, WindowWidth=5310))
    assert load_picture(path).note.window.name == "stored"
    # A preset gives way too, unless it is requested.
    ramp = np.arange(3000, 3096, dtype="<i2").reshape(8, 12)
    path = saved(dataset(ramp, Modality="CT", **SLOPE, RescaleIntercept=0))
    names = [load_picture(path, View(window=window)).note.window.name for window in (None, "soft-tissue")]
    assert names == ["percentile", "soft-tissue"]
    # A mask of two values is meant to be black and white.
    assert greys(saved(dataset(np.uint16([[0, 1, 0]]), WindowCenter=0.5, WindowWidth=1))) == [[0, 255, 0]]


def with_syntax(uid):
    """A file with one compressed frame and a transfer syntax that pydicom may not know."""
    ds = dataset(np.zeros((8, 8), np.uint8), MPEG2MPML)
    ds.PixelData = encapsulate([b"\0\1\2\3" * 8])
    ds["PixelData"].is_undefined_length = True
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    old = MPEG2MPML.encode().ljust(24, b"\0")
    assert stream.getvalue().count(old) == 1
    return stream.getvalue().replace(old, uid.encode().ljust(24, b"\0"))


COMPRESSED = {
    "1.2.840.10008.1.2.4.110": "compression not supported (JPEG XL); convert it to",
    "1.2.840.10008.1.2.4.94": "compression not supported (JPIP Referenced)",
    "1.2.840.10008.1.2.4.102": "compression not supported (MPEG-4 AVC/H.264 High Profile / Level 4.1)",
    "1.2.840.10008.1.2.8.1": "compression not supported (Deflated Image Frame Compression)",
    "1.2.840.10008.1.2.1.98": "compression not supported (Encapsulated Uncompressed Explicit VR Little Endian)",
    "1.2.840.113619.5.2": "compression not supported (GE private, big-endian pixels)",
    "1.2.3.4.5.6": "compression not supported (a private transfer syntax)",
    str(ExplicitVRLittleEndian): "its pixels are compressed and its header does not say how",
}


@pytest.mark.parametrize("uid", COMPRESSED)
def test_compression_that_is_not_supported_is_named(tmp_path, uid):
    (tmp_path / "x.dcm").write_bytes(with_syntax(uid))
    with pytest.raises(UserError) as caught:
        load_picture(tmp_path / "x.dcm")
    assert f"x.dcm: {COMPRESSED[uid]}" in str(caught.value)


def test_empty_elements_of_a_frame_do_not_hide_those_of_the_file(saved):
    transformation, group = Dataset(), Dataset()
    transformation.RescaleSlope, transformation.RescaleIntercept = None, -1024
    group.PixelValueTransformationSequence = [transformation]
    ds = dataset(STORED[None], NumberOfFrames=1, Modality="CT", **SLOPE, **WINDOW)
    ds.PerFrameFunctionalGroupsSequence = [group]
    assert greys(saved(ds)) == [SHOWN]


def test_a_presentation_table_that_contradicts_the_interpretation_is_reported(saved):
    for interpretation, shape in product(("MONOCHROME1", "MONOCHROME2"), ("IDENTITY", "INVERSE")):
        elements = {"PhotometricInterpretation": interpretation, "PresentationLUTShape": shape}
        path = saved(dataset(np.uint8([[0, 100, 255]]), **elements))
        inverted = interpretation == "MONOCHROME1"
        assert greys(path) == ([[255, 155, 0]] if inverted else [[0, 100, 255]])
        assert ("black may be white" in notes(path)) == (inverted != (shape == "INVERSE"))


def test_entries_that_contradict_their_descriptor_are_refused(saved):
    for bits, data in ((8, [0, 256]), (12, b"\0" * 2), (20, [0, 1])):
        lut = table(0, bits, data)
        lut[0].LUTDescriptor[0] = 2
        with pytest.raises(UserError, match=r"x.dcm: the DICOM header contradicts its pixels"):
            load_picture(saved(dataset(np.uint16([[0, 1]]), VOILUTSequence=lut)))


def test_words_without_file_meta_information(tmp_path):
    def words(*numbers):
        return np.array(numbers, "<u2").tobytes()

    window = {"WindowCenter": 50, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}
    for elements, wanted in (
        ({"VOILUTSequence": table(0, 12, words(0, 2048, 4095))}, [0, 128, 255]),
        ({"ModalityLUTSequence": table(0, 16, words(100, 50, 0)), **window}, [255, 128, 0]),
    ):
        (tmp_path / "x.dcm").write_bytes(without_meta(dataset(np.uint16([[0, 1, 2]]), **elements)))
        assert greys(tmp_path / "x.dcm") == [wanted]
