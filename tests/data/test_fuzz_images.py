"""Pictures that lie: no crash, bounded memory, each shown or refused with file and reason."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
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


def pngs() -> list[bytes]:
    grey = picture(1, 24)
    palette = grey.convert("RGB").quantize(7)
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    clear = Image.merge("LA", (grey, grey))
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        saved(grey, "PNG"),
        saved(grey.convert("RGB"), "PNG", exif=exif, dpi=(72, 72)),
        saved(palette, "PNG", transparency=1),
        saved(deep, "PNG"),
        saved(clear, "PNG"),
        saved(grey.convert("1"), "PNG"),
        saved(grey, "PNG", save_all=True, append_images=[picture(2, 24)]),
    ]


def jpegs() -> list[bytes]:
    grey = picture(3, 40)
    colour = Image.merge("RGB", [picture(seed, 40) for seed in (4, 5, 6)])
    exif = Image.Exif()
    exif[0x0112] = 3
    return [
        saved(grey, "JPEG"),
        saved(colour, "JPEG", progressive=True),
        saved(colour, "JPEG", exif=exif, subsampling=2),
        saved(colour.convert("CMYK"), "JPEG"),
        saved(colour, "MPO", save_all=True, append_images=[colour]),
    ]


def others() -> list[bytes]:
    grey = picture(7, 24)
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    return [
        saved(grey, "BMP"),
        saved(grey.convert("RGB"), "BMP"),
        saved(grey, "TIFF"),
        saved(deep, "TIFF", compression="tiff_lzw"),
        saved(grey.convert("RGB"), "TIFF", compression="jpeg"),
        saved(grey, "TIFF", save_all=True, append_images=[grey], compression="tiff_adobe_deflate"),
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


def show_volume(path: Path) -> None:
    """As a user goes on who is told to choose a slice."""
    try:
        show(path)
    except UserError as error:
        if "choose a plane" not in str(error) and "choose one" not in str(error):
            raise
        for plane in ("axial", "sagittal"):
            show(path, View(frame=0, plane=plane, slice=0))


def show_first(path: Path) -> None:
    """As a user goes on who is told to choose a frame."""
    try:
        show(path)
    except UserError as error:
        if "choose one" not in str(error):
            raise
        show(path, View(frame=0))


def png(number: int) -> bytes:
    changed = mutant(PNGS, number)
    return with_right_checksums(changed) if number % 4 else changed


def nifti(number: int) -> bytes:
    return mutant(NIFTIS, number, within=None if number % 4 == 0 else 560)


def volumes(*names: str) -> list[bytes]:
    return [(Path(nibabel.__file__).parent / "tests/data" / name).read_bytes() for name in names]


MINCS, MGH = volumes("tiny.mnc", "minc1_4d.mnc"), [gzip.decompress(volumes("test.mgz")[0])]
PNGS, JPEGS, OTHERS, DICOMS, NIFTIS = pngs(), jpegs(), others(), dicoms(), niftis()
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
    for name, seeds, read in [
        ("x.png", PNGS, show_first),
        ("x.jpg", JPEGS, show_first),
        ("x.tif", OTHERS, show_first),
        ("x.nii", NIFTIS, show_volume),
    ]:
        for data in seeds:
            (tmp_path / name).write_bytes(data)
            read(tmp_path / name)
    assert len(DICOMS) > 50


@pytest.mark.parametrize("name", CASES)
def test_damaged_pictures(tmp_path: Path, tried: Callable[[str, int], None], name: str) -> None:
    case, read, cases = CASES[name]
    result = hammer(case, range(cases), tmp_path / name, read)
    # Both must come about, or the changes are too crude or too timid to try anything.
    assert min(result["read"], result["refused"]) > cases // 50, result
    tried("lying-pictures", cases)


@pytest.mark.soak(share=1)
@pytest.mark.parametrize("name", CASES)
def test_soak_damaged_pictures(
    tmp_path: Path, tried: Callable[[str, int], None], soaking: Callable[[], float], name: str
) -> None:
    case, read, cases = CASES[name]
    tried("lying-soak", hammer_on(case, cases, tmp_path / name, read, soaking))
