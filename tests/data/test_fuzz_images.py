"""Pictures that lie: no crash, bounded memory, each shown or refused with file and reason."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from fuzzing import hammer, hammer_on, mutant, with_right_checksums
from pictures import picture
from PIL import Image

from medvlm_r1.data.images import View, load_picture
from medvlm_r1.data.images.picture import MAX_PIXELS, Picture
from medvlm_r1.errors import UserError

SMALL = 40_000


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


GREY = picture(1, 24)
DEEP = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
COLOUR = Image.merge("RGB", [picture(seed, 40) for seed in (4, 5, 6)])
EXIF = Image.Exif()
EXIF[0x0112] = 6
PNGS = [
    *(saved(image, "PNG") for image in (GREY, DEEP, Image.merge("LA", (GREY, GREY)), GREY.convert("1"))),
    saved(GREY.convert("RGB"), "PNG", exif=EXIF, dpi=(72, 72)),
    saved(GREY.convert("RGB").quantize(7), "PNG", transparency=1),
    saved(GREY, "PNG", save_all=True, append_images=[picture(2, 24)]),
]
JPEGS = [
    *(saved(image, "JPEG") for image in (GREY, COLOUR.convert("CMYK"))),
    saved(COLOUR, "JPEG", progressive=True),
    saved(COLOUR, "JPEG", exif=EXIF, subsampling=2),
    saved(COLOUR, "MPO", save_all=True, append_images=[COLOUR]),
]
OTHERS = [
    *(saved(image, kind) for image, kind in ((GREY, "BMP"), (COLOUR, "BMP"), (GREY, "TIFF"))),
    saved(DEEP, "TIFF", compression="tiff_lzw"),
    saved(COLOUR, "TIFF", compression="jpeg"),
    saved(GREY, "TIFF", save_all=True, append_images=[GREY], compression="tiff_adobe_deflate"),
]


def dicoms() -> list[bytes]:
    # Those of the installed wheel alone, without asking pydicom, which would fetch others.
    files = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
    return [data for data in map(Path.read_bytes, files) if len(data) <= SMALL]


def niftis() -> list[bytes]:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    grey = nibabel.Nifti1Image(np.arange(240, dtype=np.int16).reshape(6, 8, 5), affine)
    series = nibabel.Nifti2Image(np.ones((4, 5, 3, 2), np.float32), affine)
    flat = nibabel.Nifti1Image(np.ones((4, 5, 1), np.uint8), affine)
    return [image.to_bytes() for image in (grey, series, flat)]


def show(path: Path, view: View = View()) -> Picture:  # noqa: B008 - frozen
    displayed = load_picture(path, view)
    assert displayed.image.mode == "RGB"
    assert 0 < displayed.image.width * displayed.image.height <= MAX_PIXELS
    assert displayed.note.summary()
    return displayed


def show_first(path: Path, *views: View) -> None:
    """Like a user who, if asked for a choice, chooses a frame or slice."""
    try:
        show(path)
    except UserError as error:
        if "choose a plane" not in str(error) and "choose one" not in str(error):
            raise
        for view in views or (View(frame=0),):
            show(path, view)


def show_volume(path: Path) -> None:
    show_first(path, *(View(frame=0, plane=plane, slice=0) for plane in ("axial", "sagittal")))


def png(number: int) -> bytes:
    changed = mutant(PNGS, number)
    return with_right_checksums(changed) if number % 4 else changed


def nifti(number: int) -> bytes:
    return mutant(NIFTIS, number, within=None if number % 4 == 0 else 560)


def volumes(*names: str) -> list[bytes]:
    return [(Path(nibabel.__file__).parent / "tests/data" / name).read_bytes() for name in names]


MINCS, MGH = volumes("tiny.mnc", "minc1_4d.mnc"), [gzip.decompress(volumes("test.mgz")[0])]
DICOMS, NIFTIS = dicoms(), niftis()
CASES = {
    "x.png": (png, show_first, 1500),
    "x.jpg": (lambda number: mutant(JPEGS, number), show_first, 1500),
    "x.tif": (lambda number: mutant(OTHERS, number), show_first, 800),
    "x.dcm": (lambda number: mutant(DICOMS, number), show_first, 1500),
    "x.mnc": (lambda number: mutant(MINCS, number), show_volume, 300),
    "x.mgh": (lambda number: mutant(MGH, number, within=60), show_volume, 300),
    "x.nii": (nifti, show_volume, 1000),
    "x.nii.gz": (lambda number: gzip.compress(nifti(number), 1), show_volume, 300),
}


def test_sound_files_are_read(tmp_path: Path) -> None:
    """Else the cases would all be refused for what is wrong with their seeds."""
    for name, seeds in {"x.png": PNGS, "x.jpg": JPEGS, "x.tif": OTHERS, "x.nii": NIFTIS}.items():
        for data in seeds:
            (tmp_path / name).write_bytes(data)
            CASES[name][1](tmp_path / name)
    assert len(DICOMS) > 50


@pytest.mark.parametrize("name", CASES)
def test_damaged_pictures(tmp_path, tried, name):
    case, read, cases = CASES[name]
    result = hammer(case, range(cases), tmp_path / name, read)
    # Both must come about, or the changes are too crude or too timid to try anything.
    assert min(result["read"], result["refused"]) > cases // 50, result
    tried("lying-pictures", cases)


@pytest.mark.soak(share=1)
@pytest.mark.parametrize("name", CASES)
def test_soak_damaged_pictures(tmp_path, tried, soaking, name):
    case, read, cases = CASES[name]
    tried("lying-soak", hammer_on(case, cases, tmp_path / name, read, soaking))
