"""Open a volume with nibabel after checking its header against the file."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.brikhead import AFNIImage
from nibabel.fileholders import FileHolder
from nibabel.freesurfer import MGHImage
from nibabel.minc1 import Minc1Image
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image
from nibabel.parrec import PARRECImage
from nibabel.spatialimages import SpatialImage

from medvlm_r1.data.images.files import GZIP, InMemoryFile, LengthCheckedReader, is_nifti
from medvlm_r1.data.images.picture import TooLarge
from medvlm_r1.errors import UserError

# Declared size of all volumes together: a gzip file of a few megabytes can be made to inflate without end.
_MOST_BYTES = 8 * 2**30
# Of one that was sent instead of named: it occupies the process that answers others.
_MOST_SENT_BYTES = 2 * 2**30

# Where the voxels begin: extensions (which may hold a whole DICOM header) stand before, and nibabel reads them.
_MOST_HEADER_BYTES = 2**26

# An image of one of nibabel's classes, whose types are not complete.
Volume = Any


def open_volume(path: Path, kind: str) -> Volume:
    """Check the header, then open without reading voxels (MINC: with them).

    Args:
        path: The file; of a format with two files, either of them.
        kind: NIfTI, MGH, MINC, AFNI or PAR/REC.

    Raises:
        UserError: It is damaged or cut short, of a shape that cannot be shown, or one of its files is not there.
        TooLarge: It has over 8 GB, or over 2 GB where it was sent instead of named.
    """
    if kind == "MINC":
        return _open_minc(path)
    if kind in ("AFNI", "PAR/REC"):
        return _open_pair(path, AFNIImage if kind == "AFNI" else PARRECImage)
    with _stream(path) as file:
        head = file.read(Nifti2Image.header_class.sizeof_hdr)
    image_class = MGHImage if kind == "MGH" else Nifti2Image if head[4:7] in (b"n+2", b"ni2") else Nifti1Image
    header_class = image_class.header_class
    size = header_class.template_dtype.itemsize
    if kind == "NIfTI" and (len(head) < size or not is_nifti(head)):
        raise UserError(f"{path}: not a NIfTI file, or cut short in its header; copy it again")
    header = header_class(head[:size], check=False)
    if kind == "NIfTI" and bytes(header["magic"]).startswith(b"ni"):
        raise UserError(f"{path}: the header of a .hdr/.img pair; convert the pair to one .nii file")
    size = _check_shape(path, header.get_data_shape(), header.get_data_dtype())
    start = int(header.get_data_offset())
    if start > _MOST_HEADER_BYTES:
        raise UserError(f"{path}: its header says the voxels begin at byte {start}; it is damaged, copy it again")
    _check_length(path, start + size)
    return image_class.from_file_map({"image": FileHolder(fileobj=_stream(path))}, mmap=False)


def _open_minc(path: Path) -> Volume:
    with LengthCheckedReader(path) as file:
        volume = Minc1Image.from_file_map({"image": FileHolder(fileobj=file)})
    _check_shape(path, volume.shape, np.dtype(float))
    names = volume.dataobj.minc_file._dim_names
    if names[0] != "time":
        return volume
    return SpatialImage(np.moveaxis(np.asanyarray(volume.dataobj), 0, -1), volume.affine)


def _open_pair(path: Path, image_class: Any) -> Volume:
    """A header and its voxels, two files of one name in one folder. A link to another place is not followed."""
    if isinstance(path, InMemoryFile):
        raise UserError(f"{path}: one of two files that make the volume; give the path of one, beside the other")
    holders = image_class.filespec_to_file_map(path)
    header, voxels = (Path(holders[name].filename) for name in ("header", "image"))
    for file in (header, voxels):
        if not file.is_file() or (file != path and file.is_symlink()):
            raise UserError(f"{path}: the other file of the volume, {file.name}, is not beside it; put it there")
    if header.stat().st_size > _MOST_HEADER_BYTES:
        raise UserError(f"{path}: its header has over {_MOST_HEADER_BYTES} bytes; it is damaged, copy it again")
    holders["image"] = FileHolder(fileobj=_stream(voxels))
    volume = image_class.from_file_map(holders, mmap=False)
    _check_length(voxels, _check_shape(path, volume.shape, volume.get_data_dtype()))
    return volume


def _is_zipped(path: Path) -> bool:
    """By its content: the name need not tell."""
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def _stream(path: Path) -> Any:
    """Kept open: a sagittal slice is read plane by plane, and a .gz would be inflated from its start for each."""
    return gzip.open(path.open("rb")) if _is_zipped(path) else path.open("rb")


def _check_length(path: Path, wanted: int) -> None:
    size = path.stat().st_size
    if size < wanted and not _is_zipped(path):
        raise UserError(f"{path}: its voxels are cut short ({size} bytes of {wanted}); copy it again")


def _check_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of the voxels."""
    lengths = " x ".join(map(str, shape))
    if not shape or min(shape) < 1:
        raise UserError(f"{path}: a volume of shape ({lengths}) has no voxels")
    if len(shape) > 4 and max(shape[4:]) > 1:
        raise UserError(f"{path}: a volume of {len(shape)} dimensions ({lengths}); wanted 2, 3 or 4")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    most = _MOST_SENT_BYTES if isinstance(path, InMemoryFile) else _MOST_BYTES
    if size > most:
        raise TooLarge(f"{path}: the volume is too large ({lengths}, {size} bytes); at most {most // 2**30} GB")
    return size
