"""Atomic file writes, exclusive folder locks, and messages for disk errors."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from medvlm_r1.errors import UserError

LOCK = ".lock"
"""Lock file of a run folder. The file itself remains; only the lock on it counts."""

# safetensors and torch report such errors without an errno.
_NO_SPACE = re.compile(r"No space left|os error 28|Disk quota|os error 122", re.IGNORECASE)
_NO_PERMISSION = re.compile(r"Read-only file system|Permission denied|os error (30|13)\b", re.IGNORECASE)


def describe_os_error(error: BaseException) -> str | None:
    """Message for a full disk or missing permissions, with what to do; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    text = str(error).strip().split("\n")[0]
    if number in (errno.ENOSPC, errno.EDQUOT) or _NO_SPACE.search(text):
        return f"no space left on the disk ({text}). Free some space"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM) or _NO_PERMISSION.search(text):
        return f"no permission to read or write ({text}). Change the permissions, or give another folder"
    return None


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
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
    """Flush a folder and everything in it to disk, innermost first."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def atomic_write(file: Path, text: str) -> None:
    """Write a file atomically: readers, and a crash, see either the old content or the new."""
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    sync(temporary)
    temporary.replace(file)
    sync(file.parent)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a run folder for this process. The folder is created if needed.

    Args:
        folder: The run folder.

    Raises:
        UserError: Another process has locked it.
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
