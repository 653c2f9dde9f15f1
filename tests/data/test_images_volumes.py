"""Volumes: a marked voxel must be displayed where the affine says, whatever the order of the stored axes."""

import gzip
import itertools
import json
import re
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from medvlm_r1.data.images import View, is_medical, load_image, load_picture
from medvlm_r1.data.images.files import InMemoryFile
from medvlm_r1.errors import UsageError, UserError

SHAPE = (4, 5, 6)  # right to left, back to front, feet to head
MARKED = (3, 1, 4)
ORIENTATIONS = ["".join(p) for axes in itertools.permutations(["RL", "AP", "SI"]) for p in itertools.product(*axes)]


def ras_volume():
    """World order (left to right, back to front, feet to head), one voxel marked."""
    volume = np.zeros(SHAPE, np.int16)
    volume[MARKED] = 100
    return volume


def stored_as(codes, volume, affine=None):
    """The same anatomy in another order and direction of the stored axes."""
    rotation = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    affine = np.eye(4) if affine is None else affine
    data = nib.apply_orientation(volume, rotation)
    return nib.Nifti1Image(data, affine @ inv_ornt_aff(rotation, volume.shape))


@pytest.fixture
def saved(tmp_path):
    """A function that writes a volume: a nibabel image, or an array with the affine of whole millimeters."""

    def save(image, name="x.nii"):
        nib.save(nib.Nifti1Image(image, np.eye(4)) if isinstance(image, np.ndarray) else image, tmp_path / name)
        return tmp_path / name

    return save


def white(path, view):
    """Places (row, column) of white pixels, and the size."""
    image = np.asarray(load_picture(path, view).image)[..., 0]
    return np.argwhere(image == 255).tolist(), image.shape


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_the_marked_voxel_is_where_the_affine_says(saved, codes):
    path = saved(stored_as(codes, ras_volume()))
    x, y, z = MARKED
    right, back, feet = (n - 1 for n in SHAPE)
    # The patient's right (x large) or, in a sagittal slice, the front (y large) is on the left. The head is up.
    pictures = {
        "axial": (z, [[back - y, right - x]], (5, 4)),
        "coronal": (y, [[feet - z, right - x]], (6, 4)),
        "sagittal": (x, [[feet - z, back - y]], (6, 5)),
    }
    for plane, (number, marked, shape) in pictures.items():
        assert white(path, View(plane=plane, slice=number, window="full")) == (marked, shape)
        # The slice next to it is empty, so it is this slice that is shown.
        assert white(path, View(plane=plane, slice=number - 1, window="full"))[0] == []
    note = load_picture(path, View(plane="axial", slice=z)).note
    assert note.orientation == f"patient's right on the left, front up; stored {codes}"
    assert (note.format, note.plane, note.slice, note.slices) == ("NIfTI", "axial", z, 6)


def test_the_patients_left_and_right_by_hand(saved):
    """Independent of nibabel's orientations: in a RAS file the first index runs to the patient's right."""
    data = np.zeros((3, 3, 3), np.uint8)
    data[2, 1, 1] = 9  # the patient's right
    # LAS, as FSL stores: the first index runs to the left.
    for affine, column in ((np.eye(4), 0), (np.diag([-1.0, 1, 1, 1]), 2)):
        path = saved(nib.Nifti1Image(data, affine))
        assert white(path, View(plane="axial", slice=1, window="full"))[0] == [[1, column]]


def test_plane_slice_and_aspect(saved):
    path = saved(stored_as("ILP", ras_volume(), np.diag([1.0, 2, 3, 1])))
    for plane, size, aspect in (("axial", (4, 10), 2), ("coronal", (4, 18), 3), ("sagittal", (5, 9), 1.5)):
        picture = load_picture(path, View(plane=plane, slice=0))
        assert (picture.image.size, picture.note.aspect) == (size, pytest.approx(aspect))
    # They are chosen, never guessed.
    message = r"x.nii: NIfTI volume with slices: axial 6, coronal 5, sagittal 4; choose a plane and a slice"
    for view in (View(), View(plane="axial"), View(slice=2)):
        with pytest.raises(UserError, match=message):
            load_picture(path, view)
    with pytest.raises(UserError, match="coronal slice 5 of a volume with 5; wanted 0 to 4"):
        load_picture(path, View(plane="coronal", slice=5))
    with pytest.raises(UsageError, match="plane 'oblique'; wanted one of axial, coronal, sagittal"):
        View(plane="oblique")
    # A single slice needs no choice.
    flat = np.arange(12, dtype=np.int16).reshape(4, 3)
    planes = {"axial": (flat, flat[:, :, None], flat[:, :, None, None]), "coronal": (flat[:, None, :],)}
    for plane, shapes in planes.items():
        for data in shapes:
            picture = load_picture(saved(data))
            assert (picture.image.size, picture.note.plane) == ((4, 3), plane)


def test_the_volume_of_a_series_is_chosen_and_may_be_oblique(saved):
    angle = np.radians(20)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    data = np.zeros((3, 3, 3, 4), np.int16)
    data[1, 1, 1, 2] = 7
    path = saved(nib.Nifti1Image(data, rotation))
    view = {"plane": "axial", "slice": 1, "window": "full"}
    with pytest.raises(UserError, match="has 4 frames; choose one: frame 0 to 3"):
        load_picture(path, View(**view))
    assert [white(path, View(frame=n, **view))[0] for n in range(4)] == [[], [], [[1, 1]], []]
    note = load_picture(path, View(frame=2, **view)).note
    assert "frame 2 of 4 (from 0); axial slice 1 of 3 (from 0)" in note.summary()
    assert note.warnings == ("The slices are oblique by 20 degrees and are shown along the stored axes.",)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(("name", "kind"), [("x.nii", nib.Nifti1Image), ("x.nii.gz", nib.Nifti2Image)])
def test_scaled_values_and_windows(saved, plane, name, kind):
    image = kind(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(10, -100)
    path = saved(image, name)
    assert is_medical(path)
    axis = ("sagittal", "coronal", "axial").index(plane)
    wanted = nib.load(path).get_fdata().take(1, axis=axis)[::-1, ::-1].T

    def show(window):
        picture = load_picture(path, View(plane=plane, slice=1, window=window))
        return np.asarray(picture.image)[..., 0], picture.note

    pixels, note = show("100/200")
    np.testing.assert_array_equal(pixels, np.floor(np.clip((wanted - 99.5) / 199 + 0.5, 0, 1) * 255 + 0.5))
    assert (note.window.name, note.window.source, note.window.unit) == ("given", "given", "value")
    pixels, note = show(None)
    low, high = np.percentile(wanted, [1, 99], method="inverted_cdf")
    np.testing.assert_array_equal(pixels, np.floor(np.clip((wanted - low) / (high - low), 0, 1) * 255 + 0.5 + 1e-9))
    assert note.window.source == "percentile: 1 to 99"
    _, note = show("soft-tissue")
    assert note.window.unit == "HU"
    assert any("taken for Hounsfield units" in warning for warning in note.warnings)
    for error, window, message in ((UserError, "stored", "no usable window"), (UsageError, "liver", "one of brain")):
        with pytest.raises(error, match=message):
            show(window)


def test_stored_display_range_and_other_voxels(saved):
    image = nib.Nifti1Image(np.arange(9, dtype=np.int16).reshape(3, 3, 1), np.eye(4))
    image.header["cal_min"], image.header["cal_max"] = 2, 6
    window = load_picture(saved(image), View(window="stored")).note.window
    assert (window.centre, window.width, window.source) == (4, 4, "stored: cal_min to cal_max")
    # NaN and Inf, color, complex numbers.
    view = View(plane="axial", slice=0, window="full")
    picture = load_picture(saved(np.array([[[1.0]], [[np.nan]], [[np.inf]], [[2.0]]], np.float32)), view)
    assert np.asarray(picture.image)[0, :, 0].tolist() == [255, 0, 0, 0]
    assert picture.note.warnings == ("Voxels that are not numbers are shown black.",)
    assert not np.asarray(load_image(saved(np.full((2, 2, 1), np.nan, np.float32)))).any()
    colour = np.zeros((2, 1, 1), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colour[0, 0, 0] = (255, 128, 0)
    picture = load_picture(saved(colour), replace(view, window=None))
    assert [picture.image.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 128, 0)]
    assert (picture.note.colour, picture.note.window) == ("stored as RGB", None)
    with pytest.raises(UsageError, match="a window can be chosen for a gray volume only"):
        load_picture(saved(colour), view)
    with pytest.raises(UserError, match="its voxels are not real numbers"):
        load_picture(saved(np.ones((2, 2, 1), np.complex64)))


def test_warnings_and_no_text_of_the_header(saved):
    for sform, qform, message in (
        ((None, 0), (None, 0), "No orientation is stored"),
        ((np.eye(4), 1), (np.diag([-1.0, 1, 1, 1]), 1), "disagree"),
        ((np.eye(4), 1), (np.eye(4), 1), ""),
    ):
        image = nib.Nifti1Image(np.zeros((2, 2, 1), np.int16), None)
        image.set_sform(*sform)
        image.set_qform(*qform)
        warnings = " ".join(load_picture(saved(image)).note.warnings)
        assert message in warnings if message else "orientation" not in warnings
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = b"ZZTOP"
    image.header.extensions.append(Nifti1Extension("comment", b"ZZTOPSECRET"))
    path = saved(image)
    assert path.read_bytes().count(b"ZZTOP") == 5
    picture = load_picture(path)
    texts = [repr(picture.note), json.dumps(picture.note.as_record()), str(picture.image.info)]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        load_picture(path)
    assert not any("ZZTOP" in text for text in (*texts, str(caught.value)))


def header_of(shape, dtype=np.int16, **fields):
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    header.set_sform(np.eye(4), 1)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + b"\0" * 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header_of((5, 5, 5)) + b"\0" * 10, "its voxels are cut short"),
        (header_of((32000, 32000, 32000)), "the volume is too large"),
        (header_of((2, 2, 2, 1, 3)) + b"\0" * 48, "a volume of 5 dimensions"),
        (header_of((2, 2, 2), vox_offset=1e9) + b"\0" * 16, "its header says the voxels begin at byte 1000000000"),
        (header_of((2, 2, 2), srow_x=0) + b"\0" * 16, "its affine is not usable"),
        (header_of((2, 2, 2), srow_x=np.nan) + b"\0" * 16, "its affine is not usable"),
        (header_of((2, 2, 2), datatype=77) + b"\0" * 16, "the NIfTI header is damaged"),
        (header_of((2, 2, 2), magic=b"ni1"), "the header of a .hdr/.img pair"),
        (header_of((2, 2, 2))[:100], "not a NIfTI file, or cut short in its header"),
        (b"nothing of the kind" * 40, "not a NIfTI file"),
    ],
)
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_broken_files_are_refused_by_name(tmp_path, content, reason, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    if name.endswith(".gz") and "voxels are cut short" in reason:
        reason = "the NIfTI voxels are damaged or cut short"
    with pytest.raises(UserError) as caught:
        load_picture(path, View(plane="sagittal", slice=0))
    assert str(caught.value).startswith(f"{path}: {reason}")


def test_a_slice_takes_the_memory_of_a_slice(tmp_path):
    path = tmp_path / "x.nii"
    with path.open("wb") as file:
        file.write(header_of((512, 512, 200)))
        file.truncate(352 + 512 * 512 * 200 * 2)
    load_picture(path, View(plane="axial", slice=0))
    for plane in ("axial", "sagittal"):
        tracemalloc.start()
        load_picture(path, View(plane=plane, slice=100))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 30e6  # of 105 MB


NIBABEL = Path(nib.__file__).parent / "tests/data"
PAIRS = [("phantom_varscale.PAR", "phantom_varscale.REC"), ("scaled+tlrc.HEAD", "scaled+tlrc.BRIK")]
MIDDLE = View(frame=0, plane="axial", slice=4)


@pytest.mark.parametrize(("header", "voxels"), PAIRS)
def test_a_volume_of_two_files_is_read_from_its_own_folder_only(tmp_path, monkeypatch, header, voxels):
    for name in (header, voxels):
        shutil.copy(NIBABEL / name, tmp_path)
    first, second = (load_picture(tmp_path / name, MIDDLE).image for name in (header, voxels))
    assert first.tobytes() == second.tobytes()
    message = f"the other file of the volume, {voxels}, is not in the same folder; put it there"
    (tmp_path / voxels).rename(tmp_path / "elsewhere")
    for prepare in (lambda: None, lambda: (tmp_path / voxels).symlink_to(tmp_path / "elsewhere")):
        prepare()
        with pytest.raises(UserError, match=re.escape(message)):
            load_picture(tmp_path / header, MIDDLE)
    (tmp_path / voxels).unlink()
    (tmp_path / voxels).write_bytes((tmp_path / "elsewhere").read_bytes()[:-1])
    with pytest.raises(UserError, match="its voxels are cut short"):
        load_picture(tmp_path / header, MIDDLE)
    # A file sent without its path finds no second file on this machine.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="one of the two files of a volume"):
        load_picture(InMemoryFile.of(Path(header).read_bytes(), header), MIDDLE)


@pytest.mark.parametrize("name", ["test.mgz", "tiny.mnc", "minc1_4d.mnc"])
def test_a_volume_of_one_file_may_be_sent(name):
    path = NIBABEL / name
    view = View(frame=0, plane="axial", slice=1)
    picture = load_picture(InMemoryFile.of(path.read_bytes(), "x"), view)
    assert picture.image.tobytes() == load_picture(path, view).image.tobytes()
    assert picture.note.format == ("MGH" if name.endswith("z") else "MINC")
    with pytest.raises(UserError, match="no usable window is stored"):
        load_picture(path, replace(view, window="stored"))


def test_the_size_of_an_mgh_volume_is_checked_before_it_is_read(tmp_path):
    for side, reason in ((32000, "the volume is too large"), (5, "its voxels are cut short")):
        header = nib.freesurfer.mghformat.MGHHeader()
        header.set_data_shape((side, side, side))
        (tmp_path / "x.mgh").write_bytes(header.binaryblock + b"\0" * 100)
        with pytest.raises(UserError, match=reason):
            load_picture(tmp_path / "x.mgh", MIDDLE)
