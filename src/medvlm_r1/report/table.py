"""Tables as data, and number formatting."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

NOTHING = "–"
"""Placeholder for a missing figure."""


class Bar(NamedTuple):
    """A share on a scale of 0 to 100: interval, value and chance."""

    low: float
    value: float
    high: float
    chance: float | None = None


class Cell(NamedTuple):
    """One figure; `small` has the lines in small print below it."""

    value: str = NOTHING
    small: tuple[str, ...] = ()
    bar: Bar | None = None


class Row(NamedTuple):
    """One row; `style` is the color number of its run, or None.

    `stays` marks a reference row that remains last when the table is sorted.
    """

    name: str
    cells: Sequence[Cell]
    small: str = ""
    style: int | None = None
    stays: bool = False


class Table(NamedTuple):
    """A table.

    Attributes:
        corner: Heading of the row names.
        columns: (heading, small print) pairs, one per cell of every row.
        rows: The rows.
        sorts: Whether a reader can sort the table.
    """

    corner: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Row]
    sorts: bool = True


def text_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, sorts: bool = True) -> Table:
    """Return a table of plain texts; the first column holds the row names."""
    corner, *columns = headings
    return Table(
        corner,
        [(name, "") for name in columns],
        [Row(name, [Cell(text) for text in texts]) for name, *texts in rows],
        sorts,
    )


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


def number(value: float) -> str:
    """Format a value with three significant digits, without exponent if possible."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        text = f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace(".0e", "e")
    else:
        text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−")
