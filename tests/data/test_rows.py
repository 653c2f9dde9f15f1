import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlm_r1.data import rows
from medvlm_r1.data.rows import read_json_array, read_json_lines
from medvlm_r1.errors import UserError

FILE = "data.json"
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
        ('[{"a": 1}, {"a": }]', r"data.json, row 2: malformed JSON \(Expecting value\)"),
        ('[{"a": 1}, {"a": 2', "row 2: malformed JSON"),
        ('[{"a": 1},', "row 2: expected a JSON object, saw the end of the file"),
        ('[{"a": 1}', "row 1: malformed JSON .*saw the end of the file"),
        ('[{"a": 1} {"a": 2}]', r"row 1: malformed JSON \(expected ',' or '\]' after the row, saw {\)"),
        ('[{"a": 1},]', "row 2: expected a JSON object, saw ]"),
        ('[{"a": 1}, 7]', "row 2: expected a JSON object, saw 7"),
        ('[{"a": 1}] x', "text after the end of the array"),
        ('{"a": 1}', "expected one JSON array of rows"),
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
        ('{"a": 1}\n{"a": \n', r"data.json, row 2: malformed JSON"),
        ('{"a": 1}\n[1]\n', "row 2: expected a JSON object, saw list"),
        ('{"a": 1} {"a": 2}\n', "row 1: malformed JSON .text after the end of the object"),
        ('{"a": -Infinity}\n', "row 1: malformed JSON .*-Infinity"),
        ('{"a": ' + "[" * 100_000 + "\n", "row 1: malformed JSON .nested too deeply"),
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
