"""Charts in data units; templates place them as inline SVG.

Inline SVG follows the page's light and dark colors, stays sharp in print and is accessible to screen readers. Pure
functions, no files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, NamedTuple

from medvlm_r1.report.table import number

Point = tuple[float, float]
Points = Sequence[Point]
Band = Sequence[tuple[float, float, float]]
"""(x, low, high) of an interval around a line."""

_MAX_POINTS = 400
_SMOOTH_FROM = 30


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
        name: Name in the legend.
        style: Number of its color and dash.
        points: The points, sorted by x.
        last: Last value, shown next to the name in the legend.
        joined: Whether the points are joined by a line.
        dot: Radius of a dot at each point; 0 for none.
        raw: Values before the running mean, drawn as a thin line.
        area: Outline of a filled area: an interval, or the area to another line.
    """

    name: str
    style: int
    points: Points
    last: str = ""
    joined: bool = True
    dot: float = 0.0
    raw: Points = ()
    area: Points = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One small line chart. `x`, `y` and `path` give positions in user units, which the template scales to the column.

    Attributes:
        title: Heading.
        subtitle: Description in small print.
        lines: At least one line.
        across: Label of the horizontal axis.
        x_ends: Ends of the horizontal axis.
        x_marks: Labeled values of the horizontal axis.
        y_marks: Labeled values of the vertical axis, from its lower to its upper end.
        text: Text alternative for screen readers.
        guides: Dashed reference lines.
    """

    title: str
    subtitle: str
    lines: Sequence[Line]
    across: str
    x_ends: tuple[float, float] = (0.0, 100.0)
    x_marks: Sequence[float] = (0.0, 25.0, 50.0, 75.0, 100.0)
    y_marks: Sequence[float]
    text: str
    guides: Sequence[Points] = ()

    width: ClassVar = 360.0
    height: ClassVar = 204.0
    left: ClassVar = 44.0
    right: ClassVar = 348.0
    top: ClassVar = 10.0
    bottom: ClassVar = 164.0

    def x(self, value: float) -> float:
        """Horizontal position of a value."""
        low, high = self.x_ends
        return float(round(self.left + (value - low) / (high - low) * (self.right - self.left), 1))

    def y(self, value: float) -> float:
        """Vertical position of a value."""
        low, high = self.y_marks[0], self.y_marks[-1]
        return float(round(self.bottom - (value - low) / (high - low) * (self.bottom - self.top), 1))

    def path(self, points: Points) -> str:
        """SVG path data of a polyline; "" without points."""
        return "M" + " L".join(f"{self.x(x):g},{self.y(y):g}" for x, y in points) if points else ""


def series_chart(
    title: str,
    subtitle: str,
    series: Mapping[str, Points],
    styles: Mapping[str, int],
    *,
    across: str,
    bands: Mapping[str, Band] | None = None,
) -> Chart:
    """Lay out series in one chart; long ones get a running mean over thin raw values.

    Args:
        title: Heading.
        subtitle: Description in small print.
        series: (x, y) points by name, sorted by x, at least one.
        styles: Style numbers by name.
        across: Label of the x axis.
        bands: Intervals by series name.
    """
    bands = bands or {}
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    ys += [end for band in bands.values() for _, *ends in band for end in ends]
    # Axes start at zero unless values are negative, so that small changes are not exaggerated.
    x_ends = _widened(min(0.0, *xs), max(xs))
    lines = []
    for name, points in series.items():
        thinned = _thinned(points)
        smoothed = _thinned(_smoothed(points)) if len(points) >= _SMOOTH_FROM else ()
        band = bands.get(name, ())
        outline = [(x, low) for x, low, _ in band] + [(x, high) for x, _, high in reversed(band)]
        lines.append(
            Line(
                name,
                styles[name],
                smoothed or thinned,
                last=number(points[-1][1]),
                dot=3.0 if len(thinned) == 1 else 0.0,
                raw=thinned if smoothed else (),
                area=outline if len(band) > 1 else (),
            )
        )
    return Chart(
        title=title,
        subtitle=subtitle,
        lines=lines,
        across=across,
        x_ends=x_ends,
        x_marks=[x for x in nice_ticks(*x_ends) if x_ends[0] <= x <= x_ends[1]],
        y_marks=nice_ticks(*_widened(min(0.0, *ys), max(ys))),
        text=" ".join(f"{line.name} ends at {line.last}." for line in lines),
    )


class Share(NamedTuple):
    """One share: name, percent, interval in percent, and color.

    The tone is "high" if the interval is clearly above chance, "raised" if it is above chance, otherwise "plain".
    """

    name: str
    percent: float
    ci95: tuple[float, float] | None = None
    tone: str = "plain"


class ShareChart(NamedTuple):
    """Shares as rows on a scale of 0 to 100 percent; `line` is the percent of a dashed line."""

    title: str
    subtitle: str
    shares: Sequence[Share]
    line: float | None = None


class LetterChart(NamedTuple):
    """How often each letter is correct; `rows` are (letter, count, count expected of an even distribution)."""

    title: str
    subtitle: str
    rows: Sequence[tuple[str, int, float]]


def letter_chart(title: str, counts: Mapping[str, int], options: Sequence[int]) -> LetterChart:
    """Lay out how often each letter is correct.

    Args:
        title: Name of the modality.
        counts: By letter.
        options: Number of options of each question.
    """
    rows = [
        (letter, count, sum(1 / size for size in options if index < size))
        for index, (letter, count) in enumerate(counts.items())
    ]
    return LetterChart(title, f"{len(options)} questions", rows)


def nice_ticks(low: float, high: float, steps: int = 5) -> list[float]:
    """Return tick values (multiples of 1, 2 or 5 times a power of ten) that span low to high.

    Args:
        low: Smallest value to be covered.
        high: Largest value, above low.
        steps: Approximate number of steps.
    """
    raw = (high - low) / steps
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the centered mean over at most `window` values, fewer at the ends."""
    half = window // 2
    return [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _smoothed(points: Points) -> Points:
    means = running_mean([y for _, y in points], max(5, len(points) // 15))
    return [(x, mean) for (x, _), mean in zip(points, means, strict=True)]


def _thinned(points: Points) -> Points:
    stride = math.ceil(len(points) / _MAX_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))
