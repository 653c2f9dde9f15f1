"""Names of files inside a folder, the refusal of those that lead out of it, and errors of the file system."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from medvlm_r1.errors import UsageError, UserError


def leaves_folder(path: str) -> bool:
    """Whether a relative path would reach outside its folder, on any operating system.

    Only the text of the path is checked; `inside` checks the disk too.
    """
    if not any(mark in path for mark in "\\:\0"):
        return path.startswith("/") or ".." in path.split("/") or not path_parts(path)
    windows = PureWindowsPath(path)
    return bool(windows.anchor) or ".." in windows.parts or "\0" in path or not windows.parts


def path_parts(path: str) -> list[str]:
    """The folders and the file of a relative path, written with slashes or backslashes."""
    return [name for name in path.replace("\\", "/").split("/") if name not in ("", ".")]


def inside(folder: str | Path, name: str) -> Path:
    """The path of a file in a folder.

    The folder itself may be a link; nothing below it may lead out of it.

    Args:
        folder: The folder.
        name: A path relative to it. The file need not be there.

    Returns:
        `folder / name`.

    Raises:
        UserError: The name is absolute or climbs by `..`, or a symbolic link on the way leads outside the folder.
    """
    if leaves_folder(name):
        raise UserError(f"{name!r}: the path leaves the folder {folder}; give one inside it, such as 'images/x.png'")
    file = Path(folder) / name
    if not is_within(os.path.realpath(file), os.path.realpath(folder)):
        raise UserError(link_leads_out(file, folder))
    return file


def is_within(real_file: str, real_folder: str) -> bool:
    """Whether a path lies in a folder, both with their links resolved."""
    return real_file == real_folder or real_file.startswith(real_folder.rstrip(os.sep) + os.sep)


def telling_names(folders: Sequence[Path]) -> list[str]:
    """The shortest path suffixes that distinguish folders.

    Raises:
        UsageError: A folder is given twice, even by different paths.
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
    """Report an error of the file system as a `UserError`: the message, the system's reason, and advice."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{message} ({error.strerror or error}){advice and '; '}{advice}") from error


def link_leads_out(file: str | Path, folder: str | Path) -> str:
    """The message for a link that leads out of its folder. It does not reveal the target."""
    return f"{file}: a symbolic link that leads outside {folder}; put the file itself there ('cp -L' copies it)"
