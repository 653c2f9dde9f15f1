"""Check that relative paths stay inside their folder, and convert file system errors."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from medvlm_r1.errors import UsageError, UserError


def leaves_folder(path: str) -> bool:
    """Whether a relative path would lead out of its folder on any operating system.

    Only the text of the path is checked; `inside` also checks links on disk.
    """
    if not any(mark in path for mark in "\\:\0"):
        return path.startswith("/") or ".." in path.split("/") or not path_parts(path)
    windows = PureWindowsPath(path)
    return bool(windows.anchor) or ".." in windows.parts or "\0" in path or not windows.parts


def path_parts(path: str) -> list[str]:
    """Split a relative path, written with slashes or backslashes, into its folder names and file name."""
    return [name for name in path.replace("\\", "/").split("/") if name not in ("", ".")]


def inside(folder: str | Path, name: str) -> Path:
    """Join a folder and a relative path, and check that the result stays inside the folder.

    The folder itself may be a link, but no link below it may lead out of it.

    Args:
        folder: The folder.
        name: Path relative to the folder. The file need not exist.

    Returns:
        `folder / name`.

    Raises:
        UserError: The name is absolute or contains `..`, or a symbolic link in the path leads outside the folder.
    """
    if leaves_folder(name):
        raise UserError(f"{name!r}: the path leaves the folder {folder}; give one inside it, such as 'images/x.png'")
    file = Path(folder) / name
    if not is_within(os.path.realpath(file), os.path.realpath(folder)):
        raise UserError(link_leads_out(file, folder))
    return file


def is_within(real_file: str, real_folder: str) -> bool:
    """Whether a path is a folder or lies in it. Links in both paths must already be resolved."""
    return real_file == real_folder or real_file.startswith(real_folder.rstrip(os.sep) + os.sep)


def telling_names(folders: Sequence[Path]) -> list[str]:
    """Find the shortest path suffixes that distinguish the folders.

    Raises:
        UsageError: A folder is given twice, even if by different paths.
    """
    real = [folder.resolve() for folder in folders]
    for index, folder in enumerate(real):
        if folder in real[:index]:
            raise UsageError(f"{folders[index]}: given twice; give each folder once")
    length = 1
    while len(set(names := ["/".join(folder.parts[-length:]) for folder in real])) < len(real):
        length += 1
    return names


@contextmanager
def explain_os_error(message: str, advice: str = "") -> Iterator[None]:
    """Convert an `OSError` in the block to a `UserError` with the message, the system's reason and the advice."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{message} ({error.strerror or error}){advice and '; '}{advice}") from error


def link_leads_out(file: str | Path, folder: str | Path) -> str:
    """Error message for a link that leads out of its folder. It does not reveal the target."""
    return f"{file}: a symbolic link that leads outside {folder}; put the file itself there ('cp -L' copies it)"
