"""Gzip files are read like what they hold; what is not an image is refused for what it is."""

import gzip
import io
import traceback
import tracemalloc

import numpy as np
import pytest
from dicom_files import HOUNSFIELD, RESCALED, dataset
from nibabel.nifti1 import Nifti1Image
from PIL import Image

from medvlm_r1.data.images import is_medical, load_picture
from medvlm_r1.data.images.files import InMemoryFile
from medvlm_r1.errors import UserError


def saved(save, *arguments, **options):
    stream = io.BytesIO()
    save(stream, *arguments, **options)
    return stream.getvalue()


NOISE = Image.effect_noise((40, 30), 60)
VOXELS = np.random.default_rng(0).integers(0, 900, (9, 8, 1)).astype(np.int16)
CONTENT = {
    "dcm": saved(dataset(HOUNSFIELD.repeat(40, 0), **RESCALED).save_as, enforce_file_format=True),
    "nii": Nifti1Image(VOXELS, np.eye(4)).to_bytes(),
    **{suffix: saved(NOISE.save, kind) for suffix, kind in {"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}.items()},
    "bmp": saved(NOISE.save, "BMP"),
}


@pytest.mark.parametrize("suffix", CONTENT)
@pytest.mark.parametrize("name", ["x.{}.gz", "x.{}", "x.gz", "x"])
def test_a_gzip_file_is_read_like_its_content(tmp_path, suffix, name):
    # The suffix of a file that is not compressed does not matter either.
    plain_file = tmp_path / f"plain.{suffix}.gz"
    plain_file.write_bytes(CONTENT[suffix])
    path = tmp_path / name.format(suffix)
    path.write_bytes(gzip.compress(CONTENT[suffix]))
    plain, picture = load_picture(plain_file), load_picture(path)
    assert picture.note == plain.note
    np.testing.assert_array_equal(np.asarray(picture.image), np.asarray(plain.image))
    assert is_medical(path) == is_medical(plain_file) == (suffix in ("dcm", "nii"))
    assert load_picture(InMemoryFile.of(path.read_bytes(), "upload")).note == plain.note


def test_a_dicom_of_noise_is_known_inside_a_gzip_file(tmp_path):
    # Text in the preamble, a private element of noise before the pixels: little of it can be compressed.
    preamble = np.random.default_rng(1).bytes(128)
    (tmp_path / "x.gz").write_bytes(gzip.compress(preamble + CONTENT["dcm"][128:]))
    assert is_medical(tmp_path / "x.gz")
    assert load_picture(tmp_path / "x.gz").note.format == "DICOM"


def test_a_gzip_bomb_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("medvlm_r1.data.images.files.MAX_INFLATED", 2**22)
    (tmp_path / "x.png.gz").write_bytes(gzip.compress(CONTENT["png"] + bytes(2**26)))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"x.png.gz: the gzip file holds over 4 MB; unpack it"):
        load_picture(tmp_path / "x.png.gz")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["dcm", "png", "nii"])
def test_a_damaged_gzip_file_is_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}.gz"
    whole = gzip.compress(CONTENT[suffix])
    for content in (whole[:-30], whole[:10], b"\x1f\x8b" + b"x" * 60, whole[:-8] + bytes(8), gzip.compress(b"")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"x.{suffix}.gz: "):
            load_picture(path)


def volume_header(magic):
    return magic + b"type: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n\n" + bytes(range(128))


REFUSED = {
    "a MetaImage volume; convert it to NIfTI": volume_header(b"ObjectType = Image\nNDims = 3\n"),
    "an HDF5 or MINC 2 file; convert it to NIfTI": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "the header of an Analyze volume; convert it to NIfTI": b"\x5c\1\0\0" + bytes(344),
    "a bzip2 file; unpack it": b"BZh91AY" + bytes(60),
    "a gzip file inside a gzip file; unpack it": gzip.compress(gzip.compress(CONTENT["dcm"])),
    "a GIF image; convert it to PNG": b"GIF89a" + bytes(20),
    "a PDF document; give the path of an image": b"%PDF-1.7\n" + bytes(20),
    "plain text; give the path": "Größe 5 µm, Läsion rechts\n".encode("latin-1"),
    "plain text; give the path of an image": b"Name: Jane Doe, born 1899\r\n\tFinding: none\n",
    "DICOM behind 512 bytes of another header; remove them (tail -c +513 ": b"VENDOR\0\1" * 64 + CONTENT["dcm"],
    "DICOM behind 4 bytes of another header; remove them (tail -c +5 ": CONTENT["dcm"][128:],
}


@pytest.mark.parametrize("reason", REFUSED)
@pytest.mark.parametrize("name", ["x", "x.png", "x.dcm"])
def test_other_kinds_are_refused_by_name(tmp_path, name, reason):
    (tmp_path / name).write_bytes(REFUSED[reason])
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(REFUSED[reason]))
    for path in (tmp_path / name, tmp_path / f"{name}.gz"):
        # A gzip file inside one becomes two inside another.
        with pytest.raises(UserError) as caught:
            load_picture(path)
        assert f"{path}: not a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image but {reason}" in str(caught.value)
        assert "Doe" not in str(caught.value)


DAMAGED = {
    "MINC": (b"CDF\1" + bytes(60), ("",)),
    "MGH": (b"\0\0\0\1\0\0\0\3", ("",)),
    "PAR/REC": (b"# === DATA DESCRIPTION FILE ====\n# Patient name: Doe\n", (".PAR", ".REC")),
    "AFNI": (b"\ntype = string-attribute\nname = Doe\n", (".HEAD", ".BRIK")),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_volume_is_refused_without_a_word_of_its_header(tmp_path, kind):
    content, suffixes = DAMAGED[kind]
    for suffix in suffixes:
        (tmp_path / f"x{suffix}").write_bytes(content)
    path = tmp_path / f"x{suffixes[0]}"
    with pytest.raises(UserError) as caught:
        load_picture(path)
    assert str(caught.value).startswith(f"{path}: the {kind} header is damaged")
    assert "Doe" not in "".join(traceback.format_exception(caught.value))
