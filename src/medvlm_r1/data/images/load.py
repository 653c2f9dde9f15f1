"""Load an image: detect the format of a file and call its reader."""

import gzip
import zlib
from functools import partial
from pathlib import Path

from PIL import Image

from medvlm_r1.data.images.files import GZIP, HEAD, MAX_INFLATED, InMemoryFile, sniff_foreign_format, sniff_format
from medvlm_r1.data.images.picture import Picture, View
from medvlm_r1.errors import UserError

# Unzipped by their reader, which need not hold a whole series in memory.
_STREAMED = ("NIfTI", "MGH", "AFNI")
_FORMATS = "PNG, JPEG, TIFF, BMP, DICOM or NIfTI image"
# Bytes searched for a DICOM file behind the header of another program.
_FOREIGN_HEAD = 2**16
_BLOCK = 2**20


def load_picture(path: str | Path, view: View = View()) -> Picture:  # noqa: B008 - frozen
    """Decode one image.

    Args:
        path: A PNG, JPEG, TIFF, BMP or DICOM file, a volume (NIfTI, AFNI, MGH, MINC 1, PAR/REC), or a gzip file of one.
        view: Which frame or slice to show, and through which window.

    Returns:
        The picture (RGB, 8 bit, upright, square pixels, without metadata) and what was done to make it.

    Raises:
        UserError: The file is absent, empty, of another kind, damaged, truncated, too large (also for the available
            memory), or needs a choice (frame, plane, slice) that `view` does not make. The message names the file and
            quotes no header value that could name a patient.
        UsageError: `view` requests something that this kind of file does not have.
    """
    # Keep a Path as it is: it may be an `InMemoryFile`.
    path = path if isinstance(path, Path) else Path(path)
    try:
        size = path.stat().st_size
        regular = path.is_file()
        head = _head(path, _FOREIGN_HEAD) if regular else b""
    except PermissionError as error:
        raise UserError(f"{path}: may not be read; check its permissions") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no such image; check the path") from error
    if not regular:
        raise UserError(f"{path}: not a file; give the path of one image")
    if size == 0:
        raise UserError(f"{path}: the image file is empty (0 bytes); copy it again")
    kind = sniff_format(path, head[:HEAD])
    if head.startswith(GZIP) and kind not in _STREAMED:
        path = _unzipped(path)
        head = _head(path, _FOREIGN_HEAD)
    if kind in (None, "DICOM") and (foreign := sniff_foreign_format(head)):
        raise UserError(f"{path}: not a {_FORMATS} but {foreign[0]}; {foreign[1]}")
    match kind:
        # Imported on first use: most data sets are PNGs, and both libraries load slowly.
        case "DICOM":
            from medvlm_r1.data.images.dicom import load_dicom as load
        case None:
            from medvlm_r1.data.images.raster import load_raster as load
        case _:
            from medvlm_r1.data.images.volume import load_volume

            load = partial(load_volume, kind=kind)
    try:
        return load(path, view)
    except MemoryError:
        # The file may be sound, so it must not be reported as damaged.
        message = f"{path}: there is not enough memory to open it; free some, or make the image smaller"
    raise UserError(message)


def load_image(path: str | Path) -> Image.Image:
    """The image alone, in the default view of the file. See `load_picture`."""
    return load_picture(path).image


def is_medical(path: str | Path) -> bool:
    """Whether a file is DICOM or a volume such as NIfTI: by its first bytes, otherwise by its suffix."""
    path = Path(path)
    try:
        head = _head(path)
    except (OSError, ValueError):
        head = b""
    return sniff_format(path, head) is not None


def _head(path: Path, size: int = HEAD) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _unzipped(path: Path) -> InMemoryFile:
    """Unpack a gzip file in memory, under the file's own name.

    Raises:
        UserError: It is damaged, or larger than `MAX_INFLATED`.
    """
    data = bytearray()
    try:
        with path.open("rb") as raw, gzip.open(raw) as file:
            while block := file.read(_BLOCK):
                data += block
                if len(data) > MAX_INFLATED:
                    raise UserError(f"{path}: the gzip file holds over {MAX_INFLATED // 2**20} MB; unpack it")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: the gzip file is damaged or cut short; copy it again") from error
    if not data:
        raise UserError(f"{path}: the gzip file holds an empty file (0 bytes); copy it again")
    return InMemoryFile.of(bytes(data), str(path))
