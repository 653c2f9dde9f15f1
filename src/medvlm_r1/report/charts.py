"""Line charts: paths and ticks for inline SVG.

Inline SVG follows the page's light and dark colors, stays sharp in print and is accessible to screen readers. Pure
functions, no files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
Points = list[Point]
Band = Sequence[tuple[float, float, float]]
"""(x, low, high) of an interval around a line."""

_MAX_POINTS = 400
_SMOOTH_FROM = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """An axis tick: position in user units, and label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A dot: position and radius in user units."""

    x: float
    y: float
    r: float = 3.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart. Paths are SVG path data, or "".

    Attributes:
        style: Number of its color and dash.
        path: The line.
        last: Label next to the name.
        thin: Raw values behind the running mean.
        area: Filled area: an interval, or the area to another line.
    """

    name: str
    style: int
    path: str
    last: str
    thin: str = ""
    area: str = ""
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Size of a chart and its plotting area in user units; the template scales it to the column."""

    width: float = 360.0
    height: float = 204.0
    left: float = 44.0
    right: float = 348.0
    top: float = 10.0
    bottom: float = 164.0


FRAME = Frame()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One small chart.

    Attributes:
        across: Label of the horizontal axis.
        said: Text alternative for screen readers.
        guides: Dashed reference paths.
    """

    title: str
    subtitle: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    across: str
    said: str
    guides: tuple[str, ...] = ()
    frame: Frame = FRAME


def lay_out(
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
    x_low, x_high = _widened(min(0.0, *xs), max(xs))
    y_marks = nice_ticks(*_widened(min(0.0, min(ys)), max(ys)))
    x_marks = [x for x in nice_ticks(x_low, x_high) if x_low <= x <= x_high]

    def place(x: float, y: float) -> Point:
        across = FRAME.left + (x - x_low) / (x_high - x_low) * (FRAME.right - FRAME.left)
        down = FRAME.bottom - (y - y_marks[0]) / (y_marks[-1] - y_marks[0]) * (FRAME.bottom - FRAME.top)
        return round(across, 1), round(down, 1)

    lines = []
    for name, points in series.items():
        placed = [place(x, y) for x, y in _thinned(points)]
        means = [place(x, y) for x, y in _thinned(_smoothed(points))] if len(points) >= _SMOOTH_FROM else []
        band = bands.get(name, ())
        around = [place(x, low) for x, low, _ in band] + [place(x, high) for x, _, high in reversed(band)]
        lines.append(
            Line(
                name=name,
                style=styles[name],
                path=svg_path(means or placed),
                thin=svg_path(placed) if means else "",
                area=svg_path(around) + "Z" if len(band) > 1 else "",
                marks=tuple(Mark(x=x, y=y, r=3.0) for x, y in placed) if len(placed) == 1 else (),
                last=number(points[-1][1]),
            )
        )
    return Chart(
        title=title,
        subtitle=subtitle,
        lines=tuple(lines),
        x_ticks=tuple(Tick(at=place(x, y_marks[0])[0], label=number(x)) for x in x_marks),
        y_ticks=tuple(Tick(at=place(x_low, y)[1], label=number(y)) for y in y_marks),
        across=across,
        said=" ".join(f"{line.name} ends at {line.last}." for line in lines),
    )


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return tick values (multiples of 1, 2 or 5 times a power of ten) that span low to high.

    Args:
        low: smallest value to be covered.
        high: largest value, above low.
        wanted: about how many steps.
    """
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the centered mean over at most `window` values, fewer at the ends."""
    half = window // 2
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    ends = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[stop] - sums[start]) / (stop - start) for start, stop in ends]


def number(value: float) -> str:
    """Format a value with three significant digits, without exponent if possible."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        text = f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace(".0e", "e")
    else:
        text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−")


def svg_path(points: Sequence[Point]) -> str:
    """Return a polyline as SVG path data; "" without points."""
    return "M" + " L".join(f"{x:g},{y:g}" for x, y in points) if points else ""


def _smoothed(points: Points) -> Points:
    means = running_mean([y for _, y in points], max(5, len(points) // 15))
    return [(x, mean) for (x, _), mean in zip(points, means, strict=True)]


def _thinned(points: Points) -> Points:
    stride = math.ceil(len(points) / _MAX_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))
