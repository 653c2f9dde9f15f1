import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlm_r1.data import rows, tables
from medvlm_r1.data.rows import read_json_array, read_json_lines
from medvlm_r1.data.tables import read_batches, read_csv
from medvlm_r1.errors import UserError

LINES, ARRAY, CSV = read_json_lines, read_json_array, read_csv


@pytest.fixture
def file(tmp_path):
    """A function that writes a file named `data`."""

    def write(content):
        path = tmp_path / "data"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize(
    ("read", "content", "wanted"),
    [
        # Lines are counted as an editor counts them.
        (LINES, '{"a": 1}\r\n\n{"a": "x\u2028y"}', [(1, {"a": 1}), (3, {"a": "x\u2028y"})]),
        (LINES, b'\xef\xbb\xbf{"a": 1}', [(1, {"a": 1})]),
        (ARRAY, b'\xef\xbb\xbf[{"a": 1}]', [(1, {"a": 1})]),
        (ARRAY, "[ ]", []),
        (ARRAY, ' [ {"a": 1}\n,\t{"a": "},]"} ] \n', [(1, {"a": 1}), (2, {"a": "},]"})]),
        (
            *(read_csv, '\ufeffa, b \r\n1,"two\nlines, ""quoted"""\r\n\r\n,\r\n'),
            [(1, {"a": "1", "b": 'two\nlines, "quoted"'}), (2, {"a": "", "b": ""})],
        ),
    ],
)
def test_rows(file, read, content, wanted):
    assert list(read(file(content))) == wanted


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (ARRAY, '[{"a": 1}, {"a": }]', r"data, row 2: malformed JSON \(Expecting value\)"),
        (ARRAY, '[{"a": 1},', "row 2: expected a JSON object, saw the end of the file"),
        (ARRAY, '[{"a": 1}', "row 1: malformed JSON .*saw the end of the file"),
        (
            read_json_array,
            '[{"a": 1} {"a": 2}]',
            r"row 1: malformed JSON \(expected ',' or '\]' after the row, saw {\)",
        ),
        (ARRAY, '[{"a": 1},]', "row 2: expected a JSON object, saw ]"),
        (ARRAY, '[{"a": 1}, 7]', "row 2: expected a JSON object, saw 7"),
        (ARRAY, '[{"a": 1}] x', "text after the end of the array"),
        (ARRAY, "", "expected one JSON array of rows"),
        (ARRAY, '[{"a": NaN}]', "row 1: malformed JSON .*NaN is not a JSON number"),
        (ARRAY, '[{"a": ' + "1" * 5000 + "}]", "row 1: malformed JSON"),
        (ARRAY, '[{"a": ' + "[" * 100_000 + "]" * 100_000 + "}]", "row 1: malformed JSON .nested too deeply"),
        (ARRAY, b'[{"a": "\xff"}]', "not UTF-8"),
        (LINES, '{"a": 1}\n{"a": \n', r"data, row 2: malformed JSON"),
        (LINES, '{"a": 1}\n[1]\n', "row 2: expected a JSON object, saw list"),
        (LINES, '{"a": 1} {"a": 2}\n', "row 1: malformed JSON .text after the end of the object"),
        (LINES, '{"a": -Infinity}\n', "row 1: malformed JSON .*-Infinity"),
        (LINES, b'{"a": 1}\n{"a": "\xff"}\n', "row 2: not UTF-8"),
        (CSV, "a,b\n1,2\n1,2,3\n", "data, row 2: has 3 cells where the heading has 2"),
        (CSV, "a,b\n1\n", "row 1: has 1 cells where the heading has 2"),
        (CSV, 'a,b\n1,"2\n3,4\n', "row 1: malformed CSV .a double quote is opened"),
        (CSV, "a,a\n1,2\n", r"the heading names \['a'\] twice"),
        (CSV, "", "the heading is empty"),
        (CSV, "\n1,2\n", "the heading is empty"),
        (CSV, b"a,b\n1,\xff\n", "not UTF-8 after row 0"),
        (read_batches, b"PAR1", "data: cannot be read as parquet after row 0"),
    ],
)
def test_damaged_files_are_refused_with_the_row(file, read, content, message):
    with pytest.raises(UserError, match=message):
        list(read(file(content)))


@pytest.mark.parametrize("read", [read_json_lines, read_json_array, read_csv, read_batches])
def test_unreadable_files_are_named(read, tmp_path):
    with pytest.raises(UserError, match=r"absent: cannot be read"):
        list(read(tmp_path / "absent"))
    with pytest.raises(UserError, match="cannot be read"):
        list(read(tmp_path))


def test_long_rows_and_open_quotes_do_not_take_the_file_into_memory(file, monkeypatch):
    monkeypatch.setattr(rows, "MAX_ROW", 100)
    with pytest.raises(UserError, match="row 2: longer than 100 bytes"):
        list(read_json_lines(file('{"a": 1}\n{"a": "' + "x" * 100 + '"}\n')))
    monkeypatch.setattr(tables, "MAX_ROW", 1000)
    with pytest.raises(UserError, match=r"row 1: malformed CSV .field larger than field limit"):
        list(read_csv(file('a,b\n1,"' + "x,y\n" * 10_000)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
objects = st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=4), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=objects, indent=st.sampled_from([None, 2]))
def test_array_equals_json_load(file, values, indent):
    path = file(json.dumps(values, indent=indent, ensure_ascii=False))
    assert list(read_json_array(path)) == list(enumerate(values, 1))


def test_parquet_and_arrow_are_read_a_few_rows_at_a_time(tmp_path):
    path = tmp_path / "x.parquet"
    # Different bytes in each row, because equal ones are stored once.
    rows = [{"image": {"bytes": number.to_bytes(4, "big") * 25_000, "path": None}} for number in range(400)]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="none", row_group_size=100)
    del rows
    tracemalloc.start()
    count = sum(1 for _ in read_batches(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, peak < 10_000_000) == (400, True)
    path, table = tmp_path / "x.arrow", pa.table({"a": range(100)})
    with path.open("wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    assert list(read_batches(path)) == [(number + 1, {"a": number}) for number in range(100)]
    path.write_bytes(b"a,b\n1,2\n" * 100)
    with pytest.raises(UserError, match=r"x.arrow: cannot be read as Arrow after row 0"):
        list(read_batches(path))
