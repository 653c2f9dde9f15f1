"""Read tables (CSV, parquet, Arrow) a few rows at a time. Rows are counted from 1, without the heading."""

import codecs
import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medvlm_r1.data.paths import explain_os_error
from medvlm_r1.data.rows import MAX_ROW, OnBad, bad_row, read_json_array, read_json_lines
from medvlm_r1.errors import UserError

Rows = Iterator[tuple[int, dict[str, Any]]]

# Number of parquet or Arrow rows read at once. Rows may contain images, and a few dozen of them fit in memory.
_BATCH = 32
_HEAD = 4096
_SEPARATORS = ",;\t"
# VLMEvalKit treats shorter values of `image` as references to other rows.
_REFERENCE = 64
_WORKBOOK = "an Excel workbook or another archive; save the table as 'CSV UTF-8' and give that file"
_COMPRESSED = "a compressed file; unpack it and give what is in it"
_NOT_ROWS = {
    b"PK\x03\x04": _WORKBOOK,
    b"\xd0\xcf\x11\xe0": _WORKBOOK,
    **dict.fromkeys((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf"), _COMPRESSED),
}


RowReader = Callable[..., Rows]
"""Function that reads the rows of a file. It calls `on_bad` for malformed rows if the rows after them can be read."""


def rows_of(path: Path) -> RowReader:
    """Choose the row reader by the content of a file. A CSV file named `.jsonl` is read as CSV.

    Raises:
        UserError: The file cannot be read, is empty, or is an Excel workbook, a compressed file, a single JSON object
            over several lines, or JSON in UTF-16.
    """
    with explain_os_error(f"{path}: cannot be read", "give a file of rows"), path.open("rb") as stream:
        head = stream.read(_HEAD)
    for mark, what in _NOT_ROWS.items():
        if head.startswith(mark):
            raise UserError(f"{path}: {what}")
    suffix = path.suffix.lower()
    if head.startswith(b"PAR1") or suffix in (".parquet", ".arrow"):
        return read_batches
    encoding = _encoding(head)
    text = head.decode(encoding, errors="ignore").lstrip()
    if not text:
        raise UserError(f"{path}: the file is empty; give a file of rows")
    heading = text.splitlines()[0]
    if text.startswith(("[", "{")):
        if encoding == "utf-16":
            raise UserError(f"{path}: JSON in UTF-16; save the file as UTF-8")
        if heading.strip() == "{":
            raise UserError(
                f"{path}: one JSON object over several lines; expected an array of rows, '[{{...}}, ...]', or one "
                "object a line"
            )
        return read_json_array if text.startswith("[") else read_json_lines
    if suffix in (".json", ".jsonl", ".ndjson") and not any(mark in heading for mark in _SEPARATORS):
        return read_json_array if suffix == ".json" else read_json_lines
    shared = {"index", "image"} <= {name.strip() for name in heading.split("\t")}
    return _read_vlmeval if shared else read_csv


def _encoding(head: bytes) -> str:
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def read_csv(path: Path, *, on_bad: OnBad | None = None) -> Rows:
    """Read the rows of a CSV file with a heading (UTF-8, or UTF-16 with a byte order mark; blank lines are skipped).

    The separator is the comma, semicolon or tab, whichever is most frequent in the heading. Columns without a name and
    empty cells after the last column are left out.

    Args:
        path: The file.
        on_bad: Called with number and reason for each row with more or fewer cells than the heading. The row is then
            skipped. If None, the first such row raises an error.

    Yields:
        Row number, counted from 1, and the texts by column name. White space around column names is removed.

    Raises:
        UserError: The file cannot be read or is not UTF-8, the heading is missing or names a column twice, a row has
            more or fewer cells than the heading, quotes are unbalanced, or a cell has over 16 Mi characters.
    """
    csv.field_size_limit(MAX_ROW)
    number = 0
    with explain_os_error(f"{path}: cannot be read", "give the path of a CSV file"):
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        table_file = path.open(encoding=_encoding(head), newline="")
    try:
        with table_file as stream:
            if stream.encoding != "utf-16" and b"\0" in head:
                raise UserError(f"{path}: holds zero bytes, so it is not a CSV file in UTF-8; save it as 'CSV UTF-8'")
            heading = stream.readline(MAX_ROW)
            stream.seek(0)
            table = csv.reader(stream, delimiter=max(_SEPARATORS, key=heading.count), strict=True)
            names = [name.strip() for name in next(table, [])]
            twice = {name for name in names if name and names.count(name) > 1}
            if not any(names) or twice:
                what = f"names {sorted(twice)} twice" if any(names) else "is empty"
                raise UserError(f"{path}: the heading {what}; the first line must name each column once")
            for cells in table:
                if not cells:
                    continue
                number += 1
                while len(cells) > len(names) and not cells[-1].strip():
                    cells.pop()
                if len(cells) != len(names):
                    reason = (
                        f"has {len(cells)} cells where the heading has {len(names)}; put a text that holds the "
                        "separator into double quotes"
                    )
                    if on_bad is None:
                        raise bad_row(path, number, reason)
                    on_bad(number, reason)
                    continue
                yield number, {name: cell for name, cell in zip(names, cells, strict=True) if name}
    except UnicodeError as error:
        reason = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
        raise UserError(
            f"{path}: not UTF-8 after row {number} ({reason}); save the file as UTF-8 (in Excel: 'CSV UTF-8')"
        ) from error
    except csv.Error as error:
        reason = "a double quote is opened and never closed" if "unexpected end" in str(error) else str(error)
        raise bad_row(path, number + 1, f"malformed CSV ({reason})") from error


def _read_vlmeval(path: Path, *, on_bad: OnBad | None = None) -> Rows:
    """Rows of a VLMEvalKit table, in which `image` may be the `index` of another row that has the image."""
    cells = (row["image"] for _, row in read_csv(path, on_bad=lambda number, reason: None))
    wanted = {cell for cell in cells if cell.isdecimal()}
    holders = read_csv(path, on_bad=lambda number, reason: None) if wanted else ()
    images = {
        row["index"]: row["image"] for _, row in holders if row["index"] in wanted and len(row["image"]) > _REFERENCE
    }
    for number, row in read_csv(path, on_bad=on_bad):
        yield number, {**row, "image": images.get(row["image"], row["image"])}


def read_batches(path: Path, *, on_bad: OnBad | None = None) -> Rows:
    """Read the rows of a parquet file, or of an Arrow file as written by `datasets.Dataset.save_to_disk`.

    Args:
        path: The file. A file with the suffix `.arrow` is read as Arrow.
        on_bad: Never called, because the rows after a damaged one cannot be read.

    Raises:
        UserError: The file cannot be read or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_arrow = path.suffix.lower() == ".arrow"
    number = 0
    try:
        with pa.memory_map(str(path)) as source:
            # pre_buffer would read a whole row group, which may contain a thousand images.
            file = pa.ipc.open_stream(source) if is_arrow else pq.ParquetFile(source, pre_buffer=False)
            for batch in file if is_arrow else file.iter_batches(batch_size=_BATCH):
                for start in range(0, batch.num_rows, _BATCH):
                    for row in batch.slice(start, _BATCH).to_pylist():
                        number += 1
                        yield number, row
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        kind = "Arrow" if is_arrow else "parquet"
        raise UserError(f"{path}: cannot be read as {kind} after row {number} ({reason})") from error
