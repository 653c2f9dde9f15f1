"""Whole volumes: slices the same way up whatever the stored order, slices that are not empty, NRRD files."""

import bz2
import gzip
import tracemalloc
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from medvlm_r1.data.images import View, load_picture, volume
from medvlm_r1.data.images.volumes import read_volume, sample_slices, slice_of
from medvlm_r1.errors import UsageError, UserError

SHAPE = (4, 5, 6)
VALUES = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
AFFINE = np.array([[2.0, 0, 0, -7], [0, 2, 0, 11], [0, 0, 2, 100], [0, 0, 0, 1]])


def stored_as(codes, affine=AFFINE, values=VALUES):
    """The volume in another order and direction of the stored axes."""
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    return nib.Nifti1Image(nib.apply_orientation(values, change), affine @ inv_ornt_aff(change, values.shape))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SRA", "IPL"])
def test_a_volume_is_shown_the_same_way_up(tmp_path, codes):
    """In nibabel's canonical order, the indices run to the right, the front and the head."""
    nib.save(stored_as(codes), tmp_path / "x.nii.gz")
    stored = read_volume(tmp_path / "x.nii.gz")
    canonical = np.asarray(nib.as_closest_canonical(stored).dataobj)
    assert nib.aff2axcodes(stored.affine) == tuple(codes)
    for index in range(4):
        expected = {
            "axial": [[canonical[x, y, index] for x in (3, 2, 1, 0)] for y in (4, 3, 2, 1, 0)],
            "coronal": [[canonical[x, index, z] for x in (3, 2, 1, 0)] for z in (5, 4, 3, 2, 1, 0)],
            "sagittal": [[canonical[index, y, z] for y in (4, 3, 2, 1, 0)] for z in (5, 4, 3, 2, 1, 0)],
        }
        for (plane, pixels), origin in zip(expected.items(), (100, 11, -7), strict=True):
            assert slice_of(stored, plane, index).tolist() == pixels
            for offset in (-0.9, 0.9):
                assert slice_of(stored, plane, position=origin + 2 * index + offset).tolist() == pixels


def test_pixels_become_square():
    tall = stored_as("LPS", np.diag([1.0, 1, 3, 1]))
    assert [slice_of(tall, plane, 0).shape for plane in ("axial", "coronal", "sagittal")] == [(5, 4), (18, 4), (18, 5)]
    ramp = np.broadcast_to(np.arange(6.0), SHAPE)
    column = slice_of(nib.Nifti1Image(ramp, np.diag([1.0, 1, 3, 1])), "coronal", 0)[:, 0]
    # The head is up. Away from the ends, bicubic interpolation keeps a ramp.
    assert column[6:12] == pytest.approx([5 - (row + 0.5) / 3 + 0.5 for row in range(6, 12)], abs=1e-3)


def test_a_frame_of_a_series_in_time():
    image = nib.Nifti1Image(np.stack([VALUES, VALUES + 1], axis=3), AFFINE)
    assert np.array_equal(slice_of(image, "axial", 1, frame=1), slice_of(image, "axial", 1) + 1)
    assert sample_slices(image, "axial", 2, frame=1) == sample_slices(image, "axial", 2)


def test_a_slice_that_is_not_there_is_refused():
    image = stored_as("LPS")
    wrong = {
        "plane 'top'; wanted one of axial": ("top", 0, None, 0),
        "axial slice 6 of a volume with 6; wanted 0 to 5": ("axial", 6, None, 0),
        "axial slice -1 of a volume with 6": ("axial", -1, None, 0),
        "axial position 111.5 mm; wanted 100 to 110 mm": ("axial", None, 111.5, 0),
        "sagittal position -9 mm; wanted -7 to -1 mm": ("sagittal", None, -9, 0),
        "either the index of a slice or its position": ("axial", 0, 1.0, 0),
        "frame 1 of a volume with 1": ("axial", 0, None, 1),
    }
    for reason, (plane, index, position, frame) in wrong.items():
        with pytest.raises(UsageError, match=reason):
            slice_of(image, plane, index, position=position, frame=frame)
    color = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(UserError, match="not real numbers"):
        slice_of(nib.Nifti1Image(color, AFFINE), "axial", 0)


@pytest.mark.parametrize("codes", ["RAS", "IPL"])
def test_slices_are_sampled_where_there_is_tissue(codes):
    """Air at -1000 around a body of 40 in slices 10 to 29, and a speck in slice 35."""
    values = np.full((20, 20, 40), -1000.0)
    values[4:16, 4:16, 10:30] = 40
    values[10, 10, 35] = 40
    image = stored_as(codes, values=values)
    assert sample_slices(image, "axial", 1) == [20]
    assert sample_slices(image, "axial", 4) == [12, 17, 22, 27]
    assert sample_slices(image, "axial", 20) == list(range(10, 30))
    assert sample_slices(image, "coronal", 2) == [7, 13]
    for n, plane, reason in (
        (21, "axial", "21 axial slices of a volume with 20"),
        (0, "axial", "0 axial"),
        (1, "x", "plane"),
    ):
        with pytest.raises(UsageError, match=reason):
            sample_slices(image, plane, n)


def test_a_small_mask_and_voxels_that_are_not_numbers():
    values = np.zeros((20, 20, 40), np.float32)
    values[3, 3, 7:9] = 1
    assert sample_slices(nib.Nifti1Image(values, AFFINE), "axial", 2) == [7, 8]
    for empty in (np.zeros(SHAPE), np.full(SHAPE, np.nan)):
        with pytest.raises(UserError, match="all voxels of the volume have the same value"):
            sample_slices(nib.Nifti1Image(empty, AFFINE), "axial", 1)


@given(first=st.integers(0, 39), length=st.integers(1, 40), n=st.integers(1, 40))
def test_sampled_slices_are_spread_evenly(first, length, n):
    last = min(39, first + length - 1)
    values = np.zeros((3, 3, 40))
    values[:, :, first : last + 1] = 1
    image = nib.Nifti1Image(values, AFFINE)
    if first == 0 and last == 39:
        values[0, 0, 20] = 0
    if n > last - first + 1:
        with pytest.raises(UsageError, match="that are not empty"):
            sample_slices(image, "axial", n)
        return
    chosen = sample_slices(image, "axial", n)
    assert len(chosen) == n
    assert first <= chosen[0] <= chosen[-1] <= last
    steps = np.diff(chosen)
    assert n == 1 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


HEADER = {"space": "left-posterior-superior", "space directions": np.diag([2.0, 3, 4]), "space origin": [1, 2, 3]}


class TestNrrd:
    @pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
    @pytest.mark.parametrize(("space", "codes"), [("LPS", "LPS"), ("right-anterior-superior", "RAS"), ("LAS", "LAS")])
    def test_values_and_orientation(self, tmp_path, encoding, space, codes):
        nrrd.write(str(tmp_path / "x.nrrd"), VALUES, {**HEADER, "space": space, "encoding": encoding})
        opened = read_volume(tmp_path / "x.nrrd")
        assert np.array_equal(opened.dataobj, VALUES)
        assert nib.aff2axcodes(opened.affine) == tuple(codes)
        signs = np.array([1 if code in "RAS" else -1 for code in codes])
        assert nib.affines.apply_affine(opened.affine, [1, 1, 1]).tolist() == (signs * [3, 5, 7]).tolist()
        # The picture equals that of the same volume as NIfTI.
        nib.save(nib.Nifti1Image(VALUES, opened.affine), tmp_path / "x.nii")
        view = View(plane="coronal", slice=3)
        (tmp_path / "y.nrrd.gz").write_bytes(gzip.compress((tmp_path / "x.nrrd").read_bytes()))
        for name in ("x.nrrd", "y.nrrd.gz"):
            picture = load_picture(tmp_path / name, view)
            assert np.array_equal(picture.image, load_picture(tmp_path / "x.nii", view).image)
            assert (picture.note.format, picture.note.slices) == ("NRRD", 5)

    def test_an_axis_outside_space_becomes_the_last(self, tmp_path):
        values = np.stack([VALUES, VALUES + 1])
        directions = np.vstack([[np.nan] * 3, HEADER["space directions"]])
        nrrd.write(str(tmp_path / "x.nrrd"), values, {**HEADER, "space directions": directions})
        opened = read_volume(tmp_path / "x.nrrd")
        assert np.array_equal(opened.dataobj, np.moveaxis(values, 0, -1))
        assert opened.affine.tolist() == [[-2, 0, 0, -1], [0, -3, 0, -2], [0, 0, 4, 3], [0, 0, 0, 1]]

    def test_a_file_that_cannot_be_read_is_refused(self, tmp_path, monkeypatch):
        path = tmp_path / "x.nrrd"
        nrrd.write(str(path), VALUES, HEADER)
        packed = path.read_bytes()
        nrrd.write(str(path), VALUES, {**HEADER, "encoding": "raw"})
        raw = path.read_bytes()
        (tmp_path / "other.raw").write_bytes(VALUES.tobytes())
        start = packed.index(b"\n\n")
        cases = {
            "whose values do not follow it; save": raw.replace(b"\n\n", b"\ndata file: other.raw\n\n", 1),
            "whose values do not follow it": raw.replace(b"\n\n", b"\nbyteskip: -1\n\n", 1),
            "without a known space": raw.replace(b"space: left-posterior-superior\n", b""),
            "the NRRD file is damaged": raw.replace(b"sizes: 4 5 6", b"sizes: 4 5 7"),
            r"NRRD file is damaged \(": packed[:-30],
            r"file is damaged \(KeyError\)": raw.replace(b"type: int16\n", b"type: Doe\n"),
            "of shape .* has no voxels": raw.replace(b"sizes: 4 5 6", b"sizes: 0 5 6"),
            "the volume is too large": raw.replace(b"sizes: 4 5 6", b"sizes: 99999 99999 99999"),
        }
        for reason, content in cases.items():
            path.write_bytes(content)
            with pytest.raises(UserError, match=rf"x.nrrd: .*{reason}"):
                read_volume(path)
        # More packed data than the header declares is not unpacked.
        for encoding, pack in ((b"gzip", gzip.compress), (b"bzip2", bz2.compress)):
            head = packed[: start + 2].replace(b"encoding: gzip", b"encoding: " + encoding)
            path.write_bytes(head + pack(bytes(2**27)))
            tracemalloc.start()
            assert not np.any(read_volume(path).dataobj)
            assert tracemalloc.get_traced_memory()[1] < 2**22
            tracemalloc.stop()
        monkeypatch.setattr(volume, "_MOST_BYTES", 900)
        path.write_bytes(raw)
        with pytest.raises(UserError, match="too large"):
            read_volume(path)


def test_other_formats_open_as_volumes():
    shipped = Path(nib.__file__).parent / "tests" / "data" / "test.mgz"
    assert np.array_equal(read_volume(shipped).get_fdata(), nib.load(shipped).get_fdata())
    with pytest.raises(UsageError, match="a series can be chosen in a folder"):
        read_volume(shipped, series=0)
