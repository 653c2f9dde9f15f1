"""JSON Lines files that grow row by row and are never rewritten, each by one process at a time."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from medvlm_r1.data.rows import bad_row
from medvlm_r1.disk import exclusive_lock


def read_log(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a JSON Lines file that is being appended to: a last line without its end is not there yet.

    Yields:
        Line number from 1, and the object.

    Raises:
        UserError: a whole line is not a JSON object, with file and row.
    """
    for number, line in enumerate(_whole_lines(path.read_bytes()).split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise bad_row(path, number, f"not JSON ({error}); remove the line") from error
        if not isinstance(row, dict):
            raise bad_row(path, number, f"expected a JSON object, saw {type(row).__name__}; remove the line")
        yield number, row


class AppendedLog:
    """Appends rows to a file of a folder, which no other process may do meanwhile; use it in a `with` block.

    Opening it takes up what is there, and drops a last line that was only half written when an earlier process ended.

    Attributes:
        path: The file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        with ExitStack() as opening:
            opening.enter_context(exclusive_lock(folder))
            if self.path.exists():
                self.read()
            self._file = opening.enter_context(_open(self.path))
            self._open = opening.pop_all()

    def read(self) -> None:
        """Take up the rows that are there; called while the file is opened."""
        raise NotImplementedError

    def write(self, line: str) -> None:
        """Add one row, which is not safe from a crash of the machine until `force`."""
        self._file.write(line + "\n")
        self._file.flush()

    def force(self) -> None:
        """Have what was written on the disk."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def _open(path: Path) -> IO[str]:
    if path.exists():
        os.truncate(path, len(_whole_lines(path.read_bytes())))
    # Half of a surrogate pair, which UTF-8 cannot carry, comes out as the JSON escape it stands for.
    return path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]
