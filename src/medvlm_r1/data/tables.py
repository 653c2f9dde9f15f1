"""Rows of tables (CSV, parquet, Arrow), a few at a time, counted from 1 without the heading."""

import csv
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from medvlm_r1.data.rows import MAX_ROW, OnBad, bad_row, read_json_array, read_json_lines
from medvlm_r1.errors import UserError

Rows = Iterator[tuple[int, dict[str, Any]]]

# Rows of a parquet file hold images: a few dozen of them fit in memory whatever they are.
_BATCH = 32


def rows_of(path: Path) -> Callable[[Path], Rows]:
    """What reads a file of rows, by its suffix; one JSON array if that tells nothing."""
    return {
        ".jsonl": read_json_lines,
        ".ndjson": read_json_lines,
        ".csv": read_csv,
        ".tsv": read_csv,
        ".parquet": read_parquet,
        ".arrow": read_arrow,
    }.get(path.suffix.lower(), read_json_array)


def read_csv(path: Path, *, on_bad: OnBad | None = None) -> Rows:
    """Rows of a CSV file (UTF-8, with a heading, blank lines skipped).

    The separator is the comma; if the heading has none, the semicolon or tab that it has.

    Args:
        path: The file.
        on_bad: Told of each row with more or fewer cells than the heading, which is then skipped; without it the first
            one raises.

    Yields:
        Row number from 1, and column name to text. White space around column names is taken off.

    Raises:
        UserError: The file cannot be read, is not UTF-8, has no heading or one that names a column twice, a row has
            more or fewer cells than the heading, quotes are unbalanced, or a cell is over 16 Mi characters.
    """
    csv.field_size_limit(MAX_ROW)
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            heading = stream.readline(MAX_ROW)
            stream.seek(0)
            separator = next((mark for mark in ",;\t" if mark in heading), ",")
            table = csv.reader(stream, delimiter=separator, strict=True)
            names = [name.strip() for name in next(table, [])]
            twice = {name for name in names if names.count(name) > 1}
            if not any(names) or twice:
                what = f"names {sorted(twice)} twice" if any(names) else "is empty"
                raise UserError(f"{path}: the heading {what}; the first line must name each column once")
            for cells in table:
                if not cells:
                    continue
                number += 1
                if len(cells) != len(names):
                    reason = f"has {len(cells)} cells where the heading has {len(names)}"
                    if on_bad is None:
                        raise bad_row(path, number, reason)
                    on_bad(number, reason)
                    continue
                yield number, dict(zip(names, cells, strict=True))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); give the path of a CSV file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 after row {number} ({error.reason}); save the file as UTF-8") from error
    except csv.Error as error:
        raise bad_row(path, number + 1, f"malformed CSV ({error})") from error


def read_parquet(path: Path) -> Rows:
    """Rows of a parquet file, as on the Hugging Face hub.

    Raises:
        UserError: The file cannot be read or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # Without pre_buffer a row group is not read as a whole, and one may hold a thousand images.
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as parquet after row {number} ({_short(error)})") from error


def read_arrow(path: Path) -> Rows:
    """Rows of an Arrow file, as `datasets.Dataset.save_to_disk` writes.

    Raises:
        UserError: The file cannot be read or is damaged.
    """
    import pyarrow as pa

    number = 0
    try:
        with pa.memory_map(str(path)) as source, closing(pa.ipc.open_stream(source)) as stream:
            for batch in stream:
                for start in range(0, batch.num_rows, _BATCH):
                    for row in batch.slice(start, _BATCH).to_pylist():
                        number += 1
                        yield number, row
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as Arrow after row {number} ({_short(error)})") from error


class ReadPastBad(Protocol):
    """Reads a file whose rows stand apart, so that those after a malformed one can be read."""

    def __call__(self, path: Path, *, on_bad: OnBad | None = None) -> Rows:
        """The rows; `on_bad` is told of those that are skipped."""
        ...


PAST_BAD: dict[Callable[[Path], Rows], ReadPastBad] = {read_json_lines: read_json_lines, read_csv: read_csv}
"""The readers among those of `rows_of` that are such."""


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
