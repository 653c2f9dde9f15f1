"""Find the image files of a source, and write the decoded images to the data folder.

PNG and JPEG files keep their compressed pixels, but lose metadata and bytes after the end of the image. Every other
format is converted to a PNG of what the image loader shows. A file that cannot be decoded is rejected.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from medvlm_r1.data.folder import IMAGES
from medvlm_r1.data.images import Picture, View, load_picture
from medvlm_r1.data.images.files import InMemoryFile
from medvlm_r1.data.images.picture import FILE_VIEW
from medvlm_r1.data.paths import explain_os_error, inside, is_within, leaves_folder, link_leads_out, path_parts
from medvlm_r1.data.subjects import SubjectHasher
from medvlm_r1.errors import UserError

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_STEM = re.compile(r"(?<=[^/])((\.[A-Za-z]\w*)?\.gz|\.[A-Za-z]\w*)$", re.IGNORECASE)
_MARKS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"II*\0": ".tif", b"MM\0*": ".tif", b"BM": ".bmp"}
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_MOST_HELD = 2**30
# PNG chunks to keep, with their maximum size: required chunks, and harmless chunks of numbers. IDAT holds the pixels.
_CHUNKS = {b"IHDR": 13, b"PLTE": 768, b"tRNS": 256, b"IEND": 0}
_CHUNKS |= {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"sBIT": 4, b"bKGD": 6}
# JPEG segments to keep: frame headers, Huffman and quantization tables, restart interval, line count, start of scan.
_SEGMENTS = frozenset({*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD} - {0xC8})
# JFIF without a thumbnail, and Adobe's color transform. Both have a fixed length and are needed for the colors.
_APPLICATION = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_EOI = 0xD9


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """One image of a row.

    Attributes:
        name: Path in the data folder, such as `images/x.png`.
        stem: Path in the source without the suffix. All slices of one file share it.
        source: Path of the file, or its bytes; None if the file is missing.
        view: The frame, slice and window to show.
    """

    name: str
    stem: str
    source: str | bytes | None
    view: View = FILE_VIEW


class ImageFinder:
    """Finds the files that the image names of a source refer to.

    It is an error if two different files would get the same name in the data folder.
    """

    def __init__(self, root: str | Path, folders: Sequence[str] = ("", IMAGES)) -> None:
        """Set up the search.

        Args:
            root: Folder of the source. Images and link targets outside this folder are rejected.
            folders: Subfolders that image names may be relative to, in search order.

        Raises:
            UserError: The folder does not exist.
        """
        if not os.path.isdir(root):
            raise UserError(f"{root}: no such image folder; give the folder with the image files (--images)")
        self._root = os.fspath(root)
        self._real_root = os.path.realpath(root)
        self._folders = [f for f in dict.fromkeys((*folders, "")) if os.path.isdir(os.path.join(self._root, f))]
        self._prefixes = {IMAGES, *(folder.casefold() for folder in folders if folder)}
        self._files: dict[str, str] = {}
        # In most data sets, consecutive rows ask several questions about one image.
        self._named = lru_cache(maxsize=4096)(self._locate)

    def locate(self, image: str | bytes, view: View = FILE_VIEW) -> SourceImage:
        """Find the file of an image, and choose its name in the data folder.

        Args:
            image: Name of the image in the source, such as `images/x.png` or `x.png`; or the bytes of the image file.
            view: The frame, slice and window to show, for a volume or a file with several frames.

        Raises:
            ValueError: The name is a URL or a folder, or leaves the image folder by `..` or a link. Also if two
                different files would get the same name, or the bytes are not an image.
        """
        return _embedded(image) if isinstance(image, bytes) else self._named(image, view)

    def _locate(self, image: str, view: View) -> SourceImage:
        if _URL.match(image):
            raise ValueError(f"image {image!r} is a URL, and nothing is downloaded here; download it and give the file")
        if os.path.isabs(image):
            for root in (os.path.abspath(self._root), self._real_root):
                if is_within(os.path.normpath(image), root):
                    image = os.path.relpath(image, root)
        if leaves_folder(image):
            raise ValueError(
                f"image path {image!r} leaves the image folder {self._root}; name a folder that holds all images "
                "with --images"
            )
        parts = path_parts(image)
        inner = parts[1:] if len(parts) > 1 and parts[0].casefold() in self._prefixes else parts
        relative = "/".join(inner)
        name = written_name(f"{IMAGES}/{relative}", view)
        file = self._find("/".join(parts)) or (self._find(relative) if inner != parts else None)
        if file is not None and self._files.setdefault(name, file) != file:
            raise ValueError(f"{file} and {self._files[name]} would both be copied to {name}")
        return SourceImage(name=name, stem=_STEM.sub("", relative), source=file, view=view)

    def _find(self, path: str) -> str | None:
        for folder in self._folders:
            file = os.path.join(self._root, folder, path)
            if not os.path.lexists(file):
                continue
            if not is_within(os.path.realpath(file), self._real_root):
                raise ValueError(link_leads_out(file, self._root))
            if os.path.isfile(file):
                return file
            if os.path.isdir(file):
                raise ValueError(f"image {path!r} is a folder; give the path of an image file")
            if os.path.islink(os.path.realpath(file)):
                raise ValueError(f"{file}: links that lead in a circle; put the file itself there")
        return None


def written_name(name: str, view: View = FILE_VIEW) -> str:
    """Name in the data folder. PNG and JPEG files keep their name; every other format or view becomes a PNG."""
    frame = None if view.frame is None else f"frame{view.frame}"
    words = [str(word) for word in (view.plane, view.slice, frame, view.window) if word is not None]
    name += "".join("." + re.sub(r"[^\w.+-]", "-", word) for word in words)
    return name if not words and name.lower().endswith((".png", ".jpg", ".jpeg")) else f"{name}.png"


def _embedded(data: bytes) -> SourceImage:
    """Name an embedded image by the hash of its content, so that all questions about it share one file."""
    suffix = next((suffix for mark, suffix in _MARKS.items() if data.startswith(mark)), None)
    if suffix is None:
        raise ValueError("the image in the row is not a PNG, JPEG, TIFF or BMP file; take it out of the table")
    stem = hashlib.sha256(data).hexdigest()[:24]
    return SourceImage(name=written_name(f"{IMAGES}/{stem}{suffix}"), stem=stem, source=data)


@dataclass(slots=True)
class ImageWriter:
    """Writes images into a data folder, each image once.

    Attributes:
        out: The data folder.
        hasher: Hashes DICOM identifiers to subjects.
        notes: The loader's note for each image that was converted to PNG, by name in the data folder.
        subjects: Subject from the header of each DICOM image, by name in the data folder.
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
            UserError: The image cannot be read, displayed or written; it would replace its own source; or its name
                leads out of the data folder.
        """
        if image.source is None or image.name in self._done:
            return
        target = inside(self.out, image.name)
        name = "image" if isinstance(image.source, bytes) else image.source
        with explain_os_error(f"{name}: cannot be copied to {target}"):
            self._write(image, image.source, target)
        self._done.add(image.name)

    def _write(self, image: SourceImage, source: str | bytes, target: Path) -> None:
        original = source if isinstance(source, bytes) else _compressed_bytes(source)
        # Decode exactly the bytes that are written, even if the file changes meanwhile.
        name = "the image in the row" if isinstance(source, bytes) else source
        file = Path(name) if original is None else InMemoryFile.of(original, name)
        picture = load_picture(file, image.view)
        data = None
        if original is not None and image.view == FILE_VIEW and picture.note.format in ("PNG", "JPEG", "MPO"):
            data = _pixels_only(original, picture)
        if isinstance(source, str) and target.exists() and target.samefile(source):
            if data is None or data != original:
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
    """Content of a PNG or JPEG file; None for other formats and very large files, which are not read at once."""
    with open(source, "rb") as stream:
        head = stream.read(len(_PNG))
        if not head.startswith((_PNG, _JPEG)) or os.fstat(stream.fileno()).st_size > _MOST_HELD:
            return None
        return head + stream.read()


def _pixels_only(data: bytes, picture: Picture) -> bytes | None:
    """Remove the metadata from a PNG or JPEG file; None if that would change the picture."""
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
            # The compressed pixels end before the next marker that is not a restart marker.
            following = _JPEG_MARKER.search(data, end)
            if following is None:
                return None
            chunks.append(data[end : following.start()])
            at = following.start()
    return None
