"""Files in memory, a reader that checks lengths, format detection by content, and silenced library logs."""

from __future__ import annotations

import io
import logging
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medvlm_r1.errors import UserError

if TYPE_CHECKING:
    _Path = Path
else:
    # Up to Python 3.11 only the classes for one system can be derived from.
    _Path = type(Path())


T = TypeVar("T")


class _Stream(io.BytesIO):
    """Bytes with a name, as readers expect of a file."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


class InMemoryFile(_Path):
    """A file in memory with the interface of a path: it can be opened and has a size and a name."""

    _data: bytes

    @classmethod
    def of(cls, data: bytes, name: str) -> InMemoryFile:
        """Wrap bytes.

        Args:
            data: Content of the file.
            name: Shown in messages. Its suffix decides the format where the content does not.
        """
        file = cls(name)
        file._data = data
        return file

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """A stream over the bytes, whatever the mode."""
        return _Stream(self._data, str(self))

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """The size, as of a regular file."""
        return os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, len(self._data), 0, 0, 0))

    def is_file(self, *args: Any, **kwargs: Any) -> bool:
        """True."""
        return True


# Bytes of a compressed file that is unpacked in memory.
MAX_INFLATED = 2**29
_WORTH_ASKING = 2**20


class LengthCheckedReader(io.BufferedReader):
    """A file reader that limits each read to the bytes left in the file.

    Python allocates as many bytes as it is asked for before it reads any. A damaged header with a length of 4 GB would
    allocate 4 GB.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Args:
            path: May be an `InMemoryFile`.
        """
        super().__init__(path.open("rb", buffering=0))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes, and at most what is left."""
        if size is not None and size > _WORTH_ASKING:
            size = min(size, max(0, self._size - self.tell()))
        return super().read(size)


# The first 352 bytes identify a DICOM or NIfTI file. Twice as many, since they may be compressed.
HEAD = 704
GZIP = b"\x1f\x8b"

_DICM = b"DICM"
_RASTER_MARKS = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
# Suffixes and first bytes of volumes; NIfTI has its mark elsewhere.
_VOLUMES = (
    ("NIfTI", (".nii",), ()),
    ("AFNI", (".head", ".brik"), (b"\ntype  = ", b"\ntype = ")),
    ("PAR/REC", (".par", ".rec"), (b"# === DATA DESCRIPTION FILE",)),
    ("MGH", (".mgh", ".mgz"), (b"\0\0\0\1\0\0",)),
    ("MINC", (), (b"CDF\1",)),
)
_TO_NIFTI = "convert it to NIfTI, for example with 3D Slicer"
_TO_PNG = "convert it to PNG"
_UNPACK = "unpack it"
_GIVE_IMAGE = "give the path of an image"
# First bytes, name and advice of formats that are not supported.
_FOREIGN = (
    (b"NRRD000", "an NRRD volume", _TO_NIFTI),
    (b"ObjectType =", "a MetaImage volume", _TO_NIFTI),
    (b"NDims =", "a MetaImage volume", _TO_NIFTI),
    (b"\x89HDF", "an HDF5 or MINC 2 file", _TO_NIFTI),
    ((348).to_bytes(4, "little"), "the header of an Analyze volume", _TO_NIFTI),
    ((348).to_bytes(4, "big"), "the header of an Analyze volume", _TO_NIFTI),
    (b"PK\3\4", "a ZIP archive", _UNPACK),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ", "an xz file", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (GZIP, "a gzip file inside a gzip file", _UNPACK),
    (b"GIF8", "a GIF image", _TO_PNG),
    (b"RIFF", "a WebP image or another RIFF file", _TO_PNG),
    (b"\0\0\0\x0cjP", "a JPEG 2000 image", _TO_PNG),
    (b"%PDF", "a PDF document", _GIVE_IMAGE),
)
# Value representations of the elements that may come first in an explicit file without a preamble.
_FIRST_REPRESENTATIONS = (b"UL", b"UI", b"OB", b"CS", b"SH", b"DA")


def sniff_format(path: Path, head: bytes) -> str | None:
    """Detect DICOM or the format of a volume from the first `HEAD` bytes of a file and its name; otherwise None."""
    name = path.name.lower().removesuffix(".gz")
    head = unzipped_head(head)
    # First, since a DICOM file may carry a TIFF header in its preamble.
    if head[128:132] == _DICM:
        return "DICOM"
    if head.startswith(_RASTER_MARKS):
        return None
    if is_nifti(head):
        return "NIfTI"
    for volume, suffixes, marks in _VOLUMES:
        if name.endswith(suffixes) or head.startswith(marks):
            return volume
    if name.endswith(_DICOM_SUFFIXES) or _starts_like_dicom(head):
        return "DICOM"
    return None


def unzipped_head(head: bytes) -> bytes:
    """Decompress the first bytes of a gzip file; return those of any other file unchanged."""
    if not head.startswith(GZIP):
        return head
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEAD)
    except zlib.error:
        return b""


def is_nifti(head: bytes) -> bool:
    """Whether the first bytes are the header of a NIfTI-1 or NIfTI-2 file, or of a .hdr/.img pair."""
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def _starts_like_dicom(head: bytes) -> bool:
    """Whether this is a DICOM file without a preamble: an element of group 2 or 8 with a plausible length."""
    if len(head) < 8:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", head[:8])
        if group in (2, 8) and element <= 0x18 and (head[4:6] in _FIRST_REPRESENTATIONS or length <= 128):
            return True
    return False


def sniff_foreign_format(head: bytes) -> tuple[str, str] | None:
    """Detect the format of a file that is not supported, with advice.

    Args:
        head: Its first bytes. With more bytes, a longer header before DICOM is recognized.

    Returns:
        The name of the format and advice; None for a supported file or an unknown format.
    """
    if head[128:132] == _DICM or head.startswith(_RASTER_MARKS) or is_nifti(head):
        return None
    for mark, name, advice in _FOREIGN:
        if head.startswith(mark):
            return name, advice
    # The marker and the first element of the file meta information, behind the header of another program.
    at = head.find(_DICM + b"\2\0")
    if at >= 0:
        other = at - 128 if at > 128 else at + 4
        return f"DICOM behind {other} bytes of another header", f"remove them (tail -c +{other + 1} OLD > NEW.dcm)"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "plain text", _GIVE_IMAGE
    return None


def guarded(path: Path, work: Callable[[], T], what: str) -> T:
    """Run `work`; turn any library error into a `UserError` that quotes none of its text, which may name a patient.

    pydicom's messages repeat header values, and Python would print them below ours in a traceback.

    Raises:
        UserError: `work` failed.
        MemoryError: Memory ran out, which is not a fault of the file.
    """
    try:
        return work()
    except (UserError, MemoryError):
        raise
    except Exception as error:
        kind = type(error).__name__
    raise UserError(f"{path}: {what} ({kind}); copy the file again or convert it with its vendor's software")


_LOGGERS = ("pydicom", "pylibjpeg", "nibabel", "nibabel.global")
_lock = threading.RLock()


@contextmanager
def silence_logging() -> Iterator[None]:
    """Suppress Python warnings and the log lines of image libraries.

    A lock admits one thread at a time. Warning filters belong to the process, so overlapping threads could leave them
    changed.
    """
    with _lock, warnings.catch_warnings(), ExitStack() as restore:
        warnings.simplefilter("ignore")
        for logger in map(logging.getLogger, _LOGGERS):
            restore.callback(setattr, logger, "disabled", logger.disabled)
            logger.disabled = True
        yield
