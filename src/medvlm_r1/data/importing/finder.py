"""Images of a source: their files, and their names in the data folder."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from medvlm_r1.data.folder import IMAGES
from medvlm_r1.data.images import View
from medvlm_r1.data.paths import is_within, leaves_folder, link_leads_out, path_parts
from medvlm_r1.errors import UserError

FILE_VIEW = View()
"""What the file itself shows."""

_REMEMBERED = 4096
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Written under their own names; every other format becomes a PNG.
_KEPT = (".png", ".jpg", ".jpeg")
_STEM = re.compile(r"(?<=[^/])((\.[A-Za-z]\w*)?\.gz|\.[A-Za-z]\w*)$", re.IGNORECASE)
_MARKS = ((b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"BM", ".bmp"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """One image of a row.

    Attributes:
        name: Its name in the data folder, `images/x.png`.
        stem: Its path in the source without the suffix; all slices of one file share it.
        source: The file, or its bytes; None if it is missing.
        view: The frame, slice and window to show.
    """

    name: str
    stem: str
    source: str | bytes | None
    view: View = FILE_VIEW


class ImageFinder:
    """Finds the files behind the image names of a source.

    No two files may get the same name in the data folder.
    """

    def __init__(self, root: str | Path, folders: Sequence[str] = ("", IMAGES)) -> None:
        """Make a finder.

        Args:
            root: Folder of the source. Images and link targets outside of it are refused.
            folders: Subfolders that image names may be relative to, in search order.

        Raises:
            UserError: There is no such folder.
        """
        if not os.path.isdir(root):
            raise UserError(f"{root}: no such image folder; give the folder with the image files (--images)")
        self._root = os.fspath(root)
        self._real_root = os.path.realpath(root)
        self._folders = [f for f in dict.fromkeys((*folders, "")) if os.path.isdir(os.path.join(self._root, f))]
        self._prefixes = {IMAGES, *(folder.casefold() for folder in folders if folder)}
        self._files: dict[str, str] = {}
        # Most sets ask several questions about a picture, one after the other.
        self._named = lru_cache(maxsize=_REMEMBERED)(self._locate)

    def locate(self, image: str | bytes, view: View = FILE_VIEW) -> SourceImage:
        """Give an image its name in the data folder.

        Args:
            image: As the source names it, such as `images/x.png` or `x.png`, or the bytes themselves.
            view: What to show of a volume or of a file with several frames.

        Raises:
            ValueError: The name leaves the image folder, by `..` or by a link; two different files would get the same
                name; or the bytes are not an image.
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
        name = "/".join((IMAGES, *inner))
        stem = _STEM.sub("", "/".join(inner))
        name = f"{name}{_suffix(view)}.png" if view != FILE_VIEW else _written_name(name)
        file = self._find(parts, inner)
        if file is not None and self._files.setdefault(name, file) != file:
            raise ValueError(f"{file} and {self._files[name]} would both be copied to {name}")
        return SourceImage(name=name, stem=stem, source=file, view=view)

    def _find(self, parts: Sequence[str], inner: Sequence[str]) -> str | None:
        for ending in (parts, inner) if inner is not parts else (parts,):
            for folder in self._folders:
                file = os.path.join(self._root, folder, *ending)
                if not os.path.lexists(file):
                    continue
                if not is_within(os.path.realpath(file), self._real_root):
                    raise ValueError(link_leads_out(file, self._root))
                if os.path.isfile(file):
                    return file
                if os.path.isdir(file):
                    raise ValueError(f"image {'/'.join(parts)!r} is a folder; give the path of an image file")
                if os.path.islink(os.path.realpath(file)):
                    raise ValueError(f"{file}: links that lead in a circle; put the file itself there")
        return None


def _written_name(name: str) -> str:
    return name if name.lower().endswith(_KEPT) else f"{name}.png"


def _embedded(data: bytes) -> SourceImage:
    """Named by its content: the questions about one picture then share it."""
    suffix = next((suffix for mark, suffix in _MARKS if data.startswith(mark)), None)
    if suffix is None:
        raise ValueError("the image in the row is not a PNG, JPEG, TIFF or BMP file; take it out of the table")
    stem = hashlib.sha256(data).hexdigest()[:24]
    return SourceImage(name=_written_name(f"{IMAGES}/{stem}{suffix}"), stem=stem, source=data)


def _suffix(view: View) -> str:
    parts = [view.plane, view.slice, view.frame, view.window]
    words = [f"{word}{value}" for word, value in zip(("", "", "frame", ""), parts, strict=True) if value is not None]
    return "".join("." + re.sub(r"[^\w.+-]", "-", word) for word in words)
