"""Cells and tables of the results page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from medvlm_r1.evaluation.statistics import t_interval

PERCENT = (0.0, 100.0)
"""What an interval of a percentage is cut at."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its first column to the left and the others to the right."""
    return [
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def brackets(ends: Sequence[float], form: str = ".1f") -> str:
    """An interval that no line break divides."""
    low, high = ends
    return f"[{low:{form}},\u00a0{high:{form}}]"


def bracketed(value: float, ends: Sequence[float], form: str = ".1f") -> str:
    """A figure with its interval."""
    return f"{value:{form}} {brackets(ends, form)}"


def over_seeds(values: Sequence[float], form: str = ".1f", *, limits: tuple[float, float] | None = None) -> str:
    """The mean of one value a seed with its t interval; the value alone where there is but one.

    Args:
        values: One a seed.
        form: Format of a number.
        limits: What the interval is cut at, such as 0 and 100 for percent.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:{form}}"
    low, high = t_interval(values)
    if limits is not None:
        low, high = max(low, limits[0]), min(high, limits[1])
    return bracketed(mean, (low, high), form)


def geometric(ratios: Sequence[float], form: str = ".2f") -> tuple[str, str]:
    """The geometric mean of repeated ratios and the t interval of its logarithm; a dash where there is but one."""
    mean = f"{statistics.geometric_mean(ratios):{form}}"
    if len(ratios) < 2:
        return mean, "-"
    return mean, brackets([math.exp(end) for end in t_interval([math.log(ratio) for ratio in ratios])], form)


def interval(values: Sequence[float], form: str = ".2f") -> str:
    """The t interval of the mean of repeated measurements, in brackets; a dash where there is but one."""
    if len(values) < 2:
        return "-"
    return brackets(t_interval(values), form)
