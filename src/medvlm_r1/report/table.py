"""A table as data, and figures in words: formatted once, laid out by the template."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NOTHING = "–"
"""Stands where there is no figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A share drawn on 0 to 100: its interval, its value, and where guessing would end."""

    low: float
    value: float
    high: float
    chance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure; `small` holds the lines in small print under it."""

    value: str = NOTHING
    small: tuple[str, ...] = ()
    bar: Bar | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row; `style` numbers the colour of its run, None for a row that is not a run.

    `stays` is true of a row to compare with, which keeps its place at the end when the table is sorted.
    """

    name: str
    cells: tuple[Cell, ...]
    small: str = ""
    style: int | None = None
    stays: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        corner: Heading of the rows' names.
        columns: (heading, small print) pairs, one per cell of every row.
        sorts: Whether a reader may sort it: the rows are of one kind.
    """

    corner: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    sorts: bool = True


def percent(value: float) -> str:
    """Percent with one decimal, without the sign."""
    return f"{value:.1f}"


def interval(ends: Sequence[float]) -> str:
    """An interval in percent."""
    return f"{percent(ends[0])}–{percent(ends[1])}"


def short(path: str) -> str:
    """A model or data folder without the machine's own directories; a hub id or relative path as it is."""
    return "/".join(Path(path).parts[-2:]) if Path(path).is_absolute() else path


def signed(value: float) -> str:
    """Percentage points with one decimal and their sign."""
    text = percent(abs(value))
    return text if text == "0.0" else f"{'+' if value > 0 else '−'}{text}"
