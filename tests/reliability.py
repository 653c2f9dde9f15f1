"""Generate the table of docs/reliability.md: guarantees, their tests, and the number of cases.

A test uses the fixture `tried` to count its cases. `pytest --record-cases=FILE` runs these tests and writes their
counts. `python tests/reliability.py` updates the table. A new row is an entry in docs/reliability.yaml and a test that
counts for it.

A test marked `soak(share=...)` repeats while the fixture `soaking` has time left. All of them together have the minutes
of `--soak-minutes`, divided by share.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROMISES = ROOT / "docs" / "reliability.yaml"
COUNTS = ROOT / "docs" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: make reliability -->\n", "<!-- end of table -->\n"

_KEY = pytest.StashKey[dict[str, dict[str, int]]]()
_BEGAN = pytest.StashKey[float]()
PROCESSOR_SECONDS = 60
"""Far below the time of a quadratic pattern on a million characters, far above that of a linear one."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `make reliability` and `make soak`."""
    parser.addoption("--record-cases", metavar="FILE", help="run the tests that count cases and write the counts")
    parser.addoption("--soak-minutes", type=float, default=30.0, help="total minutes for the tests marked soak")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the tests that count cases, with --record-cases."""
    if config.getoption("--record-cases"):
        counting = [item for item in items if "tried" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in counting])
        items[:] = counting


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Iterator[Callable[[str, int], None]]:
    """Return a function that counts cases of a row of docs/reliability.yaml; they count if the test passes."""
    counts = request.config.stash.setdefault(_KEY, {})
    test = request.node.nodeid.partition("[")[0]
    known = promises()
    mine: list[tuple[str, int]] = []

    def count(promise: str, cases: int = 1) -> None:
        assert promise in known, f"{promise!r} is not in {PROMISES.name}"
        mine.append((promise, cases))

    failed_before = request.session.testsfailed
    yield count
    if request.session.testsfailed == failed_before:
        for promise, cases in mine:
            by_test = counts.setdefault(promise, {})
            by_test[test] = by_test.get(test, 0) + cases


@pytest.fixture
def soaking(request: pytest.FixtureRequest) -> Callable[[], float]:
    """Return a function that gives the seconds left to a soak test; 0 when its share is used up.

    Time that one test overruns or leaves is divided among the later ones.
    """
    began = request.session.stash.setdefault(_BEGAN, time.monotonic())
    until = began + 60 * request.config.getoption("--soak-minutes")
    items = request.session.items
    shares = [_share(item) for item in items[items.index(request.node) :]]
    end = time.monotonic() + max(0.0, until - time.monotonic()) * shares[0] / (sum(shares) or 1)
    return lambda: max(0.0, end - time.monotonic())


def _share(item: pytest.Item) -> float:
    mark = item.get_closest_marker("soak")
    return float(mark.kwargs.get("share", 0)) if mark else 0.0


@pytest.fixture
def bounded_time() -> Callable[[], AbstractContextManager[None]]:
    """Return a context that fails a test after `PROCESSOR_SECONDS` of processor time."""

    @contextmanager
    def bound() -> Iterator[None]:
        def late(*_: object) -> None:
            raise AssertionError(f"not done in {PROCESSOR_SECONDS} s of processor time")

        # `re` checks for signals while it matches.
        before = signal.signal(signal.SIGPROF, late)
        signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    return bound


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Merge the counts of the tests that ran into the file."""
    destination = session.config.getoption("--record-cases")
    counts = session.config.stash.get(_KEY, {})
    if destination and counts:
        file = Path(destination)
        written: dict[str, dict[str, int]] = json.loads(file.read_text()) if file.is_file() else {}
        merged = {name: {**written.get(name, {}), **counts.get(name, {})} for name in written.keys() | counts.keys()}
        file.write_text(json.dumps(merged, indent=1, sort_keys=True) + "\n")


def promises() -> dict[str, dict[str, Any]]:
    """Guarantees by name, with the faults found and fixed."""
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(PROMISES.read_text(encoding="utf-8"))
    return loaded


def table() -> str:
    """Return the Markdown table."""
    counts: dict[str, dict[str, int]] = json.loads(COUNTS.read_text(encoding="utf-8"))
    lines = ["| Guarantee | Tests | Cases | Faults found and fixed |", "|---|---|---|---|"]
    for name, row in promises().items():
        tests = counts.get(name, {})
        proofs = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in sorted(tests))
        lines.append(f"| {row['promise']} | {proofs} | {sum(tests.values()):,} | {row.get('found') or '-'} |")
    return "\n".join(lines) + "\n"


def render() -> str:
    """Return the page with the current table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
