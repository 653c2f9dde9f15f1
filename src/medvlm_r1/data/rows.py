"""Read JSON Lines files and JSON arrays row by row, and append to JSON Lines files safely.

A row is a JSON object. Row numbers start at 1, here and in messages to the user. JSON Lines files are read one row
at a time. JSON arrays are read into memory.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, Self

from medvlm_r1.data.paths import explain_os_error
from medvlm_r1.disk import atomic_open, exclusive_lock
from medvlm_r1.errors import UserError

MAX_ROW = 16 * 2**20
OnBad = Callable[[int, str], None]
"""Callback for a malformed row, which is then skipped. It is called with the row number and the reason."""

# A bracket or comma between rows, with the white space around it.
_MARK = re.compile(r"[ \t\r\n]*([\[\],]?)[ \t\r\n]*")
# A reason quotes the faulty value, which may be the whole row in a damaged file.
_LONGEST_REASON = 800
_MAX_FAULTS = 20
_EXTRA = "text after the end of the object; write one object a line, without commas between them"


def read_json_lines(
    path: Path, *, growing: bool = False, on_bad: OnBad | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the rows of a JSON Lines file (UTF-8, one object per line; blank lines are skipped).

    Args:
        path: The file.
        growing: Whether the file may still be appended to. A last line without a newline is then ignored.
        on_bad: Called with line number and reason for each bad line, which is then skipped. If None, the first bad line
            raises an error.

    Yields:
        Line number, counted from 1, and the object.

    Raises:
        UserError: The file cannot be read, or a line is not a JSON object, not UTF-8, or longer than 16 MiB.
    """
    with explain_os_error(f"{path}: cannot be read", "give the path of a JSON file"):
        lines = path.open("rb")
    with lines as stream:
        number = 0
        while line := stream.readline(MAX_ROW + 1):
            number += 1
            if growing and len(line) <= MAX_ROW and not line.endswith(b"\n"):
                return
            try:
                value = _line_value(line, number)
            except ValueError as error:
                if on_bad is None:
                    raise bad_row(path, number, str(error)) from error
                on_bad(number, str(error))
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_ROW)
                continue
            if value is not None:
                yield number, value


def _line_value(line: bytes, number: int) -> dict[str, Any] | None:
    """Parse one line; None if the line is blank. A `ValueError` describes what is wrong with a bad line."""
    if len(line) > MAX_ROW:
        raise ValueError(f"longer than {MAX_ROW} bytes; is this a JSON Lines file?")
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason}); save the file as UTF-8") from error
    if not text:
        return None
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"malformed JSON ({_reason(error)})") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, saw {type(value).__name__}")
    return value


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a JSON Lines file and force them to disk. NaN and Inf, which JSON lacks, become null."""
    # UTF-8 cannot encode half of a surrogate pair; it is written as its JSON escape.
    with path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def drop_rows_after(path: Path, step: int) -> None:
    """Delete the rows after an optimizer step, and an unfinished last row. A resumed run then repeats no row.

    Args:
        path: File whose rows have a `step` field. It may be absent.
        step: The last step whose rows are kept; 0 keeps none.
    """
    if not path.is_file():
        return
    with path.open("rb") as source, atomic_open(path) as target:
        for line in source:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if line.endswith(b"\n") and row["step"] <= step:
                target.write(line.decode())


class AppendOnlyFile:
    """An append-only JSON Lines file that only one process can write at a time. Use it in a `with` block.

    Opening locks the folder, reads the existing rows, and deletes an unfinished last row of an interrupted process.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as opening:
            opening.enter_context(exclusive_lock(path.parent))
            self.read()
            if path.exists():
                content = path.read_bytes()
                os.truncate(path, content.rfind(b"\n") + 1)
            self._locked = opening.pop_all()

    def read(self) -> None:
        """Read the existing rows, if any. Subclasses implement this method, which is called when the file is opened."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._locked.close()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json_array(path: Path, *, on_bad: OnBad | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the rows of a JSON file that is one array of objects (UTF-8).

    Args:
        path: The file.
        on_bad: Never called, because the rows after a malformed one cannot be found.

    Yields:
        Position in the array, counted from 1, and the object.

    Raises:
        UserError: The file cannot be read, is not an array of objects, is malformed or cut short, or is not UTF-8.
    """
    with explain_os_error(f"{path}: cannot be read", "give the path of a JSON file"):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from error

    def mark_at(at: int) -> tuple[str, int, str]:
        """Return the mark between rows, the position after it, and the character at that position."""
        match = _MARK.match(text, at)
        assert match is not None
        return match[1], match.end(), text[match.end() : match.end() + 1] or "the end of the file"

    number = 0
    mark, at, character = mark_at(0)
    if mark != "[":
        raise UserError(f"{path}: expected one JSON array of rows, '[...]', saw {mark or character!r}")
    if character == "]":
        mark, at, character = mark_at(at)
    while mark in ("[", ","):
        number += 1
        if character != "{":
            raise bad_row(path, number, f"expected a JSON object, saw {character}")
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise bad_row(path, number, f"malformed JSON ({_reason(error)})") from error
        yield number, value
        mark, at, character = mark_at(at)
    if mark != "]":
        raise bad_row(path, number, f"malformed JSON (expected ',' or ']' after the row, saw {character})")
    if rest := text[at:]:
        raise UserError(f"{path}: text after the end of the array, at {rest[0]!r}; remove it")


def bad_row(path: Path, number: int, what: str) -> UserError:
    """Make the error for one row, with file, row number and fault."""
    if len(what) > _LONGEST_REASON:
        what = f"{what[: _LONGEST_REASON // 2]} [...] {what[-_LONGEST_REASON // 4 :]}"
    return UserError(f"{path}, row {number}: {what}")


class RowFaults(ValueError):
    """All faults of one row.

    Attributes:
        faults: One phrase for each fault.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class BadRows:
    """Collects the unusable rows of a source. Equal faults are counted together.

    At most twenty different faults are stored; further ones are only counted.

    Attributes:
        count: Number of rows added.
    """

    def __init__(self) -> None:
        self.count = 0
        self._more = 0
        self._faults: dict[str, tuple[str, int]] = {}

    def add(self, path: Path, number: int, *errors: Exception | str) -> None:
        """Add one row and its faults."""
        self.count += 1
        faults = (error.faults if isinstance(error, RowFaults) else (str(error),) for error in errors)
        for fault in dict.fromkeys(chain.from_iterable(faults)):
            first, times = self._faults.get(fault, (str(bad_row(path, number, fault)), 0))
            if times or len(self._faults) < _MAX_FAULTS:
                self._faults[fault] = first, times + 1
            else:
                self._more += 1

    def lines(self) -> list[str]:
        """List each different fault, with the first row that has it and the number of further such rows."""
        lines = [
            first if times == 1 else f"{first} ({times - 1} more such row{'s' if times > 2 else ''})"
            for first, times in self._faults.values()
        ]
        return [*lines, f"and {self._more} more faults"] if self._more else lines

    def error(self, advice: str) -> UserError:
        """Combine all faults in one error. `advice` tells the user what to do."""
        lines = self.lines()
        if len(lines) == 1:
            return UserError(f"{lines[0]}. {advice}")
        rows = f"{self.count} row{'s' if self.count > 1 else ''} cannot be used:"
        return UserError("\n  ".join([rows, *lines]) + f"\n{advice}")


def _reject(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return _EXTRA if error.msg == "Extra data" else error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary. A repeated key is an error, because either of its values could be meant."""
    value = dict(pairs)
    if len(value) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {twice!r} is given twice")
    return value


_DECODER = json.JSONDecoder(parse_constant=_reject, object_pairs_hook=_object)
