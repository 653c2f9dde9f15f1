"""Stored lookup tables of DICOM files, in the ways writers pack and describe them."""

import numpy as np
import pytest
from dicom_files import dataset, greys, table, without_meta
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medvlm_r1.data.images import View, load_picture
from medvlm_r1.errors import UserError

LITTLE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


@pytest.mark.parametrize("syntax", LITTLE)
@pytest.mark.parametrize("packed", [False, True])
def test_more_than_256_entries_of_8_bits(saved, syntax, packed):
    entries = np.arange(4096) // 16
    data = entries.astype("u1").tobytes() if packed else entries
    ds = dataset(np.uint16([[0, 256, 2048, 4000, 9999]]), syntax, VOILUTSequence=table(0, 8, data))
    assert greys(saved(ds)) == [[0, 16, 128, 250, 255]]


def test_an_odd_number_of_packed_entries(saved):
    lut = table(10, 8, bytes([0, 100, 200, 0]))
    lut[0].LUTDescriptor[0] = 3
    path = saved(dataset(np.uint16([[9, 11, 12, 13]]), VOILUTSequence=lut))
    assert greys(path) == [[0, 100, 200, 200]]
    assert load_picture(path).note.warnings == ()


def test_entries_that_do_not_fit_their_descriptor_are_refused(saved):
    for bits, data in ((8, [0, 256]), (12, b"\0" * 2), (20, [0, 1])):
        lut = table(0, bits, data)
        lut[0].LUTDescriptor[0] = 2
        with pytest.raises(UserError, match=r"x.dcm: the DICOM header contradicts its pixels"):
            load_picture(saved(dataset(np.uint16([[0, 1]]), VOILUTSequence=lut)))


def test_fewer_bits_than_told_and_used(saved):
    pixels = np.uint16([[0, 1, 2]])
    path = saved(dataset(pixels, VOILUTSequence=table(0, 16, [0, 2048, 4095])))
    assert greys(path) == [[0, 128, 255]]
    assert load_picture(path).note.warnings == (
        "The stored lookup table tells of 16 bits and uses 12: the most that 12 hold is shown as white.",
    )
    path = saved(dataset(pixels, VOILUTSequence=table(0, 16, [0, 2**15, 2**16 - 1])))
    assert greys(path) == [[0, 128, 255]]
    assert load_picture(path).note.warnings == ()


def test_a_table_of_zeros_is_black(saved):
    assert greys(saved(dataset(np.uint16([[0, 1]]), VOILUTSequence=table(0, 12, [0, 0])))) == [[0, 0]]


@pytest.mark.parametrize("syntax", [*LITTLE, ExplicitVRBigEndian])
def test_the_first_value_is_signed_where_values_can_be_negative(saved, syntax):
    lut = {"VOILUTSequence": table(2**16 - 1024, 12, np.arange(2048) * 2)}
    path = saved(dataset(np.uint16([[0, 1024, 2047]]), syntax, RescaleSlope=1, RescaleIntercept=-1024, **lut))
    assert greys(path) == [[0, 128, 255]]


@pytest.mark.parametrize("syntax", LITTLE)
def test_the_first_value_is_unsigned_where_they_cannot(saved, syntax):
    lut = {"VOILUTSequence": table(40_000, 12, [0, 2048, 4095])}
    assert greys(saved(dataset(np.uint16([[39_999, 40_001, 40_002]]), syntax, **lut))) == [[0, 128, 255]]


def test_words_without_file_meta_information(tmp_path):
    def words(*numbers):
        return np.array(numbers, "<u2").tobytes()

    path = tmp_path / "x.dcm"
    pixels = np.uint16([[0, 1, 2]])
    path.write_bytes(without_meta(dataset(pixels, VOILUTSequence=table(0, 12, words(0, 2048, 4095)))))
    assert greys(path) == [[0, 128, 255]]
    lut = {"ModalityLUTSequence": table(0, 16, words(100, 50, 0)), "WindowCenter": 50, "WindowWidth": 100}
    path.write_bytes(without_meta(dataset(pixels, **lut, VOILUTFunction="LINEAR_EXACT")))
    assert greys(path) == [[255, 128, 0]]


@pytest.mark.parametrize(
    ("modality", "relation", "applied"),
    [("XA", "LOG", False), ("RF", "LOG", True), ("XRF", "DISP", False), ("XA", "LIN", True), ("XA", None, True)],
)
def test_a_table_back_to_the_exposure_is_not_for_display(saved, modality, relation, applied):
    lut = {"ModalityLUTSequence": table(0, 16, [2, 1, 0]), "WindowCenter": 1, "WindowWidth": 2}
    ds = dataset(np.uint16([[0, 1, 2]]), **lut, VOILUTFunction="LINEAR_EXACT", Modality=modality)
    if relation:
        ds.PixelIntensityRelationship = relation
    path = saved(ds)
    assert greys(path) == [[255, 128, 0] if applied else [0, 128, 255]]
    said = f"The modality lookup table is not for display (pixel intensity relationship {relation}): not applied."
    assert load_picture(path).note.warnings == (() if applied else (said,))


def test_enhanced_objects_keep_tables_by_frame(saved):
    def group(*entries):
        voi, item = Dataset(), Dataset()
        voi.VOILUTSequence = table(0, 12, entries)
        item.FrameVOILUTSequence = [voi]
        return item

    ds = dataset(np.uint16([[[0, 1]], [[0, 1]]]), NumberOfFrames=2)
    ds.PerFrameFunctionalGroupsSequence = [group(0, 4095), group(4095, 0)]
    path = saved(ds)
    assert greys(path, View(frame=0)) == [[0, 255]]
    assert greys(path, View(frame=1)) == [[255, 0]]
    assert load_picture(path, View(frame=1)).note.window.source == "stored LUT"
