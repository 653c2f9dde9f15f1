"""Console output: tables, and progress as a bar on a terminal or as plain lines in a log."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

_PLAIN_SECONDS = 15.0


class Advance(Protocol):
    """Progress callback: number of finished items, total number (None if unknown) and an optional note."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Report progress."""
        ...


def stderr_console() -> Console:
    """Create a console on stderr for progress output. Only results are printed on stdout."""
    return Console(file=sys.stderr)


def print_uncropped(console: Console, table: Table) -> None:
    """Print a table at its full width, even in a narrower window in which rich would crop its numbers."""
    needed = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.width = max(console.width, needed)
    console.print(table)


@contextmanager
def progress_bar(name: str) -> Iterator[Advance]:
    """Show a progress bar on a terminal. Otherwise, print a line at the start, every 15 seconds and at the end.

    Args:
        name: Label of the bar.

    Yields:
        The progress callback, called as `advance(done, total, note)`.
    """
    console = stderr_console()
    if not console.is_terminal:
        yield _plain_lines(name)
        return
    counts = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    description, label = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    with Progress(description, *counts, label, console=console) as bars:
        task = bars.add_task(name, total=None, note="")

        def advance(done: int, total: int | None, note: str = "") -> None:
            if note:
                bars.update(task, note=note)
            bars.update(task, completed=done, total=total)

        yield advance


def _plain_lines(name: str) -> Advance:
    last = float("-inf")

    def advance(done: int, total: int | None, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if (total is not None and done >= total) or now - last >= _PLAIN_SECONDS:
            last = now
            of = "" if total is None else f" of {total}"
            print(f"{name}: {done}{of}{'  ' + note if note else ''}", file=sys.stderr, flush=True)

    return advance


class TrainingProgress:
    """Report training steps and the latest reward or loss. Implements `Progress` of `training.callbacks`."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._note = ""

    def on_step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        """Report an optimizer step. It is called after every step, and again with the metrics if the step is logged."""
        labels = {"reward": "reward", "eval_accuracy": "held-out accuracy"}
        if "reward" not in logs:
            labels["loss"] = "loss"
        note = "  ".join(f"{label} {logs[key]:.2f}" for key, label in labels.items() if key in logs)
        self._note = note or self._note
        self._advance(step, total, note=self._note)


def fill(template: Path, **values: Any) -> list[str]:
    """Fill the template of a text report (Jinja), and return its lines."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template.read_text(encoding="utf-8")).render(values).removesuffix("\n").split("\n")
