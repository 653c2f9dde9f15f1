"""Training curves as geometry: from `metrics.jsonl` to the paths and ticks of small line charts.

Drawn as inline SVG by the template rather than as pictures, so that they follow the page's light and dark colours, stay
sharp in print and can be read out. Pure functions, no files.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MAX_POINTS = 400
_SMOOTH_FROM = 30

# Key or pattern in metrics.jsonl, title, what is plotted. The order is the order on the page. A loss is drawn for each
# run apart, because the losses of two methods have no common scale.
_PANELS: tuple[tuple[str, str, str], ...] = (
    (r"eval_(?P<name>.*accuracy.*)", "Held out: {name}", "on the evaluation data"),
    (r"eval_contradiction", "Held out: contradiction", "percent of answers at odds with their reasoning"),
    (r"eval_reward", "Held out: reward", "on the evaluation data"),
    (r"eval_loss", "Held out: loss of {run}", "on the evaluation data"),
    (r"reward", "Reward", "mean over the completions of a step"),
    (r"rewards/(?P<name>.+)/mean", "Reward: {name}", "mean over the completions of a step"),
    (r"blank_right", "Right without the image", "share of prompts answered right on a blank image"),
    (r"completions/mean_length", "Length of a completion", "tokens"),
    (r"completions/clipped_ratio", "Cut off at the token limit", "share of completions"),
    (r"kl", "Distance from the reference", "KL divergence, nats per token"),
    (r"entropy", "Entropy", "nats per token"),
    (r"frac_reward_zero_std", "Groups that teach nothing", "share whose rewards are all equal"),
    (r"loss", "Loss of {run}", "as optimized"),
    (r"mean_token_accuracy", "Token accuracy", "share of target tokens"),
    (r"grad_norm", "Gradient norm", "before clipping"),
)

# Drawn into the chart of the first, the gap between the two being what is to be seen.
_BLANK = ("eval_accuracy", "eval_blank_accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark on an axis: where it is drawn, in user units, and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One run in one chart.

    Attributes:
        run: name of the run.
        style: number of its colour and dash, the same in every chart.
        raw: SVG path through the logged values.
        smooth: SVG path through their running mean, "" for a short series.
        dot: position of the only value of a series with one point, None otherwise.
        last: the last value as text.
    """

    run: str
    style: int
    raw: str
    smooth: str
    dot: tuple[float, float] | None
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One small chart: all runs that logged one metric."""

    key: str
    title: str
    subtitle: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Size of a chart and the edges of its plotting area, in user units; the template scales it to the column."""

    width: float = 360.0
    height: float = 190.0
    left: float = 44.0
    right: float = 348.0
    top: float = 10.0
    bottom: float = 164.0


FRAME = Frame()
Points = list[tuple[float, float]]


def build_panels(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Panel]:
    """Lay out one chart per known metric that any run has logged.

    Args:
        metrics: for every run of the report, the rows of its `metrics.jsonl`, none for one without a training; a row
            needs `step`, all else may be absent or not finite.

    Returns:
        Charts in reading order; empty when nothing was logged. A run's style is its position.
    """
    names = [*metrics, *(_blank(run) for run in metrics)]
    styles = {name: position for position, name in enumerate(names)}
    keys = list(dict.fromkeys(key for rows in metrics.values() for row in rows for key in row))
    real, blank = _BLANK
    if real in keys:
        keys = [key for key in keys if key != blank]
    panels = []
    for pattern, title, subtitle in _PANELS:
        for key in keys:
            match = re.fullmatch(pattern, key)
            if match is None:
                continue
            series = {run: points for run, rows in metrics.items() if (points := _series(rows, key))}
            if key == real:
                series |= {_blank(run): points for run, rows in metrics.items() if (points := _series(rows, blank))}
            name = match.groupdict().get("name", "").replace("_", " ").replace("/", ", ")
            apart = [{run: points} for run, points in series.items()] if "{run}" in title else [series]
            for part in apart:
                if part:
                    heading = title.format(name=name, run=next(iter(part)))
                    panels.append(_panel(key, heading, subtitle, part, styles))
    return panels


def _blank(run: str) -> str:
    return f"{run}, blank image"


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) that span low to high.

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
    """Centred mean over at most `window` values, fewer at the ends."""
    half = window // 2
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    ends = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[stop] - sums[start]) / (stop - start) for start, stop in ends]


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> Points:
    points = {
        float(row["step"]): float(row[key])
        for row in rows
        if isinstance(row.get(key), int | float)
        and isinstance(row.get("step"), int | float)
        and math.isfinite(row[key])
    }
    return sorted(points.items())


def _panel(key: str, title: str, subtitle: str, series: Mapping[str, Points], styles: Mapping[str, int]) -> Panel:
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    # Axes start at zero unless values are negative: no small change is blown up, and runs keep one origin.
    x_low, x_high = _widened(min(0.0, *xs), max(xs))
    y_marks = nice_ticks(*_widened(min(0.0, min(ys)), max(ys)))
    x_marks = [x for x in nice_ticks(x_low, x_high) if x_low <= x <= x_high]

    def place(x: float, y: float) -> tuple[float, float]:
        across = FRAME.left + (x - x_low) / (x_high - x_low) * (FRAME.right - FRAME.left)
        down = FRAME.bottom - (y - y_marks[0]) / (y_marks[-1] - y_marks[0]) * (FRAME.bottom - FRAME.top)
        return round(across, 1), round(down, 1)

    lines = []
    for run, points in series.items():
        placed = [place(x, y) for x, y in _thinned(points)]
        means = _thinned(_smoothed(points)) if len(points) >= _SMOOTH_FROM else []
        lines.append(
            Line(
                run=run,
                style=styles[run],
                raw=_path(placed),
                smooth=_path([place(x, y) for x, y in means]),
                dot=placed[0] if len(placed) == 1 else None,
                last=number(points[-1][1]),
            )
        )
    return Panel(
        key=key,
        title=title,
        subtitle=subtitle,
        lines=tuple(lines),
        x_ticks=tuple(Tick(at=place(x, y_marks[0])[0], label=number(x)) for x in x_marks),
        y_ticks=tuple(Tick(at=place(x_low, y)[1], label=number(y)) for y in y_marks),
    )


def number(value: float) -> str:
    """A value for an axis or a legend: three significant digits, no exponent where it can be avoided."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        text = f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace(".0e", "e")
    else:
        text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−")


def _smoothed(points: Points) -> Points:
    means = running_mean([y for _, y in points], max(5, len(points) // 15))
    return [(x, mean) for (x, _), mean in zip(points, means, strict=True)]


def _thinned(points: Points) -> Points:
    stride = math.ceil(len(points) / _MAX_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:g},{y:g}" for x, y in points) if points else ""
