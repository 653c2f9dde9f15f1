"""docs/reliability.md says what the tests have counted, and names tests that are there."""

from __future__ import annotations

import ast
import json

import reliability
from reliability import BEGIN, COUNTS, END, PAGE, ROOT


def test_the_table_is_that_of_the_counts() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert reliability.render() == page, "make reliability renews it"


def test_every_promise_is_counted_by_tests_that_are_there() -> None:
    counts = json.loads(COUNTS.read_text(encoding="utf-8"))
    assert counts.keys() == reliability.promises().keys()
    for name, tests in counts.items():
        assert sum(tests.values()) > 0, name
        for test in tests:
            file, _, function = test.partition("::")
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
