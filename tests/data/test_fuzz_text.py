"""Rows and configurations that lie: no crash, bounded memory, each read or refused with file and reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzing import hammer, hammer_on, mutant

from medvlm_r1.data.folder import read_folder, read_info
from medvlm_r1.data.rows import read_json_array, read_json_lines
from medvlm_r1.data.sample import row_from_sample
from medvlm_r1.data.tables import read_csv
from medvlm_r1.training.config import load_config
from medvlm_r1.training.overrides import read_yaml

RECIPES = Path(__file__).parent.parent.parent / "recipes"
JSON_WORDS = [
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r\n", b"null", b"NaN", b"-Infinity", b"1e999"),
    *(b"\\ud800", b"\\u0000", b"\xff\xfe", b"\xef\xbb\xbf", b'"images":"/etc/passwd"', b'"../../x.png"', b"[" * 5000),
    *(b"9" * 5000, b'{"a":' * 3000, b'"id":', b'"answer":', b"/**/", b"'", b"-", b"\xc3", b"\0"),
]
YAML_WORDS = [
    *(b"&a ", b"*a", b"<<: *a", b"!!python/object/apply:os.system [id]", b"!!binary |", b"!!set", b"!!float x"),
    *(b"? ", b"- ", b": ", b"{", b"}", b"[", b"]", b"|", b">", b"%YAML 9", b"---\n", b"...\n", b"\t", b"#", b"'", b'"'),
    *(b"2001-01-01", b"0x_", b"1e999", b".nan", b"12:61:61", b"~", b"\xff", b"\x85", b"\0", b"[" * 3000, b"9" * 5000),
    *(b"trainer:", b"rewards:", b"name:", b"null", b"yes", b"2001-99-99", b"!!timestamp x", b"!!int ''", b"!!omap"),
]
CSV_WORDS = [b'"', b",", b";", b"\t", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b'""', b'"' * 9]


def rows() -> list[dict[str, Any]]:
    from pictures import sample

    made = [sample("a"), sample("b", options=("cyst", "mass", "none of these"), modality="CT", record={"x": [1, {}]})]
    return [row_from_sample(item) for item in made]


def exhaust(read: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Read to the end, and again with the bad rows told and left out."""

    def run(path: Path) -> None:
        calls: list[tuple[int, str]] = []
        if read is not read_json_array:
            for _ in read(path, on_bad=lambda number, why: calls.append((number, why))):  # type: ignore[call-arg]
                pass
            assert all(number > 0 and why for number, why in calls)
        for number, row in read(path):
            assert number > 0
            assert isinstance(row, dict)

    return run


def folder(path: Path) -> None:
    (path.parent / "samples.jsonl").write_bytes(path.read_bytes())
    for sample in read_folder(path.parent):
        assert not any(image.startswith(("/", "..")) for image in sample.images)


def info(path: Path) -> None:
    (path.parent / "info.json").write_bytes(path.read_bytes())
    read_info(path.parent)


LINES = ["\n".join(map(json.dumps, rows())).encode(), b"", b'\xef\xbb\xbf{"id": "x"}\n\n{"id": "y"}']
ARRAYS = [json.dumps(rows(), indent=indent).encode() for indent in (None, 1)]
TABLES = [b'image,question,answer\na.png,"What, here?",cyst\nb.png,"Say ""yes""",mass\n', b"image;question\nx;y\n"]
CONFIGS = [path.read_bytes() for path in sorted(RECIPES.glob("*.yaml"))]

CASES: dict[str, tuple[list[bytes], list[bytes], Callable[[Path], Any], int]] = {
    "rows.jsonl": (LINES, JSON_WORDS, exhaust(read_json_lines), 800),
    "rows.json": (ARRAYS, JSON_WORDS, exhaust(read_json_array), 800),
    "changed.jsonl": (LINES[:1], JSON_WORDS, folder, 800),
    "changed.json": ([b'{"name": "x", "counts": {"samples": 3}}'], JSON_WORDS, info, 400),
    "rows.csv": (TABLES, CSV_WORDS, exhaust(read_csv), 600),
    "any.yaml": (CONFIGS, YAML_WORDS, read_yaml, 300),
    "run.yaml": (CONFIGS, YAML_WORDS, load_config, 300),
}


@pytest.fixture(autouse=True)
def warm() -> None:
    """TRL, whose options a configuration is held against, does not fit into the memory that a fork is given."""
    load_config(RECIPES / "phantom.yaml")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for the file of a case; a reward may be a function in the working directory, and there is none."""
    folder = tmp_path / "case"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def case_of(name: str) -> Callable[[int], bytes]:
    seeds, words, *_ = CASES[name]
    return lambda number: mutant(seeds, number, tokens=words)


@pytest.mark.parametrize("name", CASES)
def test_damaged_rows_and_configurations(place, tried, name):
    *_, read, cases = CASES[name]
    result = hammer(case_of(name), range(cases), place / name, read)
    assert min(result["read"], result["refused"]) > cases // 50, result
    tried("lying-text", cases)


@pytest.mark.soak(share=0.3)
@pytest.mark.parametrize("name", CASES)
def test_soak_damaged_rows_and_configurations(place, tried, soaking, name):
    *_, read, cases = CASES[name]
    tried("lying-soak", hammer_on(case_of(name), cases, place / name, read, soaking))


def test_aliases_that_multiply_are_refused_or_small(tmp_path: Path) -> None:
    """Ten lines of YAML that stand for a thousand million entries."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for name, before in zip("bcdefghi", "abcdefgh", strict=True):
        bomb += f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n"
    bomb += "model: *i\ndata: {train: *i}\nmethod: grpo\nrewards: *i\ntrainer: {beta: *i}\n"
    result = hammer(lambda _: bomb.encode(), range(1), tmp_path / "run.yaml", load_config)
    assert result == {"refused": 1}
