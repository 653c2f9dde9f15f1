"""In-memory files, a length-checked reader, format detection by content, and suppression of library logs."""

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

from medvlm_r1.disk import read_table
from medvlm_r1.errors import UserError

if TYPE_CHECKING:
    _Path = Path
else:
    # Up to Python 3.11, only the platform-specific path classes can be subclassed.
    _Path = type(Path())

from pathlib import Path

T = TypeVar("T")


class _Stream(io.BytesIO):
    """A `BytesIO` with the `name` that some readers expect of a file."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


class InMemoryFile(_Path):
    """A file in memory with the interface of a path: it can be opened and has a size and a name."""

    _data: bytes

    @classmethod
    def of(cls, data: bytes, name: str) -> InMemoryFile:
        """Wrap bytes as a file.

        Args:
            data: Content of the file.
            name: Name shown in messages. Its suffix decides the format if the content does not.
        """
        file = cls(name)
        file._data = data
        return file

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """Open a binary stream over the bytes. The mode is ignored."""
        return _Stream(self._data, str(self))

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Status of a regular file with the size of the content."""
        return os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, len(self._data), 0, 0, 0))

    def is_file(self, *args: Any, **kwargs: Any) -> bool:
        """Always True."""
        return True


# Maximum size, in bytes, of the content of a compressed file that is unpacked in memory.
MAX_INFLATED = 2**29
_WORTH_ASKING = 2**20


class LengthCheckedReader(io.BufferedReader):
    """A file reader that limits each read to the bytes left in the file.

    Python allocates the requested number of bytes before it reads. A damaged header that declares a length of 4 GB
    would otherwise allocate 4 GB.
    """

    def __init__(self, path: Path) -> None:
        """Open a file or an `InMemoryFile`."""
        super().__init__(path.open("rb", buffering=0))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes, and no more than the bytes left in the file."""
        if size is not None and size > _WORTH_ASKING:
            size = min(size, max(0, self._size - self.tell()))
        return super().read(size)


# The first 352 bytes identify a DICOM or NIfTI file. Twice as many are read because they may be compressed.
HEAD = 704
GZIP = b"\x1f\x8b"
ZIP = b"PK\3\4"

_DICM = b"DICM"
_RASTER_MARKS = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
# Suffixes and first bytes of volume formats. NIfTI has its signature at a later offset.
_VOLUMES = (
    ("NIfTI", (".nii",), ()),
    ("NRRD", (".nrrd", ".nhdr"), (b"NRRD000",)),
    ("AFNI", (".head", ".brik"), (b"\ntype  = ", b"\ntype = ")),
    ("PAR/REC", (".par", ".rec"), (b"# === DATA DESCRIPTION FILE",)),
    ("MGH", (".mgh", ".mgz"), (b"\0\0\0\1\0\0",)),
    ("MINC", (), (b"CDF\1",)),
)
# First bytes, name and advice of formats that are not supported.
_FOREIGN = [
    (mark.encode().decode("unicode_escape").encode("latin-1"), name, advice)
    for mark, name, advice in read_table(Path(__file__).with_name("foreign.tsv"))
]
_GIVE_IMAGE = "give the path of an image"
# Value representations of the elements that may come first in an explicit file without a preamble.
_FIRST_REPRESENTATIONS = (b"UL", b"UI", b"OB", b"CS", b"SH", b"DA")


def read_head(path: Path, size: int = HEAD) -> bytes:
    """First bytes of a file."""
    with path.open("rb") as file:
        return file.read(size)


def sniff_format(path: Path, head: bytes) -> str | None:
    """Detect DICOM or a volume format from the first `HEAD` bytes of a file and its name; None for any other format."""
    name = path.name.lower().removesuffix(".gz")
    head = _unzipped_head(head)
    # Checked first, because the preamble of a DICOM file may contain a TIFF header.
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


def _unzipped_head(head: bytes) -> bytes:
    """First bytes of the content of a gzip file; those of any other file unchanged."""
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
    """Whether the bytes look like DICOM without a preamble: an element of group 2 or 8 with a plausible length."""
    if len(head) < 8:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", head[:8])
        if group in (2, 8) and element <= 0x18 and (head[4:6] in _FIRST_REPRESENTATIONS or length <= 128):
            return True
    return False


def sniff_foreign_format(head: bytes) -> tuple[str, str] | None:
    """Detect the format of an unsupported file, and give advice.

    Args:
        head: First bytes of the file. With more bytes, DICOM content is also found behind a longer foreign header.

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
    """Run `work`, and convert any library error to a `UserError` that does not quote the library's message.

    The message may name a patient, because pydicom's messages repeat header values. A chained exception would print it
    in the traceback.

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
    """Suppress Python warnings and the log messages of image libraries.

    Only one thread at a time can enter the block. Warning filters apply to the whole process, so overlapping threads
    could leave them changed.
    """
    with _lock, warnings.catch_warnings(), ExitStack() as restore:
        warnings.simplefilter("ignore")
        for logger in map(logging.getLogger, _LOGGERS):
            restore.callback(setattr, logger, "disabled", logger.disabled)
            logger.disabled = True
        yield
