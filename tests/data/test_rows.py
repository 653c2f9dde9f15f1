import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlm_r1.data import rows, tables
from medvlm_r1.data.rows import read_json_array, read_json_lines
from medvlm_r1.data.tables import read_arrow, read_csv, read_parquet
from medvlm_r1.errors import UserError

FILE = "data"
READERS = [read_json_lines, read_json_array]


def test_lines_are_counted_as_an_editor_counts_them(file):
    path = file('{"a": 1}\r\n\n{"a": "line\u2028separator"}')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, {"a": "line\u2028separator"})]


def test_byte_order_mark(file):
    assert list(read_json_array(file("[ ]"))) == []
    path = file(' [ {"a": 1}\n,\t{"a": "},]"} ] \n')
    assert list(read_json_array(path)) == [(1, {"a": 1}), (2, {"a": "},]"})]
    assert list(read_json_array(file(b'\xef\xbb\xbf[{"a": 1}]'))) == [(1, {"a": 1})]
    assert list(read_json_lines(file(b'\xef\xbb\xbf{"a": 1}'))) == [(1, {"a": 1})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}, {"a": }]', r"data, row 2: malformed JSON \(Expecting value\)"),
        ('[{"a": 1},', "row 2: expected a JSON object, saw the end of the file"),
        ('[{"a": 1}', "row 1: malformed JSON .*saw the end of the file"),
        ('[{"a": 1} {"a": 2}]', r"row 1: malformed JSON \(expected ',' or '\]' after the row, saw {\)"),
        ('[{"a": 1},]', "row 2: expected a JSON object, saw ]"),
        ('[{"a": 1}, 7]', "row 2: expected a JSON object, saw 7"),
        ('[{"a": 1}] x', "text after the end of the array"),
        ("", "expected one JSON array of rows"),
        ('[{"a": NaN}]', "row 1: malformed JSON .*NaN is not a JSON number"),
        ('[{"a": ' + "1" * 5000 + "}]", "row 1: malformed JSON"),
        ('[{"a": ' + "[" * 100_000 + "]" * 100_000 + "}]", "row 1: malformed JSON .nested too deeply"),
        (b'[{"a": "\xff"}]', "not UTF-8"),
    ],
)
def test_bad_array(file, content, message):
    with pytest.raises(UserError, match=message):
        list(read_json_array(file(content)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": \n', r"data, row 2: malformed JSON"),
        ('{"a": 1}\n[1]\n', "row 2: expected a JSON object, saw list"),
        ('{"a": 1} {"a": 2}\n', "row 1: malformed JSON .text after the end of the object"),
        ('{"a": -Infinity}\n', "row 1: malformed JSON .*-Infinity"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "row 2: not UTF-8"),
    ],
)
def test_bad_lines(file, content, message):
    with pytest.raises(UserError, match=message):
        list(read_json_lines(file(content)))


@pytest.mark.parametrize("read", READERS)
def test_unreadable_file_is_named(read, tmp_path):
    with pytest.raises(UserError, match=r"absent.json: cannot be read \(No such file"):
        list(read(tmp_path / "absent.json"))
    with pytest.raises(UserError, match="cannot be read"):
        list(read(tmp_path))


def test_rows_over_the_limit_are_refused(file, monkeypatch):
    monkeypatch.setattr(rows, "MAX_ROW", 100)
    with pytest.raises(UserError, match="row 2: longer than 100 bytes"):
        list(read_json_lines(file('{"a": 1}\n{"a": "' + "x" * 100 + '"}\n')))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
objects = st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=4), max_size=6)
reused = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@reused
@given(values=objects, indent=st.sampled_from([None, 2]))
def test_array_equals_json_load(file, values, indent):
    path = file(json.dumps(values, indent=indent, ensure_ascii=False))
    assert list(read_json_array(path)) == list(enumerate(values, 1))


def test_csv(file):
    path = file('\ufeffa, b \r\n1,"two\nlines, ""quoted"""\r\n\r\n,\r\n')
    assert list(read_csv(path)) == [(1, {"a": "1", "b": 'two\nlines, "quoted"'}), (2, {"a": "", "b": ""})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", "data, row 2: has 3 cells where the heading has 2"),
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
            with pytest.raises(UserError, match=r"data: cannot be read as \w+ after row 0"):
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
