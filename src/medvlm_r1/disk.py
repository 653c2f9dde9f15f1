"""Atomic file writes, exclusive folder locks, messages for disk errors, and readers of small files."""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml
from filelock import FileLock, Timeout

from medvlm_r1.errors import UserError

LOCK = ".lock"
"""Name of the lock file in a run folder. The file remains after the lock is released."""

# safetensors and torch raise these errors without an errno, so the message is matched.
_NO_SPACE = re.compile(r"No space left|os error 28|Disk quota|os error 122", re.IGNORECASE)
_NO_PERMISSION = re.compile(r"Read-only file system|Permission denied|os error (30|13)\b", re.IGNORECASE)


def describe_os_error(error: BaseException) -> str | None:
    """Return a message with advice for a full disk or missing permissions, or None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).strip().split("\n")[0]
    if number in (errno.ENOSPC, errno.EDQUOT) or _NO_SPACE.search(text):
        return f"no space left on the disk ({text}). Free some space"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM) or _NO_PERMISSION.search(text):
        return f"no permission to read or write ({text}). Change the permissions, or give another folder"
    return None


def read_table(file: Path) -> list[list[str]]:
    """Cells of a table of the package, which has one row per line and tabs between the cells, without its heading."""
    return [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()[1:]]


def read_mapping(file: Path, advice: str) -> dict[str, Any]:
    """Read a JSON or YAML file that holds one mapping.

    Raises:
        UserError: The file cannot be read or holds something else. The message ends with the advice.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a mapping of keys to values, saw {type(content).__name__}; {advice}")
    return content


def sync(path: Path) -> None:
    """Flush a file, or the directory entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        # Some network file systems cannot fsync folders.
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush a folder and everything in it to disk. The contents of a folder are flushed before the folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


@contextmanager
def atomic_open(file: Path) -> Iterator[IO[str]]:
    """Open a text file for atomic writing. Even after a crash, it has either the old or the new content.

    Yields:
        A temporary file next to it. If the block raises an exception, it is deleted and the old content remains.
    """
    temporary = file.with_name(file.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        sync(temporary)
        temporary.replace(file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(file.parent)


def atomic_write(file: Path, text: str) -> None:
    """Write a text file atomically; see `atomic_open`."""
    with atomic_open(file) as stream:
        stream.write(text)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a run folder for this process until the context ends.

    Args:
        folder: The run folder, which is created if needed.

    Raises:
        UserError: Another process has locked the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"{folder} is in use: another process has locked {lock.lock_file}. Wait for it or stop it, or give another "
            "folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
