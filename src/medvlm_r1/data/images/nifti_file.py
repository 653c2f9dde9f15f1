"""Open a NIfTI file after checking its header against the file."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.fileholders import FileHolder
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image

from medvlm_r1.data.images.files import GZIP, InMemoryFile, is_nifti
from medvlm_r1.data.images.picture import TooLarge
from medvlm_r1.errors import UserError

_HEADER_BYTES = 540

# Declared size of all volumes together: a gzip file of a few megabytes can be made to inflate without end.
_MOST_BYTES = 8 * 2**30
# Of one that was sent instead of named: it occupies the process that answers others.
_MOST_HELD_BYTES = 2 * 2**30

# Where the voxels begin: extensions (which may hold a whole DICOM header) stand before, and nibabel reads them.
_MOST_EXTENSION = 2**26

# nibabel's Nifti1Image or Nifti2Image, whose types are not complete.
Volume = Any


def open_volume(path: Path) -> Volume:
    """Check the header's first bytes, then open without reading voxels.

    Raises:
        UserError: It is no NIfTI file or cut short, or of a shape that cannot be shown.
        TooLarge: It has over 8 GB, or over 2 GB where it was sent instead of named.
    """
    with path.open("rb") as file:
        zipped = file.read(len(GZIP)) == GZIP
    with _stream(path, zipped=zipped) as file:
        head = file.read(_HEADER_BYTES)
    kind = Nifti2Image if head[4:7] in (b"n+2", b"ni2") else Nifti1Image
    if len(head) < kind.header_class.sizeof_hdr or not is_nifti(head):
        raise UserError(f"{path}: not a NIfTI file, or cut short in its header; copy it again")
    header = kind.header_class(head[: kind.header_class.sizeof_hdr], check=False)
    if bytes(header["magic"]).startswith(b"ni"):
        raise UserError(f"{path}: the header of a .hdr/.img pair; convert the pair to one .nii file")
    shape = header.get_data_shape()
    size = int(np.prod(shape, dtype=object)) * header.get_data_dtype().itemsize
    _check_shape(path, shape, size)
    start = int(header["vox_offset"])
    if start > _MOST_EXTENSION:
        raise UserError(f"{path}: its header says the voxels begin at byte {start}; it is damaged, copy it again")
    if not zipped and path.stat().st_size < start + size:
        raise UserError(
            f"{path}: its voxels are cut short ({path.stat().st_size} bytes of {start + size}); copy it again"
        )
    # Not by its name, which need not tell whether it is zipped.
    holder = FileHolder(fileobj=_stream(path, zipped=zipped))
    # Kept open: a sagittal slice is read plane by plane, and a .gz would be inflated from its start for each.
    return kind.from_file_map({"image": holder}, mmap=False, keep_file_open=True)


def _stream(path: Path, *, zipped: bool) -> Any:
    return gzip.open(path.open("rb")) if zipped else path.open("rb")


def _check_shape(path: Path, shape: tuple[int, ...], size: int) -> None:
    told = " x ".join(map(str, shape))
    if not shape or min(shape) < 1:
        raise UserError(f"{path}: a NIfTI volume of shape ({told}) has no voxels")
    if len(shape) > 4 and max(shape[4:]) > 1:
        raise UserError(f"{path}: a NIfTI file of {len(shape)} dimensions ({told}); wanted 2, 3 or 4")
    most = _MOST_HELD_BYTES if isinstance(path, InMemoryFile) else _MOST_BYTES
    if size > most:
        raise TooLarge(f"{path}: the volume is too large ({told}, {size} bytes); at most {most // 2**30} GB")
