"""Tables as data, and number formatting."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NOTHING = "–"
"""Placeholder for a missing figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A share on a scale of 0 to 100: interval, value and chance."""

    low: float
    value: float
    high: float
    chance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure; `small` has the lines in small print below it."""

    value: str = NOTHING
    small: tuple[str, ...] = ()
    bar: Bar | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row; `style` is the color number of its run, or None.

    `stays` marks a reference row that remains last when the table is sorted.
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
        corner: Heading of the row names.
        columns: (heading, small print) pairs, one per cell of every row.
        sorts: Whether a reader can sort the table.
    """

    corner: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    sorts: bool = True


def percent(value: float) -> str:
    """Format percent with one decimal, without the sign."""
    return f"{value:.1f}"


def interval(ends: Sequence[float]) -> str:
    """Format an interval in percent."""
    return f"{percent(ends[0])}–{percent(ends[1])}"


def short(path: str) -> str:
    """Shorten an absolute model or data folder; a hub id or relative path is unchanged."""
    return "/".join(Path(path).parts[-2:]) if Path(path).is_absolute() else path


def signed(value: float) -> str:
    """Format percentage points with one decimal and sign."""
    text = percent(abs(value))
    return text if text == "0.0" else f"{'+' if value > 0 else '−'}{text}"
