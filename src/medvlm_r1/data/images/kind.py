"""What a file is, by its first bytes; by its suffix only where DICOM and NIfTI may come without a mark."""

from pathlib import Path
from typing import Literal

HEAD = 352

_RASTER_MARKS = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_NIFTI_SUFFIXES = (".nii", ".nii.gz")
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
# Value representations of the elements that may come first in an explicit file without a preamble.
_FIRST_REPRESENTATIONS = (b"UL", b"UI", b"OB", b"CS", b"SH", b"DA")


def kind_of(path: Path, head: bytes) -> Literal["DICOM", "NIfTI"] | None:
    """DICOM or NIfTI by the first `HEAD` bytes of a file and its name; None for anything else."""
    name = path.name.lower()
    # First, since a DICOM file may carry a TIFF header in its preamble.
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith(_RASTER_MARKS):
        return None
    if name.endswith(_NIFTI_SUFFIXES) or is_nifti(head):
        return "NIfTI"
    if name.endswith(_DICOM_SUFFIXES) or _starts_like_dicom(head):
        return "DICOM"
    return None


def is_nifti(head: bytes) -> bool:
    """Whether the first bytes are the header of a NIfTI-1 or NIfTI-2 file, or of a .hdr/.img pair."""
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def _starts_like_dicom(head: bytes) -> bool:
    """Old files lack the preamble: they begin with an element of group 2 or 8, whose value has a plausible length."""
    if len(head) < 8:
        return False
    for order in _ORDERS:
        group, element = (int.from_bytes(head[i : i + 2], order) for i in (0, 2))
        if group in (2, 8) and element <= 0x18:
            explicit = head[4:6] in _FIRST_REPRESENTATIONS
            if explicit or int.from_bytes(head[4:8], order) <= 128:
                return True
    return False
