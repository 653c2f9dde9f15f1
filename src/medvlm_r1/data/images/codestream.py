"""Compare the size in a compressed frame with the DICOM header. A decoder trusts the former."""

from pathlib import Path

from pydicom.encaps import get_frame
from pydicom.uid import RLELossless

from medvlm_r1.data.images.dicom_header import Header
from medvlm_r1.data.images.files import LengthCheckedReader
from medvlm_r1.errors import UserError

_J2K_START = b"\xff\x4f\xff\x51"
# Start-of-frame markers of JPEG (all but DHT, JPG and DAC) and of JPEG-LS.
_FRAME_MARKERS = (*(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC)), 0xF7)


def check_codestream(path: Path, header: Header) -> None:
    """Refuse a frame whose own width and height are not the header's.

    Raises:
        UserError: They differ.
    """
    if header.syntax == RLELossless:
        return  # has no size of its own
    elements = header.elements
    tables = (elements.get("ExtendedOffsetTable"), elements.get("ExtendedOffsetTableLengths"))
    with LengthCheckedReader(path) as file:
        file.seek(header.pixels_at)
        frame = get_frame(
            file,
            header.frame,
            number_of_frames=header.frames,
            extended_offsets=tables if all(tables) else None,
        )
    size = codestream_size(frame)
    wanted = (elements.Columns, elements.Rows)
    if size is not None and size != wanted:
        raise UserError(
            f"{path}: the compressed frame is {size[0]} x {size[1]} pixels and the header says "
            f"{wanted[0]} x {wanted[1]}; copy the file again"
        )


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height by a JPEG, JPEG-LS or JPEG 2000 codestream; None if it has no such header."""
    start = frame.find(_J2K_START, 0, 512)
    if start >= 0:
        # SOC, SIZ, its length and capabilities: 8 bytes; then the far corner and the near corner of the image.
        right, bottom, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in range(start + 8, start + 24, 4))
        return right - left, bottom - top
    at = 2
    while at + 9 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            at += 1
        elif marker in _FRAME_MARKERS:
            return int.from_bytes(frame[at + 7 : at + 9], "big"), int.from_bytes(frame[at + 5 : at + 7], "big")
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
