"""Check DICOM pixel data against the header before decoding: its length, and the size in a compressed frame.

A file that declares fewer rows, columns or bits than it holds would otherwise be shown: truncated, skewed or as noise.
A decoder trusts the size in the frame, not the one in the header.
"""

from pathlib import Path

from pydicom.encaps import get_frame
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import RLELossless

from medvlm_r1.data.images.dicom_header import PIXELS, Header
from medvlm_r1.data.images.files import LengthCheckedReader
from medvlm_r1.errors import UserError

_UNDEFINED = 0xFFFFFFFF
_BLOCK = 2**20
_J2K_START = b"\xff\x4f\xff\x51"
# Start-of-frame markers of JPEG (all but DHT, JPG and DAC) and of JPEG-LS.
_FRAME_MARKERS = (*(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC)), 0xF7)


def check_length(path: Path, header: Header) -> tuple[str, ...]:
    """Compare the length of uncompressed pixel data with the header.

    Args:
        path: A path or an `InMemoryFile`.
        header: Its header.

    Returns:
        A warning if padding follows the pixels.

    Raises:
        UserError: There are too few bytes, trailing bytes other than 0 (padding is 0), or compressed pixels.
    """
    wanted = get_expected_length(header.elements)
    if header.whole:
        data = next(bytes(header.elements[keyword].value) for keyword in PIXELS if keyword in header.elements)
        length, padded = len(data), not any(data[wanted:])
    else:
        with LengthCheckedReader(path) as file:
            file.seek(header.pixels_at - 4)
            length = int.from_bytes(file.read(4), "little" if header.syntax.is_little_endian else "big")
            if length == _UNDEFINED:
                raise UserError(
                    f"{path}: its pixels are compressed and its header does not say how; "
                    "convert it to uncompressed DICOM"
                )
            length = min(length, path.stat().st_size - header.pixels_at)
            file.seek(header.pixels_at + wanted)
            padded = not any(any(file.read(min(_BLOCK, length - at))) for at in range(wanted, length, _BLOCK))
    if length < wanted:
        raise UserError(
            f"{path}: its pixels are cut short ({length} bytes of the {wanted} in its header); copy it again"
        )
    # A single one makes the length even.
    if length <= wanted + wanted % 2:
        return ()
    if not padded:
        raise UserError(
            f"{path}: its pixels are {length} bytes, and its header declares {wanted}: rows, columns, bits or frames "
            "are not what they were when it was written; export it again"
        )
    return (f"{length - wanted} bytes of padding follow the pixels.",)


def check_codestream(path: Path, header: Header) -> None:
    """Refuse a compressed frame whose width and height differ from the header.

    Raises:
        UserError: They differ.
    """
    if header.syntax == RLELossless:
        return  # has no size of its own
    elements = header.elements
    tables = (elements.get("ExtendedOffsetTable"), elements.get("ExtendedOffsetTableLengths"))
    with LengthCheckedReader(path) as file:
        file.seek(header.pixels_at)
        extended = tables if all(tables) else None
        frame = get_frame(file, header.frame, number_of_frames=header.frames, extended_offsets=extended)
    size = codestream_size(frame)
    if size not in (None, (elements.Columns, elements.Rows)):
        raise UserError(
            f"{path}: the compressed frame is {size[0]} x {size[1]} pixels and the header says "
            f"{elements.Columns} x {elements.Rows}; copy the file again"
        )


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height from the header of a JPEG, JPEG-LS or JPEG 2000 codestream; None without such a header."""
    start = frame.find(_J2K_START, 0, 512)
    if start >= 0:
        # SOC, SIZ, its length and capabilities: 8 bytes; then the far corner and the near corner of the image.
        right, bottom, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in range(start + 8, start + 24, 4))
        return right - left, bottom - top
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in _FRAME_MARKERS:
            return int.from_bytes(frame[at + 7 : at + 9], "big"), int.from_bytes(frame[at + 5 : at + 7], "big")
        # Fill bytes may stand before a marker.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
