"""Write images into a data folder: only what was decoded as an image, and nothing else of the file.

PNG and JPEG files keep their compressed pixels; metadata and bytes after the end of the image are left out. Every
other format is written as a PNG of what the image loader shows. A file that cannot be decoded is refused.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlm_r1.data.images import Picture, load_picture
from medvlm_r1.data.images.files import InMemoryFile
from medvlm_r1.data.importing.finder import FILE_VIEW, SourceImage
from medvlm_r1.data.paths import inside
from medvlm_r1.data.subjects import SubjectHasher
from medvlm_r1.errors import UserError

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_COMPRESSED = ("PNG", "JPEG", "MPO")
_MOST_HELD = 2**30
# What a PNG needs, and harmless chunks of numbers, each with its most bytes. IDAT holds the pixels.
_CHUNKS = {b"IHDR": 13, b"PLTE": 768, b"tRNS": 256, b"IEND": 0}
_CHUNKS |= {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"sBIT": 4, b"bKGD": 6}
# Frame headers, Huffman and quantization tables, restart interval, number of lines, start of scan.
_SEGMENTS = frozenset({*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD} - {0xC8})
# JFIF without a thumbnail, and Adobe's color transform: both of a fixed length, both needed for the colors.
_APPLICATION = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_EOI = 0xD9


@dataclass(slots=True)
class ImageWriter:
    """Writes images into a data folder, each once.

    Attributes:
        out: The data folder.
        hasher: Hashes DICOM identifiers to subjects.
        notes: The loader's note by name in the data folder, for images that were converted to PNG.
        subjects: Subject from the DICOM header by name in the data folder.
        stripped: Names of the PNG and JPEG files that were written without their metadata or trailing bytes.
    """

    out: Path
    hasher: SubjectHasher
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)
    stripped: set[str] = field(default_factory=set)
    _done: set[str] = field(default_factory=set)

    def write(self, image: SourceImage) -> None:
        """Decode one image and write it.

        Raises:
            UserError: It cannot be read or shown, it would replace its own source, its name leads out of the data
                folder, or the disk refuses.
        """
        if image.source is None or image.name in self._done:
            return
        target = inside(self.out, image.name)
        try:
            self._write(image, image.source, target)
        except OSError as error:
            name = "image" if isinstance(image.source, bytes) else image.source
            raise UserError(f"{name}: cannot be copied to {target} ({error.strerror or error})") from error
        self._done.add(image.name)

    def _write(self, image: SourceImage, source: str | bytes, target: Path) -> None:
        original = source if isinstance(source, bytes) else _compressed_bytes(source)
        # What is decoded is what is written, even if the file changes meanwhile.
        name = "the image in the row" if isinstance(source, bytes) else source
        file = Path(name) if original is None else InMemoryFile.of(original, name)
        picture = load_picture(file, image.view)
        data = None
        if original is not None and image.view == FILE_VIEW and picture.note.format in _COMPRESSED:
            data = _pixels_only(original, picture)
        if isinstance(source, str) and target.exists() and target.samefile(source):
            if data != original or original is None:
                raise UserError(
                    f"{source}: writing it without its metadata would replace the original, which lies in the data "
                    "folder itself; give another folder with --out"
                )
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            picture.image.save(target, "PNG")
            self.notes[image.name] = picture.note.as_record()
        else:
            target.write_bytes(data)
            if data != original:
                self.stripped.add(image.name)
        if picture.note.format == "DICOM":
            self.subjects[image.name] = self.hasher.subject_of(file)


def _compressed_bytes(source: str) -> bytes | None:
    """Content of a PNG or JPEG file; None for other kinds, which are not read at once."""
    with open(source, "rb") as stream:
        head = stream.read(len(_PNG))
        if not head.startswith((_PNG, _JPEG)) or os.fstat(stream.fileno()).st_size > _MOST_HELD:
            return None
        return head + stream.read()


def _pixels_only(data: bytes, picture: Picture) -> bytes | None:
    """The file without metadata; None where it cannot be taken off without a change to the picture."""
    pixels = _strip_png(data) if data.startswith(_PNG) else _strip_jpeg(data)
    if pixels is None or picture.note.orientation is not None:
        return None
    if pixels == data:
        return data
    try:
        again = load_picture(InMemoryFile.of(pixels, "image")).image
    except UserError:
        return None
    same = again.size == picture.image.size and again.tobytes() == picture.image.tobytes()
    return pixels if same else None


def _strip_png(data: bytes) -> bytes | None:
    chunks, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        end = at + 12 + length
        if kind == b"IDAT" or length <= _CHUNKS.get(kind, -1):
            chunks.append(data[at:end])
        if kind == b"IEND":
            return b"".join(chunks)
        at = end
    return None


def _strip_jpeg(data: bytes) -> bytes | None:
    chunks, at = [_JPEG], len(_JPEG)
    while marker := _JPEG_MARKER.match(data, at):
        code, start = marker[1][0], marker.end()
        if code == _EOI:
            return b"".join([*chunks, b"\xff\xd9"])
        end = start + int.from_bytes(data[start : start + 2])
        name, length = _APPLICATION.get(code, (b"", 0))
        if code in _SEGMENTS or (name and end - start == length + 2 and data.startswith(name, start + 2)):
            chunks.append(b"\xff" + data[start - 1 : end])
        at = end
        if code == 0xDA:
            # The compressed pixels end before the next marker that is no restart.
            following = _JPEG_MARKER.search(data, end)
            if following is None:
                return None
            chunks.append(data[end : following.start()])
            at = following.start()
    return None
