"""The house in order: short files, imports without circles, nothing written twice, no trace of where it was made."""

import ast
import io
import re
import tokenize
from contextlib import suppress
from functools import cache
from graphlib import TopologicalSorter
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


def relative(path):
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_long():
    assert len(CODE) > 100
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in CODE}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_folders_are_small():
    sizes = {relative(folder): len(list(folder.glob("*.py"))) for folder in [SRC, *SRC.rglob("*/")]}
    assert {name: size for name, size in sizes.items() if size > FOLDER_FILES} == {}


def test_the_package_is_small():
    """New features pay for themselves: delete what they make unnecessary."""
    assert sum(code_lines(path.read_text(encoding="utf-8")) for path in SRC.rglob("*.py")) <= CODE_LINES


def test_no_import_goes_in_a_circle():
    modules = {module_name(path): path for path in SRC.rglob("*.py")}
    graph = {}
    for name, path in modules.items():
        names = (m if m in modules else m.rpartition(".")[0] for m in imported(path))
        graph[name] = {m for m in names if m in modules} - {name}
    assert sum(map(len, graph.values())) > 100
    TopologicalSorter(graph).prepare()


def test_no_six_lines_stand_twice():
    """Lines without blank ones, comments, imports and lone brackets, white space aside."""
    first = {}
    copies = []
    for path in CODE:
        text = path.read_text(encoding="utf-8")
        imports = {line for node in import_nodes(text) for line in range(node.lineno, (node.end_lineno or 0) + 1)}
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
        lines = [(n, line) for n, line in lines if n not in imports and re.search(r"\w", line) and line[0] != "#"]
        for start in range(len(lines) - COPIED + 1):
            here = relative(path), lines[start][0]
            other = first.setdefault(tuple(line for _, line in lines[start : start + COPIED]), here)
            copies += [(here, other)] if other != here else []
    assert copies == []


@pytest.mark.parametrize("word", FORBIDDEN)
def test_where_it_was_made_is_not_relative(word):
    assert len(published()) > 300
    assert [name for name, text in published().items() if word in text.casefold()] == []


@pytest.mark.parametrize("pattern", REPLACED)
def test_replaced_words_are_not_used(pattern):
    texts = {name: text for name, text in published().items() if name != "tests/test_house.py"}
    lines = {name: re.findall(pattern, text, re.IGNORECASE) for name, text in texts.items()}
    assert {name: words for name, words in lines.items() if words} == {}, f"write instead: {REPLACED[pattern]}"


def test_names_in_code_say_what_they_hold():
    """Variables, arguments, functions and classes, without leading underscores."""
    vague = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id
            name = str(stored or getattr(node, "name", None) or getattr(node, "arg", None)).lstrip("_")
            if name in VAGUE and not isinstance(node, ast.keyword) and relative(path).startswith(("src", "benchmarks")):
                vague.append(f"{relative(path)}: {name}")
    assert vague == []


def import_nodes(text):
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path):
    """Modules that a file imports, or what it imports from them, also inside functions and under TYPE_CHECKING."""
    for node in import_nodes(path.read_text(encoding="utf-8")):
        module = "" if isinstance(node, ast.Import) else f"{node.module}."
        yield from (f"{module}{alias.name}" for alias in node.names)


@cache
def published():
    """Text files that users get, by name."""
    texts = {}
    for path in sorted({path for pattern in PUBLISHED for path in ROOT.glob(pattern) if path.is_file()}):
        with suppress(UnicodeDecodeError):
            texts[relative(path)] = path.read_text(encoding="utf-8")
    return texts


def module_name(path):
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def code_lines(text):
    """Lines with code: no comments, no docstrings, no blank lines."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)
