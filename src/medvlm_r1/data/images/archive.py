"""Read the files of a ZIP archive into memory, within limits. Nothing is written to disk."""

import zipfile
import zlib
from pathlib import Path, PurePosixPath

from medvlm_r1.data.images.files import MAX_INFLATED, InMemoryFile
from medvlm_r1.errors import UserError

ZIP = b"PK\3\4"
MAX_FILES = 20_000
"""Maximum number of files in an archive, and in a folder of DICOM files."""


def read_archive(path: Path) -> list[InMemoryFile]:
    """Read all files of a ZIP archive, except hidden ones.

    Returns:
        The files, each named `path` / its name in the archive, sorted by name.

    Raises:
        UserError: The archive is damaged or encrypted, compressed by another method than deflate, holds over
            `MAX_FILES` files or `MAX_INFLATED` bytes, or names a file outside itself.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = sorted((i for i in archive.infolist() if not i.is_dir()), key=lambda info: info.filename)
            _check(path, members)
            # `read` returns at most the declared size, and fails if the content is longer.
            return [
                InMemoryFile.of(archive.read(info), str(path / info.filename))
                for info in members
                if not is_hidden(PurePosixPath(info.filename))
            ]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError):
        message = f"{path}: the ZIP archive is damaged or cut short; copy it again"
    raise UserError(message)


def is_hidden(name: PurePosixPath | Path) -> bool:
    """Whether a file, or a folder above it, is hidden or holds macOS metadata."""
    return any(part.startswith((".", "__MACOSX")) for part in name.parts)


def _check(path: Path, members: list[zipfile.ZipInfo]) -> None:
    size = sum(info.file_size for info in members)
    if len(members) > MAX_FILES:
        raise UserError(f"{path}: the ZIP archive holds {len(members)} files; at most {MAX_FILES}, unpack it")
    if size > MAX_INFLATED:
        raise UserError(f"{path}: the ZIP archive holds over {MAX_INFLATED // 2**20} MB; unpack it")
    for info in members:
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if name.is_absolute() or name.as_posix()[1:2] == ":" or ".." in name.parts:
            raise UserError(f"{path}: the ZIP archive names a file outside itself ({info.filename!r}); do not use it")
        if info.flag_bits & 1:
            raise UserError(f"{path}: the ZIP archive is encrypted; unpack it with its password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path}: the ZIP archive is compressed by another method than deflate; unpack it")
