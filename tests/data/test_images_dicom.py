"""How a DICOM image becomes gray or color: one rule a test, on files made here."""

from copy import deepcopy

import numpy as np
import pytest
from dicom_files import HOUNSFIELD, INTERCEPT, RESCALED, SHOWN, SLOPE, STORED, WINDOW, dataset, greys, table
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medvlm_r1.data.images import View, load_image, load_picture
from medvlm_r1.errors import UsageError, UserError

FULL, SOFT, PERCENTILE = ("full", 127.5, 255), ("soft-tissue", 40, 400), "percentile"
EXACT, CT = {"VOILUTFunction": "LINEAR_EXACT"}, {"Modality": "CT"}
CENTRED, TENTH = {"WindowCenter": 50, "WindowWidth": 100, **EXACT}, {"WindowCenter": 10, "WindowWidth": 10}
NO_SLOPE, NO_INTERCEPT = (
    f"Rescale{part} is missing or empty: {n} was used." for part, n in (("Slope", 1), ("Intercept", 0))
)
FIRST_SLOPE = "RescaleSlope has several values: the first was used."
TEN, TWENTY, DARK = np.uint16([[0, 5, 10, 20]]), np.uint8([[10, 20]]), np.uint8([[0, 70, 140]])
THREE, HUNDRED = np.uint16([[0, 1, 2]]), np.uint16([[0, 50, 100]])
SIXTEENTHS, LONG = np.arange(4096) // 16, np.uint16([[0, 256, 2048, 9999]])
ONE_VALUE = "All pixels have the same value."
FEWER_BITS = "The stored lookup table declares 16 bits and uses 12: the largest value of 12 is shown as white."
MONOCHROME1 = {"PhotometricInterpretation": "MONOCHROME1"}
PADDING = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}
PADDED, MR = np.array([[-2000, -1999, 0, 100]], "<i2"), {"Modality": "MR"}
SIGNED = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 0, "WindowWidth": 4095, **EXACT}
LOG, XA = {"PixelIntensityRelationship": "LOG"}, {"Modality": "XA"}
EXPOSURE = {"ModalityLUTSequence": table(0, 16, [2, 1, 0]), "WindowCenter": 1, "WindowWidth": 2, **EXACT}
NOT_APPLIED = "The modality lookup table is not for display (pixel intensity relationship LOG): not applied."
SCOUT, MAP = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {"ImageType": ["DERIVED", "PRIMARY", "PERFUSION"]}
AIR = {**CT, **SLOPE, **INTERCEPT}
WINDOWS = {"WindowCenter": [40, 400], "WindowWidth": [400, 2000]}
NARROW = {"VOILUTSequence": table(10, 12, [0, 4095, 2048]), "WindowCenter": 10, "WindowWidth": 2}
EMPTY = {"RescaleSlope": None, "RescaleIntercept": None, "WindowCenter": 1064, "WindowWidth": 400}
FROM_MINUS_1024 = table(2**16 - 1024, 12, np.arange(2048) * 2)
PACKED = table(0, 8, bytes([100, 50, 0, 0]))

# Name: pixels, elements, and what is wanted: the gray values, window (name, or with its numbers) or warnings.
RULES = {
    "brain preset": (HOUNSFIELD, {**RESCALED, "BodyPartExamined": "HEAD"}, ("brain", 40, 80)),
    "lung of several parts": (HOUNSFIELD, {**RESCALED, "BodyPartExamined": "CHESTABDPELVIS"}, ("lung", -600, 1500)),
    "any other CT": (HOUNSFIELD, {**RESCALED, "BodyPartExamined": "ABDOMEN"}, SOFT),
    "CT without a body part": (HOUNSFIELD, RESCALED, SOFT, SHOWN, []),
    "CT without a rescale": (HOUNSFIELD, CT, PERCENTILE),
    "CT that does not reach down to air": (STORED, {**CT, **SLOPE, "RescaleIntercept": 0}, PERCENTILE),
    "CT with 8 bits": (DARK, RESCALED, FULL, [0, 70, 140]),
    "CT with 8 bits of HU": (DARK, {**RESCALED, "RescaleType": "HU"}, FULL, [0, 70, 140]),
    "CT with 8 coarse bits": (np.uint8([[0, 133, 255]]), {**AIR, "RescaleSlope": 8}, SOFT, [0, 128, 255]),
    "scout": (STORED, {**AIR, **SCOUT, "RescaleType": "HU"}, PERCENTILE),
    "map of no unit": (STORED, {**AIR, **MAP, "RescaleType": "US"}, PERCENTILE),
    "derived CT": (STORED, {**AIR, **MAP, "RescaleType": "HU"}, SOFT),
    "8 bits": (TWENTY, {"Modality": "US"}, FULL),
    "8 bits of MR": (TWENTY, MR, (PERCENTILE, 15, 10)),
    "16 bits": (np.uint16([[10, 2000]]), {"Modality": "DX"}, (PERCENTILE, 1005, 1990)),
    "one value": (np.uint16([[7, 7]]), {"Modality": "DX"}, ("full", 7, 0), [0, 0], [ONE_VALUE]),
    "one value after the rescale": (HOUNSFIELD, {"RescaleSlope": 0, "RescaleIntercept": 40}, [ONE_VALUE]),
    # C.11.2.1.2: black up to c - 0.5 - (w - 1) / 2 = 5, white above 14, 255 * ((10 - 9.5) / 9 + 0.5) at 10.
    "LINEAR": (TEN, TENTH, [0, 0, 142, 255]),
    # C.11.2.1.3.2: black up to 5, white above 15, half way at 10.
    "LINEAR_EXACT": (TEN, {**TENTH, **EXACT}, [0, 0, 128, 255]),
    # C.11.2.1.3.1: 255 / (1 + exp(-4 (x - 10) / 10)).
    "SIGMOID": (TEN, {**TENTH, "VOILUTFunction": "SIGMOID"}, [5, 30, 128, 250]),
    "width 0": (HOUNSFIELD, {**RESCALED, "WindowCenter": 10, "WindowWidth": 0}, SOFT),
    "first of two windows": (HOUNSFIELD, {**RESCALED, **WINDOWS}, ("stored", 40, 400)),
    "table before window": (np.uint16([[0, 10, 11, 12, 500]]), NARROW, "stored", [0, 0, 255, 128, 128]),
    "negative slope": (HUNDRED, {"RescaleSlope": -1, "RescaleIntercept": 100, **CENTRED}, [255, 128, 0]),
    "MONOCHROME1": (np.uint8([[0, 100, 255]]), MONOCHROME1, [255, 155, 0]),
    "padding": (PADDED, {**MR, **PADDING}, (PERCENTILE, 50, 100), [0, 0, 0, 255]),
    "padding of MONOCHROME1": (PADDED, {**MR, **MONOCHROME1, **PADDING}, [0, 0, 255, 0]),
    "12 signed bits": (np.array([[-2048, 0, 2047]], "<i2"), SIGNED, [0, 128, 255]),
    "no numbers": (np.array([[0.5, np.nan, 1.0, 1.5]], np.float32), {"view": "full"}, [0, 0, 128, 255]),
    "no slope": (STORED, {**CT, **INTERCEPT, **WINDOW}, SHOWN, [NO_SLOPE]),
    "empty slope": (STORED, {**AIR, "RescaleSlope": None, **WINDOW}, SHOWN, [NO_SLOPE]),
    "two slopes": (STORED, {**AIR, "RescaleSlope": [1, 7], **WINDOW}, SHOWN, [FIRST_SLOPE]),
    "no intercept": (HUNDRED, {"RescaleSlope": 1, **CENTRED}, [0, 128, 255], [NO_INTERCEPT]),
    "empty rescale": (STORED, {**CT, **EMPTY}, SHOWN, [NO_SLOPE, NO_INTERCEPT]),
    "table of 4096 entries of 8 bits": (LONG, {"VOILUTSequence": table(0, 8, SIXTEENTHS)}, [0, 16, 128, 255]),
    "packed table": (LONG, {"VOILUTSequence": table(0, 8, SIXTEENTHS.astype("u1").tobytes())}, [0, 16, 128, 255]),
    "table of fewer bits": (THREE, {"VOILUTSequence": table(0, 16, [0, 2048, 4095])}, [0, 128, 255], [FEWER_BITS]),
    "table of all its bits": (THREE, {"VOILUTSequence": table(0, 16, [0, 2**15, 2**16 - 1])}, [0, 128, 255], []),
    "table of zeros": (THREE[:, :2], {"VOILUTSequence": table(0, 12, [0, 0])}, [0, 0]),
    "signed first entry": (
        *(np.uint16([[0, 1024, 2047]]), {"VOILUTSequence": FROM_MINUS_1024, **SLOPE, **INTERCEPT}, [0, 128, 255]),
    ),
    "modality table": (THREE, {"ModalityLUTSequence": table(0, 16, [100, 50, 0]), **CENTRED}, [255, 128, 0]),
    "packed modality table": (THREE, {"ModalityLUTSequence": PACKED, **CENTRED}, [255, 128, 0]),
    "table back to the exposure": (THREE, {**XA, **LOG, **EXPOSURE}, [0, 128, 255], [NOT_APPLIED]),
    "the same of RF": (THREE, {"Modality": "RF", **LOG, **EXPOSURE}, [255, 128, 0], []),
    "the same without a relationship": (THREE, {**XA, **EXPOSURE}, [255, 128, 0], []),
}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("name", RULES)
def test_rules(saved, name, syntax):
    pixels, elements, *wanted = RULES[name]
    if syntax == ExplicitVRBigEndian and ("packed" in name or pixels.dtype.kind == "f"):
        pytest.skip("made for little endian")
    elements = deepcopy(elements)
    view = View(window=elements.pop("view", None))
    path = saved(dataset(pixels, syntax, **elements))
    note = load_picture(path, view).note
    for expected in wanted:
        if isinstance(expected, str):
            assert note.window.name == expected
        elif isinstance(expected, tuple):
            assert (note.window.name, note.window.centre, note.window.width) == expected
        elif expected and isinstance(expected[0], int):
            assert greys(path, view) == [expected]
        else:
            assert list(note.warnings) == expected


def test_the_view_chooses_the_window(saved):
    path = saved(dataset(HOUNSFIELD, **RESCALED, WindowCenter=0, WindowWidth=2000))
    assert load_picture(path).note.window.source == "stored"
    assert greys(path, View(window="soft-tissue")) == greys(path, View(window="40/400")) == [SHOWN]
    assert load_picture(path, View(window="40/400")).note.window.source == "given"
    assert greys(path, View(window="full")) == [[0, 107, 133, 158, 255]]
    assert load_picture(path, View(window="full")).note.window.source == "full range: smallest to largest value"
    path = saved(dataset(HOUNSFIELD, Modality="CT"))
    with pytest.raises(UserError, match="no usable window is stored"):
        load_picture(path, View(window="stored"))
    with pytest.raises(UserError, match=r"x.dcm: the lung window is in Hounsfield units and the values .* are not"):
        load_picture(path, View(window="lung"))
    for rescale in ({"RescaleSlope": "1e400"}, {"RescaleSlope": 1, "RescaleIntercept": "-1e400"}):
        path = saved(dataset(HOUNSFIELD, Modality="CT", **{"RescaleIntercept": 0, **rescale}))
        with pytest.raises(UserError, match=r"x.dcm: its rescale slope or intercept is not a usable number"):
            load_picture(path)


@pytest.mark.parametrize("kind", ["Float", "DoubleFloat"])
def test_padding_of_float_pixels(saved, kind):
    pixels = np.array([[-5, -4.5, 1, 2, 3]], np.float32)
    ds = dataset(pixels)
    if kind == "DoubleFloat":
        del ds.FloatPixelData
        ds.BitsAllocated, ds.DoubleFloatPixelData = 64, pixels.astype("<f8").tobytes()
    setattr(ds, f"{kind}PixelPaddingValue", -5)
    # Black and outside the range, which is otherwise from -5 or -4.5 to 3.
    assert greys(saved(ds), View(window="full")) == [[0, 0, 187, 221, 255]]
    setattr(ds, f"{kind}PixelPaddingRangeLimit", -4)
    assert greys(saved(ds), View(window="full")) == [[0, 0, 0, 128, 255]]


def test_padding_declared_unsigned_and_one_bit(saved):
    ds = dataset(PADDED, Modality="MR")
    for keyword, value in PADDING.items():
        ds.add_new(keyword, "US", 2**16 + value)
    assert greys(saved(ds)) == [[0, 0, 0, 255]]
    ds = dataset(np.zeros((2, 8), np.uint8))
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = 0
    ds.PixelData = bytes([0b00000001, 0b10000000])
    assert greys(saved(ds)) == [[255] + [0] * 7, [0] * 7 + [255]]


def test_colours(saved):
    rgb = np.uint8([[[255, 0, 0], [0, 0, 255]]])
    by_plane = dataset(rgb)
    by_plane.PlanarConfiguration = 1
    by_plane.PixelData = np.ascontiguousarray(rgb.transpose(2, 0, 1)).tobytes()
    deep = dataset(rgb.astype("<u2") * 257)
    for ds in (dataset(rgb), by_plane, deep):
        assert np.asarray(load_image(saved(ds))).tolist() == rgb.tolist()
    with pytest.raises(UsageError, match=r"x.dcm: a window can be chosen for a gray image only"):
        load_picture(saved(dataset(rgb)), View(window="full"))
    ybr = saved(dataset(np.uint8([[[76, 85, 255], [128, 128, 128]]]), PhotometricInterpretation="YBR_FULL"))
    # By the matrix of the standard: 76 + 1.402 * 127 = 254.05.
    assert np.asarray(load_image(ybr))[0].tolist() == [[254, 0, 0], [128, 128, 128]]
    assert load_picture(ybr).note.colour == "YBR_FULL to RGB"


@pytest.mark.parametrize(
    ("element", "value", "size"),
    [
        *(("ImagerPixelSpacing", [1, 2], (8, 2)), ("PixelAspectRatio", [3, 1], (4, 6))),
        *(("PixelSpacing", sides, (4, 2)) for sides in ([0.7, 0.7], [0, 1], [1000, 1])),
    ],
)
def test_aspect(saved, element, value, size):
    picture = load_picture(saved(dataset(np.zeros((2, 4), np.uint8), **{element: value})))
    assert picture.note.size == picture.image.size == size
    assert picture.note.aspect == (1 if size == (4, 2) else value[0] / value[1])
    assert bool(picture.note.warnings) == (value in ([0, 1], [1000, 1]))


def test_several_frames_are_chosen_never_guessed(saved):
    frames = np.uint8([[[0, 0]], [[10, 20]], [[30, 255]]])
    path = saved(dataset(frames, NumberOfFrames=3))
    with pytest.raises(UserError, match=r"x.dcm: the image has 3 frames; choose one: frame 0 to 2 \(--frame\)"):
        load_picture(path)
    assert [greys(path, View(frame=n)) for n in range(3)] == frames.tolist()
    with pytest.raises(UserError, match="frame 3 of an image with 3; wanted 0 to 2"):
        load_picture(path, View(frame=3))
    with pytest.raises(UsageError, match="frame -1; wanted 0 or more"):
        View(frame=-1)
    with pytest.raises(UsageError, match="a plane can be chosen for volumes only; of a DICOM file choose the frame"):
        load_picture(path, View(plane="axial", slice=1))


def test_enhanced_objects_keep_rescale_window_table_and_spacing_by_frame(saved):
    def group(intercept, *entries):
        transformation, voi, item = Dataset(), Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = 1, intercept, "HU"
        voi.WindowCenter, voi.WindowWidth = 50, 100
        if entries:
            voi.VOILUTSequence = table(0, 12, entries)
        item.PixelValueTransformationSequence, item.FrameVOILUTSequence = [transformation], [voi]
        return item

    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [2, 1]
    shared.PixelMeasuresSequence = [measures]
    ds = dataset(np.uint16([[[0, 100]]] * 3), NumberOfFrames=3, Modality="CT")
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [group(0), group(-1000), group(0, 4095, 0)]
    path = saved(ds)
    assert [greys(path, View(frame=frame))[0] for frame in range(3)] == [[0, 255], [0, 0], [255, 0]]
    note = load_picture(path, View(frame=1)).note
    assert (note.window.unit, note.aspect, note.size) == ("HU", 2, (2, 2))
    assert load_picture(path, View(frame=2)).note.window.source == "stored LUT"
