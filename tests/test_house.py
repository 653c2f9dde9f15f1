"""The house in order: short files, imports without circles, nothing written twice, no trace of where it was made."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
CODE = sorted(path for folder in ("src", "benchmarks", "tests", "docs") for path in (ROOT / folder).rglob("*.py"))
PUBLISHED = (
    "*.md",
    "*.toml",
    "*.yml",
    "Makefile",
    *(f"{name}/**/*" for name in ("docs", "recipes", "src", "benchmarks", "tests")),
)

LONGEST = 450
FOLDER_FILES = 16
CODE_LINES = 22_000
"""Lines of `src` without comments, docstrings and blank lines."""
COPIED = 6
"""Lines in a row that may not stand twice."""

# Each in two pieces, so that this list does not match itself.
FORBIDDEN = [
    *("/wo" + "rk/", "../sh" + "ared", ".lib" + "rary/", "anth" + "ropic", "cla" + "ude", "pypi" + "-more"),
    *("files.python" + "hosted", "#is" + "sue"),
]

# Words that the vocabulary of the project replaces: in code, messages, tests and documents.
REPLACED = {
    "telling option": "giveaway option",
    r"ask_items|respondent": "collect_responses, backend",
    "read_prompts|several_of_each": "prefill, n_per_prompt",
    r"\bwrite_on\b|feeding_forward": "cached-prefix decoding, skip_unused_mlp",
    "shared states|last_layer": "shared KV, skip_unused_mlp",
    "prefix of a turn": "assistant prefill",
    "flipped_subjects|likelihood_loss": "cluster_sign_flip_test, nll",
    "coldest|hottest|tempered|sureness": "MIN_TEMPERATURE, MAX_TEMPERATURE, temperature_scale, confidence",
    "dependable|whole checkpoints|stops at non.finite": "reliable trainer mixin, atomic checkpoints, NaN guard",
    "shows.others|answers.blank": "counterfactual images, blank-image baseline",
    "write_whole|only_process": "atomic_write, exclusive_lock",
    r"second.look|\bheard\b": "consistency checks, reply",
    "where it stood|what is no number": "resume, NaN or Inf",
}
# Names of variables, arguments, functions and classes in the package and the benchmarks: say what they hold.
VAGUE = {"told", "said", "heard", "weighed", "asking"}

Place = tuple[str, int]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_long() -> None:
    assert len(CODE) > 100
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in CODE}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_folders_are_small() -> None:
    sizes = {relative(folder): len(list(folder.glob("*.py"))) for folder in [SRC, *SRC.rglob("*/")]}
    assert {name: size for name, size in sizes.items() if size > FOLDER_FILES} == {}


def test_the_package_is_small() -> None:
    """New features pay for themselves: delete what they make unnecessary."""
    assert sum(code_lines(path.read_text(encoding="utf-8")) for path in SRC.rglob("*.py")) <= CODE_LINES


def test_code_lines_are_counted() -> None:
    text = '"""Doc."""\n\n# A comment.\nx = (\n    1,\n)\n\ndef f():\n    """Doc."""\n    return x  # why\n'
    assert code_lines(text) == 5


def test_no_import_goes_in_a_circle() -> None:
    graph = imports({module_name(path): path for path in SRC.rglob("*.py")})
    assert sum(map(len, graph.values())) > 100
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("text", "circle"),
    [
        ("from a import x", True),
        ("try:\n    import a\nexcept ImportError:\n    pass", True),
        ("def f():\n    import a", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a", True),
        ("import c", False),
    ],
)
def test_what_is_a_circle(tmp_path: Path, text: str, circle: bool) -> None:
    files = {"a": tmp_path / "a.py", "b": tmp_path / "b.py"}
    files["a"].write_text("import os\nimport b", encoding="utf-8")
    files["b"].write_text(text, encoding="utf-8")
    with pytest.raises(CycleError) if circle else nullcontext():
        TopologicalSorter(imports(files)).prepare()


def test_no_six_lines_stand_twice() -> None:
    found = list(copies({relative(path): path.read_text(encoding="utf-8") for path in CODE}))
    assert not found, "\n".join(f"{a[0]}:{a[1]} stands again at {b[0]}:{b[1]}" for a, b in found)


def test_a_copy_is_found_where_it_begins() -> None:
    lines = [f"line_{number} = {number}" for number in range(9)]
    text = "import this\n" + "\n".join(lines)
    other = "first = 0\n" + "\n\n# Apart.\n".join(lines[1:7])
    assert list(copies({"a.py": text, "b.py": other})) == [(("a.py", 3), ("b.py", 2))]
    assert list(copies({"a.py": text, "b.py": "\n".join(lines[:5])})) == []


@pytest.mark.parametrize("word", FORBIDDEN)
def test_where_it_was_made_is_not_relative(word: str) -> None:
    assert len(published()) > 300
    assert [name for name, text in published().items() if word in text.casefold()] == []


@pytest.mark.skipif(len(ROOT.parts) < 3, reason="the path of the checkout is too short to be known again")
def test_the_place_of_this_checkout_is_not_relative() -> None:
    assert [name for name, text in published().items() if str(ROOT) in text] == []


@pytest.mark.parametrize("pattern", REPLACED)
def test_replaced_words_are_not_used(pattern: str) -> None:
    texts = {name: text for name, text in published().items() if name != "tests/test_house.py"}
    lines = {name: re.findall(pattern, text, re.IGNORECASE) for name, text in texts.items()}
    assert {name: words for name, words in lines.items() if words} == {}, f"write instead: {REPLACED[pattern]}"


def test_names_in_code_say_what_they_hold() -> None:
    paths = [path for path in CODE if path.relative_to(ROOT).parts[0] in ("src", "benchmarks")]
    names = {relative(path): names_bound(path.read_text(encoding="utf-8")) & VAGUE for path in paths}
    assert {name: words for name, words in names.items() if words} == {}


def test_bound_names_are_found() -> None:
    text = "import a as b\nc: int = 1\ndef f(d, *e, **g):\n    for i, (j, k) in x: pass\nclass L: m = 1\nn.o = p(q=r)\n"
    assert names_bound(text) == {"c", "f", "d", "e", "g", "i", "j", "k", "L", "m"}


def names_bound(text: str) -> set[str]:
    """Names of variables, arguments, functions and classes, without leading underscores."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
    return {name.lstrip("_") for name in names}


@cache
def published() -> dict[str, str]:
    """Text files that users get, by name."""
    texts = {}
    for path in sorted({path for pattern in PUBLISHED for path in ROOT.glob(pattern) if path.is_file()}):
        with suppress(UnicodeDecodeError):
            texts[relative(path)] = path.read_text(encoding="utf-8")
    return texts


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module


def imports(modules: dict[str, Path]) -> dict[str, set[str]]:
    """To each module those that it imports."""
    return {name: set(imported(path, modules)) - {name} for name, path in modules.items()}


def copies(texts: dict[str, str]) -> Iterator[tuple[Place, Place]]:
    """Pairs of places from which `COPIED` significant lines are the same, the beginning of each pair alone.

    Args:
        texts: Python files by name.
    """
    first: dict[tuple[str, ...], Place] = {}
    for name, text in texts.items():
        lines = significant(text)
        goes_on: Place | None = None
        for at in range(len(lines) - COPIED + 1):
            window = tuple(line for _, line in lines[at : at + COPIED])
            seen = first.setdefault(window, (name, lines[at][0]))
            if seen == (name, lines[at][0]):
                goes_on = None
            elif goes_on is None:
                goes_on = seen
                yield seen, (name, lines[at][0])


def code_lines(text: str) -> int:
    """Lines with code: no comments, no docstrings, no blank lines."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def significant(text: str) -> list[tuple[int, str]]:
    """Numbered lines without blank ones, comments, imports and lone brackets, white space aside."""
    nodes = ast.walk(ast.parse(text))
    imports = {
        line
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if number not in imports and re.search(r"\w", line) and not line.lstrip().startswith("#")
    ]
