"""Tools of development: the lock of versions, full coverage of some modules, and the counts of docs/reliability.md."""

import ast
import json
import re
import shlex
import subprocess
import sys

import pytest
from packaging.utils import canonicalize_name

import reliability
from lock import asked_for
from reliability import BEGIN, COUNTS, END, PAGE, ROOT
from whole import WHOLE, not_whole


def test_the_lock_pins_every_dependency_within_its_range():
    lines = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    # Name and version alone: no address of an index, no path, no option.
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", pin)] == []
    version = dict(pin.split("==") for pin in pins)
    for need in asked_for():
        assert need.specifier.contains(version[canonicalize_name(need.name)], prereleases=True), f"make lock: {need}"


def test_every_pattern_names_modules_that_are_there():
    for pattern in WHOLE:
        assert list((ROOT / "src" / "medvlm_r1").glob(pattern)), pattern


def test_a_line_that_is_not_run_is_named():
    files = {"src/medvlm_r1/a/x.py": {"missing_lines": [3, 9]}, "src/medvlm_r1/a/y.py": {"missing_lines": []}}
    assert not_whole({"files": files}, ("a/*.py",)) == ["a/x.py: no test runs line 3, 9"]
    assert not_whole({"files": files}, ("a/y.py",)) == []
    assert not_whole({"files": files}, ("b/y.py",)) == ["b/y.py: no such module was measured"]


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
