"""Files that stand whole or not at all, whenever the process or the machine is ended, and folders for one process."""

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
"""The file a process holds while it writes into a run folder. It stays; what counts is whether it is held."""

# safetensors and torch tell of such errors in words alone.
_NO_ROOM = re.compile(r"No space left|os error 28|Disk quota|os error 122", re.IGNORECASE)
_NO_LEAVE = re.compile(r"Read-only file system|Permission denied|os error (30|13)\b", re.IGNORECASE)


def describe_os_error(error: BaseException) -> str | None:
    """What a disk has refused, and what to do about it; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    said = str(error).strip().split("\n")[0]
    if number in (errno.ENOSPC, errno.EDQUOT) or _NO_ROOM.search(said):
        return f"no room is left on the disk ({said}). Free some; what is finished is kept"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM) or _NO_LEAVE.search(said):
        return f"not to be written or read ({said}). Mend the rights, or give a folder of this account"
    return None


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        # Some network file systems keep no folder entries back and refuse to be asked.
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Force a folder with everything in it to disk, the innermost first."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def atomic_write(file: Path, text: str) -> None:
    """Write a file beside its place, force it to disk and rename it: readers see the old content or the new."""
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    sync(temporary)
    temporary.replace(file)
    sync(file.parent)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Be the only process that writes into a run folder, which is made if it is not there.

    Args:
        folder: the run folder.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"{folder} is in use: another process is writing into it and holds {lock.lock_file}. Wait for it, end it, "
            "or give another folder; two at once would mix their results."
        ) from error
    try:
        yield
    finally:
        lock.release()
