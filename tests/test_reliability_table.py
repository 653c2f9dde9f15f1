"""docs/reliability.md says what the tests have counted, and names tests that are there."""

import ast
import json
import shlex
import subprocess
import sys

import pytest

import reliability
from reliability import BEGIN, COUNTS, END, PAGE, ROOT


def test_the_table_is_that_of_the_counts():
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert reliability.render() == page, "make reliability renews it"


def test_every_promise_is_counted_by_tests_that_are_there():
    counts = json.loads(COUNTS.read_text(encoding="utf-8"))
    assert counts.keys() == reliability.promises().keys()
    for name, tests in counts.items():
        assert sum(tests.values()) > 0, name
        for test in tests:
            file, _, function = test.partition("::")
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


@pytest.mark.parametrize("target", ["soak", "reliability"])
def test_pytest_understands_what_make_tells_it(target):
    """An option whose value stands apart is taken for a file, and the options of tests/ are then not known."""
    recipe_lines = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [line] = [line for line in recipe_lines.splitlines() if "/pytest " in line]
    options = shlex.split(line.partition("/pytest ")[2])
    assert any(option.startswith("--record-cases") for option in options)
    # Says the markers instead of running anything.
    pytest_command = [sys.executable, "-m", "pytest", *options, "--markers"]
    done = subprocess.run(pytest_command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
