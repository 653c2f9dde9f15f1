"""Check the length of DICOM pixel data against rows, columns, bits and frames.

A file that tells of fewer rows, columns or bits than it holds would be shown all the same: cut off, aslant or as noise.
"""

from pathlib import Path

from pydicom.pixels.utils import get_expected_length

from medvlm_r1.data.images.dicom_header import PIXELS, Header
from medvlm_r1.data.images.files import LengthCheckedReader
from medvlm_r1.errors import UserError

_UNDEFINED = 0xFFFFFFFF
_BLOCK = 2**20


def check_length(path: Path, header: Header) -> tuple[str, ...]:
    """Compare the length of uncompressed pixel data with the header.

    Args:
        path: May be a `InMemoryFile`.
        header: Its header.

    Returns:
        What is to be said with the picture: that there is padding behind the pixels.

    Raises:
        UserError: Fewer bytes, or more of which some are not 0, which padding is; or compressed pixels.
    """
    if header.syntax.is_encapsulated:
        return ()
    wanted = get_expected_length(header.elements)
    if header.whole:
        data = next(bytes(header.elements[keyword].value) for keyword in PIXELS if keyword in header.elements)
        there, empty = len(data), not any(data[wanted:])
    else:
        there, empty = _in_file(path, header, wanted)
    if there < wanted:
        raise UserError(
            f"{path}: its pixels are cut short ({there} bytes of the {wanted} that its header tells); copy it again"
        )
    # A single one makes the length even.
    if there <= wanted + wanted % 2:
        return ()
    if not empty:
        raise UserError(
            f"{path}: its pixels are {there} bytes, and its header tells of {wanted}: rows, columns, bits or frames "
            "are not what they were when it was written; export it again"
        )
    return (f"{there - wanted} bytes of padding follow the pixels.",)


def _in_file(path: Path, header: Header, wanted: int) -> tuple[int, bool]:
    """Bytes of pixels by their own length or as many as there are, and whether those beyond `wanted` are 0."""
    with LengthCheckedReader(path) as file:
        file.seek(header.pixels_at - 4)
        told = int.from_bytes(file.read(4), "little" if header.syntax.is_little_endian else "big")
        there = path.stat().st_size - header.pixels_at
        if told == _UNDEFINED:
            raise UserError(
                f"{path}: its pixels are compressed and its header does not say how; convert it to uncompressed DICOM"
            )
        there = min(there, told)
        file.seek(header.pixels_at + wanted)
        left = there - wanted
        while left > 0:
            block = file.read(min(left, _BLOCK))
            if any(block):
                return there, False
            left -= len(block)
        return there, True
