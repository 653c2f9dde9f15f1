"""Progress and tables on the terminal: rich bars for people, one plain line now and then for logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

_PLAIN_SECONDS = 15.0


class Advance(Protocol):
    """Told of (done, total), and of a note to show beside them. The total may not be known yet."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Show it."""
        ...


def stderr_console() -> Console:
    """Where progress goes, so that stdout holds results alone."""
    return Console(file=sys.stderr)


def print_whole(console: Console, table: Table) -> None:
    """Print a table at the width of its figures: where the window is narrower, rich would cut them off."""
    needed = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.width = max(console.width, needed)
    console.print(table)


@contextmanager
def progress_bar(name: str) -> Iterator[Advance]:
    """A bar on a terminal; elsewhere a line at the start, every 15 seconds and at the end.

    Args:
        name: What is being done.

    Yields:
        A function to call with (done, total), and optionally a note.
    """
    console = stderr_console()
    if not console.is_terminal:
        yield _PlainLines(name)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bars:
        task = bars.add_task(name, total=None, note="")

        def advance(done: int, total: int | None, note: str = "") -> None:
            if note:
                bars.update(task, note=note)
            bars.update(task, completed=done, total=total)

        yield advance


class _PlainLines:
    def __init__(self, name: str) -> None:
        self._name = name
        self._last = float("-inf")

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        now = time.monotonic()
        if (total is not None and done >= total) or now - self._last >= _PLAIN_SECONDS:
            self._last = now
            of = "" if total is None else f" of {total}"
            print(f"{self._name}: {done}{of}{'  ' + note if note else ''}", file=sys.stderr, flush=True)


class TrainingProgress:
    """Shows a training's steps and its latest reward or loss (the `Progress` of `training.callbacks`)."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._note = ""

    def on_step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        """Called after every optimizer step, and again with the figures of a logged one."""
        shown = {"reward": "reward", "eval_accuracy": "held-out accuracy", "loss": "loss"}
        parts = [f"{label} {logs[key]:.2f}" for key, label in shown.items() if key in logs]
        if "reward" in logs:
            parts = [part for part in parts if not part.startswith("loss")]
        self._note = "  ".join(parts) or self._note
        self._advance(step, total, note=self._note)


def accuracy_lines(results: Mapping[str, Any]) -> list[str]:
    """An evaluation's figures as lines of text, each accuracy with its 95 % interval; open questions are apart."""
    lines, unlettered = [], results["open"]
    for modality, cell in results["accuracy"].items():
        if modality == "mean":
            continue
        low, high = cell["ci95"]
        lenient = results["lenient"][modality]["percent"]
        lines.append(
            f"{modality:<8} {cell['percent']:5.1f} %  [{low:.1f}, {high:.1f}]  {cell['correct']} of {cell['n']} right"
            f"  (lenient {lenient:.1f} %, chance {results['chance'][modality]['percent']:.1f} %)"
        )
    if lines:
        lines.append(f"{'mean':<8} {results['accuracy']['mean']:5.1f} %")
        formed = f"well formed {results['well_formed']['percent']:.1f} %, "
    else:
        lines.append("No question has options: there is no accuracy, and nothing to compare with chance.")
        formed = ""
    lines.append(
        f"{formed}cut off {results['cut_off']['percent']:.1f} %, left out for missing images {results['n_missing']}"
    )
    if unlettered["n"]:
        lines.append(
            f'open questions (no options) {unlettered["n"]}, in none of the figures above but "cut off";'
            f" answered in the words of the reference {unlettered['correct']}"
        )
    return lines
