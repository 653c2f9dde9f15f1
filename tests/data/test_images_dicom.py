"""How a DICOM image becomes grey or colour: one rule a test, on files made here."""

import numpy as np
import pytest
from dicom_files import HOUNSFIELD, RESCALED, dataset, greys, table
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medvlm_r1.data.images import View, is_medical, load_image, load_picture
from medvlm_r1.errors import UsageError, UserError


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("name", ["x.dcm", "x", "x.png"])
def test_transfer_syntaxes_and_any_name(saved, syntax, name):
    path = saved(dataset(HOUNSFIELD, syntax, **RESCALED), name)
    assert is_medical(path)
    # 40/400 by the LINEAR formula: black at -160, white at 239, ((40 - 39.5) / 399 + 0.5) * 255 = 127.8 between.
    assert greys(path) == [[0, 0, 128, 255, 255]]


@pytest.mark.parametrize(
    ("part", "name", "numbers"),
    [
        ("HEAD", "brain", (40, 80)),
        ("SKULL", "brain", (40, 80)),
        ("CHEST", "lung", (-600, 1500)),
        ("CHESTABDPELVIS", "lung", (-600, 1500)),
        ("ABDOMEN", "soft-tissue", (40, 400)),
        (None, "soft-tissue", (40, 400)),
    ],
)
def test_ct_presets_by_body_part(saved, part, name, numbers):
    more = {"BodyPartExamined": part} if part else {}
    window = load_picture(saved(dataset(HOUNSFIELD, **RESCALED, **more))).note.window
    assert (window.name, (window.centre, window.width), window.unit) == (name, numbers, "HU")
    assert window.source.startswith("preset: CT")


def test_ct_without_rescale_is_not_taken_for_hounsfield(saved):
    path = saved(dataset(HOUNSFIELD, Modality="CT"))
    assert load_picture(path).note.window.name == "percentile"
    with pytest.raises(UserError, match=r"x.dcm: the lung window is in Hounsfield units and the values .* are not"):
        load_picture(path, View(window="lung"))


def test_defaults_without_a_stored_window(saved):
    def window_of(pixels, **elements):
        window = load_picture(saved(dataset(pixels, **elements))).note.window
        return window.name, window.centre, window.width

    assert window_of(np.uint8([[10, 20]]), Modality="US") == ("full", 127.5, 255)
    assert window_of(np.uint8([[10, 20]]), Modality="MR") == ("percentile", 15, 10)
    assert window_of(np.uint16([[10, 2000]]), Modality="DX") == ("percentile", 1005, 1990)
    assert window_of(np.uint16([[7, 7]]), Modality="DX") == ("full", 7, 0)


def test_a_rescale_that_makes_one_value_of_all_is_said(saved):
    path = saved(dataset(HOUNSFIELD, Modality="CT", RescaleSlope=0, RescaleIntercept=40))
    assert load_picture(path).note.warnings == ("All pixels have the same value.",)


@pytest.mark.parametrize("rescale", [{"RescaleSlope": "1e400"}, {"RescaleSlope": 1, "RescaleIntercept": "-1e400"}])
def test_a_rescale_that_is_no_number_is_refused(saved, rescale):
    path = saved(dataset(HOUNSFIELD, Modality="CT", **{"RescaleIntercept": 0, **rescale}))
    with pytest.raises(UserError, match=r"x.dcm: its rescale slope or intercept is not a usable number"):
        load_picture(path)


def test_the_view_chooses_the_window(saved):
    stored = {**RESCALED, "WindowCenter": 0, "WindowWidth": 2000}
    path = saved(dataset(HOUNSFIELD, **stored))
    assert load_picture(path).note.window.source == "stored"
    assert greys(path, View(window="soft-tissue")) == greys(path, View(window="40/400")) == [[0, 0, 128, 255, 255]]
    assert load_picture(path, View(window="40/400")).note.window.source == "given"
    assert greys(path, View(window="full")) == [[0, 107, 133, 158, 255]]
    assert load_picture(path, View(window="full")).note.window.source == "full range: smallest to largest value"
    with pytest.raises(UserError, match="no usable window is stored"):
        load_picture(saved(dataset(HOUNSFIELD, **RESCALED)), View(window="stored"))
    with pytest.raises(UsageError, match="window 'lungs'; wanted one of brain, lung"):
        load_picture(path, View(window="lungs"))


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        # C.11.2.1.2: black up to c - 0.5 - (w - 1) / 2 = 5, white above 14, 255 * ((10 - 9.5) / 9 + 0.5) at 10.
        ("LINEAR", [0, 0, 142, 255]),
        (None, [0, 0, 142, 255]),
        # C.11.2.1.3.2: black up to 5, white above 15, half way at 10.
        ("LINEAR_EXACT", [0, 0, 128, 255]),
        # C.11.2.1.3.1: 255 / (1 + exp(-4 (x - 10) / 10)).
        ("SIGMOID", [5, 30, 128, 250]),
    ],
)
def test_voi_functions(saved, function, wanted):
    more = {"VOILUTFunction": function} if function else {}
    path = saved(dataset(np.uint16([[0, 5, 10, 20]]), WindowCenter=10, WindowWidth=10, **more))
    assert greys(path) == [wanted]
    assert load_picture(path).note.window.function == (function or "LINEAR")


@pytest.mark.parametrize("width", [0, -5])
def test_a_window_without_a_width_means_nothing(saved, width):
    path = saved(dataset(HOUNSFIELD, **RESCALED, WindowCenter=10, WindowWidth=width))
    assert load_picture(path).note.window.name == "soft-tissue"


def test_of_several_windows_the_first(saved):
    path = saved(dataset(HOUNSFIELD, **RESCALED, WindowCenter=[40, 400], WindowWidth=[400, 2000]))
    window = load_picture(path).note.window
    assert (window.centre, window.width, window.source) == (40, 400, "stored: the first of 2")


def test_stored_table_goes_before_the_stored_window(saved):
    lut = {"VOILUTSequence": table(10, 12, [0, 4095, 2048]), "WindowCenter": 10, "WindowWidth": 2}
    path = saved(dataset(np.uint16([[0, 10, 11, 12, 500]]), **lut))
    assert greys(path) == [[0, 0, 255, 128, 128]]
    assert load_picture(path).note.summary().startswith("DICOM, 5 x 1; window stored (stored LUT).")
    assert load_picture(path, View(window="10/4")).note.window.name == "given"


def test_negative_slope_turns_the_values_not_the_window(saved):
    path = saved(
        dataset(
            np.uint16([[0, 50, 100]]),
            RescaleSlope=-1,
            RescaleIntercept=100,
            WindowCenter=50,
            WindowWidth=100,
            VOILUTFunction="LINEAR_EXACT",
        )
    )
    assert greys(path) == [[255, 128, 0]]


def test_monochrome1_is_turned_round_after_the_window_and_said(saved):
    path = saved(dataset(np.uint8([[0, 100, 255]]), PhotometricInterpretation="MONOCHROME1"))
    assert greys(path) == [[255, 155, 0]]
    note = load_picture(path).note
    assert note.inverted
    assert "white-is-zero turned round" in note.summary()


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_outside_the_statistics(saved, interpretation):
    values = np.array([[-2000, -1999, 0, 100]], "<i2")
    ds = dataset(values, PhotometricInterpretation=interpretation, Modality="MR")
    ds.add_new("PixelPaddingValue", "SS", -2000)
    ds.add_new("PixelPaddingRangeLimit", "SS", -1990)
    path = saved(ds)
    turned = interpretation == "MONOCHROME1"
    assert greys(path) == [[0, 0, 255, 0] if turned else [0, 0, 0, 255]]
    window = load_picture(path).note.window
    assert (window.centre, window.width) == (50, 100)


def test_padding_marked_as_unsigned(saved):
    ds = dataset(np.array([[-2000, -1995, 0, 100]], "<i2"), Modality="MR")
    ds.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    ds.add_new("PixelPaddingRangeLimit", "US", 2**16 - 1990)
    path = saved(ds)
    assert greys(path) == [[0, 0, 0, 255]]
    window = load_picture(path).note.window
    assert (window.centre, window.width) == (50, 100)


@pytest.mark.parametrize("kind", ["Float", "DoubleFloat"])
def test_padding_of_float_pixels(saved, kind):
    pixels = np.array([[-5, -4.5, 1, 2, 3]], np.float32)
    ds = dataset(pixels)
    if kind == "DoubleFloat":
        del ds.FloatPixelData
        ds.BitsAllocated, ds.DoubleFloatPixelData = 64, pixels.astype("<f8").tobytes()
    setattr(ds, f"{kind}PixelPaddingValue", -5)
    # Black and outside the range, which is else from -5 or -4.5 to 3.
    assert greys(saved(ds), View(window="full")) == [[0, 0, 187, 221, 255]]
    setattr(ds, f"{kind}PixelPaddingRangeLimit", -4)
    assert greys(saved(ds), View(window="full")) == [[0, 0, 0, 128, 255]]


def test_signed_bits_fewer_than_allocated(saved):
    ds = dataset(np.array([[-2048, 0, 2047]], "<i2"), BitsStored=12, HighBit=11, WindowCenter=0, WindowWidth=4095)
    ds.VOILUTFunction = "LINEAR_EXACT"
    assert greys(saved(ds)) == [[0, 128, 255]]


def test_float_pixels_and_those_that_are_no_number(saved):
    path = saved(dataset(np.array([[0.5, np.nan, 1.0, 1.5]], np.float32)))
    assert greys(path, View(window="full")) == [[0, 0, 128, 255]]


def test_one_bit(saved):
    ds = dataset(np.zeros((2, 8), np.uint8))
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = 0
    ds.PixelData = bytes([0b00000001, 0b10000000])
    assert greys(saved(ds)) == [[255] + [0] * 7, [0] * 7 + [255]]


def test_planar_configurations_and_16_bit_colour(saved):
    rgb = np.uint8([[[255, 0, 0], [0, 0, 255]]])
    by_plane = dataset(rgb)
    by_plane.PlanarConfiguration = 1
    by_plane.PixelData = np.ascontiguousarray(rgb.transpose(2, 0, 1)).tobytes()
    deep = dataset(rgb.astype("<u2") * 257)
    for ds in (dataset(rgb), by_plane, deep):
        assert np.asarray(load_image(saved(ds))).tolist() == rgb.tolist()
    with pytest.raises(UsageError, match=r"x.dcm: a window can be chosen for a grey image only"):
        load_picture(saved(dataset(rgb)), View(window="full"))


def test_ybr_full_by_the_standards_matrix(saved):
    path = saved(dataset(np.uint8([[[76, 85, 255], [128, 128, 128]]]), PhotometricInterpretation="YBR_FULL"))
    red, grey = np.asarray(load_image(path))[0].tolist()
    assert red == [254, 0, 0]  # 76 + 1.402 * 127 = 254.05
    assert grey == [128, 128, 128]
    assert load_picture(path).note.colour == "YBR_FULL to RGB"


@pytest.mark.parametrize(
    ("element", "value", "size"),
    [
        ("PixelSpacing", [2, 1], (4, 4)),
        ("ImagerPixelSpacing", [1, 2], (8, 2)),
        ("PixelAspectRatio", [3, 1], (4, 6)),
        ("PixelSpacing", [0.7, 0.7], (4, 2)),
        ("PixelSpacing", [0, 1], (4, 2)),
        ("PixelSpacing", [1000, 1], (4, 2)),
    ],
)
def test_aspect(saved, element, value, size):
    ds = dataset(np.zeros((2, 4), np.uint8), **{element: value})
    note = load_picture(saved(ds)).note
    assert note.size == load_image(saved(ds)).size == size
    assert note.aspect == (1 if size == (4, 2) else value[0] / value[1])
    assert bool(note.warnings) == (value in ([0, 1], [1000, 1]))


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


def test_enhanced_objects_keep_rescale_window_and_spacing_by_frame(saved):
    def group(intercept):
        transformation, voi, item = Dataset(), Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = 1, intercept, "HU"
        voi.WindowCenter, voi.WindowWidth = 50, 100
        item.PixelValueTransformationSequence, item.FrameVOILUTSequence = [transformation], [voi]
        return item

    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [2, 1]
    shared.PixelMeasuresSequence = [measures]
    ds = dataset(np.uint16([[[0, 100]], [[0, 100]]]), NumberOfFrames=2, Modality="CT")
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [group(0), group(-1000)]
    path = saved(ds)
    assert greys(path, View(frame=0)) == [[0, 255]] * 2
    assert greys(path, View(frame=1)) == [[0, 0]] * 2
    note = load_picture(path, View(frame=1)).note
    assert (note.window.unit, note.aspect, note.size) == ("HU", 2, (2, 2))
