import tracemalloc

import pytest

from medvlm_r1.data import tables
from medvlm_r1.data.rows import read_json_array, read_json_lines
from medvlm_r1.data.tables import read_arrow, read_csv, read_parquet, rows_of
from medvlm_r1.errors import UserError

FILE = "data.csv"


def test_csv(file):
    path = file('\ufeffa, b \r\n1,"two\nlines, ""quoted"""\r\n\r\n,\r\n')
    assert list(read_csv(path)) == [(1, {"a": "1", "b": 'two\nlines, "quoted"'}), (2, {"a": "", "b": ""})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", "data.csv, row 2: has 3 cells where the heading has 2"),
        ("a,b\n1\n", "row 1: has 1 cells where the heading has 2"),
        ('a,b\n1,"2\n3,4\n', "row 1: malformed CSV .a double quote is opened"),
        ("a,a\n1,2\n", r"the heading names \['a'\] twice"),
        ("", "the heading is empty"),
        ("\n1,2\n", "the heading is empty"),
        (b"a,b\n1,\xff\n", "not UTF-8 after row 0"),
    ],
)
def test_bad_csv(file, content, message):
    with pytest.raises(UserError, match=message):
        list(read_csv(file(content)))


def test_an_open_quote_does_not_take_the_file_into_memory(file, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROW", 1000)
    with pytest.raises(UserError, match=r"row 1: malformed CSV .field larger than field limit"):
        list(read_csv(file('a,b\n1,"' + "x,y\n" * 10_000)))


@pytest.mark.parametrize("read", [read_csv, read_parquet, read_arrow])
def test_unreadable_files_are_named(read, tmp_path, file):
    with pytest.raises(UserError, match=r"absent: cannot be read"):
        list(read(tmp_path / "absent"))
    if read is not read_csv:
        for content in (b"", b"PAR1", b"a,b\n1,2\n" * 100):
            with pytest.raises(UserError, match=r"data.csv: cannot be read as \w+ after row 0"):
                list(read(file(content)))


def test_parquet_is_read_a_few_rows_at_a_time(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    # Different bytes in each row, or they would be kept once.
    rows = [{"image": {"bytes": number.to_bytes(4, "big") * 25_000, "path": None}} for number in range(400)]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="none", row_group_size=100)
    del rows
    tracemalloc.start()
    count = sum(1 for _ in read_parquet(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 400
    assert peak < 10_000_000


def test_reader_by_suffix(tmp_path):
    suffixes = {
        ".csv": read_csv,
        ".TSV": read_csv,
        ".jsonl": read_json_lines,
        ".json": read_json_array,
        "": read_json_array,
    }
    suffixes |= {".parquet": read_parquet, ".arrow": read_arrow}
    assert {suffix: rows_of(tmp_path / f"x{suffix}") for suffix in suffixes} == suffixes
