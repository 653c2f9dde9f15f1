"""Chart descriptions in data units, including the training curves. Templates draw them as inline SVG.

Inline SVG follows the page's light and dark colors, stays sharp in print and is accessible to screen readers. All
functions are pure and use no files.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, NamedTuple

from medvlm_r1.disk import read_table
from medvlm_r1.evaluation.score import order_modalities
from medvlm_r1.evaluation.statistics import mean_interval, wilson
from medvlm_r1.report.page import number

Point = tuple[float, float]
Points = Sequence[Point]
Band = Sequence[tuple[float, float, float]]
"""(x, low, high) points: the intervals around the points of a line."""

_MAX_POINTS = 400
_SMOOTH_FROM = 30


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
        name: Name in the legend.
        style: Number of the line's color and dash pattern.
        points: The points, sorted by x.
        last: Last value as text, shown next to the name in the legend.
        joined: Whether the points are joined by a line.
        dot: Radius of a dot at each point; 0 for none.
        raw: Values before the running mean, drawn as a thin line.
        area: Outline of a filled area: an interval band, or the area between this line and another.
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
    """One small line chart. `x`, `y` and `path` return positions in SVG user units.

    Attributes:
        title: Heading.
        subtitle: Description in small print.
        lines: The lines, at least one.
        across: Label of the horizontal axis.
        x_ends: Ends of the horizontal axis.
        x_marks: Labeled values of the horizontal axis.
        y_marks: Labeled values of the vertical axis, from its lower to its upper end.
        text: Text alternative to the chart, for screen readers.
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
        """SVG path data of a polyline; "" if there are no points."""
        return "M" + " L".join(f"{self.x(x):g},{self.y(y):g}" for x, y in points) if points else ""


def series_chart(
    title: str,
    subtitle: str,
    series: Mapping[str, Points],
    styles: Mapping[str, int],
    bands: Mapping[str, Band] | None = None,
) -> Chart:
    """Lay out series over training steps in one chart. A long series has a running mean over thinly drawn raw values.

    Args:
        title: Heading.
        subtitle: Description in small print.
        series: (step, y) points by series name, sorted by step. There is at least one series, and none is empty.
        styles: Style numbers by series name.
        bands: Intervals by series name. Two or more intervals of a series are drawn as a filled area.
    """
    bands = bands or {}
    if any(bands.values()):
        subtitle += "; shaded: 95 % interval"
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    ys += [end for band in bands.values() for _, *ends in band for end in ends]
    # Axes start at zero unless values are negative, so that small changes are not exaggerated.
    x_ends = _widened(min(0.0, *xs), max(xs))
    lines = []
    for name, points in series.items():
        raw = thinned = _thinned(points)
        if smooth := len(points) >= _SMOOTH_FROM:
            means = running_mean([y for _, y in points], max(5, len(points) // 15))
            thinned = _thinned([(x, mean) for (x, _), mean in zip(points, means, strict=True)])
        band = bands.get(name, ())
        outline = [(x, low) for x, low, _ in band] + [(x, high) for x, _, high in reversed(band)]
        lines.append(
            Line(
                name,
                styles[name],
                thinned,
                last=number(points[-1][1]),
                dot=3.0 if len(thinned) == 1 else 0.0,
                raw=raw if smooth else (),
                area=outline if len(band) > 1 else (),
            )
        )
    return Chart(
        title=title,
        subtitle=subtitle,
        lines=lines,
        across="step",
        x_ends=x_ends,
        x_marks=[x for x in nice_ticks(*x_ends) if x_ends[0] <= x <= x_ends[1]],
        y_marks=nice_ticks(*_widened(min(0.0, *ys), max(ys))),
        text=" ".join(f"{line.name} ends at {line.last}." for line in lines),
    )


def nice_ticks(low: float, high: float, steps: int = 5) -> list[float]:
    """Return tick values (multiples of 1, 2 or 5 times a power of ten) that span low to high.

    Args:
        low: Smallest value to be covered.
        high: Largest value to be covered; greater than `low`.
        steps: Approximate number of steps.
    """
    raw = (high - low) / steps
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the centered running mean over `window // 2` values on each side, fewer at the ends."""
    half = window // 2
    return [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _thinned(points: Points) -> Points:
    stride = math.ceil(len(points) / _MAX_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


Rows = Sequence[Mapping[str, Any]]

_ACCURACY, _BLANK, _QUESTIONS = "eval_accuracy", "eval_blank_accuracy", "eval_questions"
_MODALITY = re.compile(rf"{_ACCURACY}_(.+)")

# (key or pattern in metrics.jsonl, title, subtitle), in page order. The held-out accuracies come before these charts.
# Each run has its own loss chart, because the losses of different methods have different scales.
_PANELS = read_table(Path(__file__).with_name("panels.tsv"))


def build_panels(metrics: Mapping[str, Rows]) -> list[Chart]:
    """Lay out one chart per known metric that any run has logged.

    Args:
        metrics: rows of `metrics.jsonl` by run; empty for a run that is not a training. Rows without `step` and values
            that are missing, NaN or Inf are ignored.

    Returns:
        Charts in page order; empty if nothing was logged. The style number of a run is its position in `metrics`.
    """
    styles = {run: position for position, run in enumerate(metrics)}
    keys = list(dict.fromkeys(key for rows in metrics.values() for row in rows for key in row))
    panels = _held_out(metrics, styles)
    done = {_ACCURACY, *(key for key in keys if _MODALITY.fullmatch(key)), *([_BLANK] if _ACCURACY in keys else [])}
    for pattern, title, subtitle in _PANELS:
        together: dict[str, dict[str, Points]] = {}
        for key in keys:
            match = re.fullmatch(pattern, key)
            if match is None or key in done:
                continue
            series = _by_run(metrics, key)
            name = match.groupdict().get("name", "").replace("_", " ").replace("/", ", ")
            if line := match.groupdict().get("line"):
                lines_here = together.setdefault(title.format(name=name), {})
                lines_here |= {
                    line if len(metrics) == 1 else f"{run}, {line}": points for run, points in series.items()
                }
                continue
            for lines in [{run: points} for run, points in series.items()] if "{run}" in title else [series]:
                if lines:
                    heading = title.format(name=name, run=next(iter(lines)))
                    panels.append(series_chart(heading, subtitle, lines, styles))
        for heading, named in together.items():
            panels.append(series_chart(heading, subtitle, named, {line: style for style, line in enumerate(named)}))
    return panels


def _held_out(metrics: Mapping[str, Rows], styles: Mapping[str, int]) -> list[Chart]:
    """Accuracy with real and blank images in one chart, then accuracy by modality."""
    charts = []
    if real := _by_run(metrics, _ACCURACY):
        blank = {f"{run}, blank image": points for run, points in _by_run(metrics, _BLANK).items()}
        all_styles = {**styles, **{name: style for style, name in enumerate(blank, start=len(styles))}}
        bands = {run: _mean_band(metrics[run]) for run in real}
        subtitle = "accuracy in percent, mean over modalities"
        charts.append(series_chart("Held out: accuracy", subtitle, real | blank, all_styles, bands))
    by_run = {run: series for run, rows in metrics.items() if (series := _by_modality(rows))}
    for run, series in by_run.items():
        title = "Held out: by modality" + (f", {run}" if len(by_run) > 1 else "")
        bands = {
            name: [(step, *_ends(wilson(*count))) for step, count in _counts(metrics[run], name)] for name in series
        }
        own_styles = {name: style for style, name in enumerate(series, start=1)}
        charts.append(series_chart(title, "accuracy in percent", series, own_styles, bands))
    return charts


def _by_modality(rows: Rows) -> dict[str, list[Point]]:
    names = {match[1] for row in rows for key in row if (match := _MODALITY.fullmatch(key))}
    return {name: points for name in order_modalities(names) if (points := _series(rows, f"{_ACCURACY}_{name}"))}


def _counts(rows: Rows, modality: str) -> list[tuple[float, tuple[int, int]]]:
    """(step, (correct, total)) pairs, without steps whose total was not logged or whose accuracy is no percentage."""
    totals = dict(_series(rows, f"{_QUESTIONS}_{modality}"))
    accuracies = [(step, share) for step, share in _series(rows, f"{_ACCURACY}_{modality}") if 0 <= share <= 100]
    return [(step, (round(share / 100 * n), n)) for step, share in accuracies if (n := int(totals.get(step, 0))) > 0]


def _mean_band(rows: Rows) -> Band:
    """Interval of the mean accuracy over modalities, at the steps at which all counts are known."""
    counts = [dict(_counts(rows, modality)) for modality in _by_modality(rows)]
    steps = sorted(set.intersection(*map(set, counts))) if counts else []
    return [(step, *_ends(mean_interval([by_step[step] for by_step in counts]))) for step in steps]


def _ends(interval: tuple[float, float]) -> tuple[float, float]:
    """Convert the ends of an interval from fractions to percent."""
    return 100 * interval[0], 100 * interval[1]


def _by_run(metrics: Mapping[str, Rows], key: str) -> dict[str, list[Point]]:
    return {run: points for run, rows in metrics.items() if (points := _series(rows, key))}


def _series(rows: Rows, key: str) -> list[Point]:
    """Finite values of a metric by step. If a step is repeated, its last value is used."""
    pairs = [(row.get("step"), row.get(key)) for row in rows]
    return sorted(
        {
            float(step): float(value)
            for step, value in pairs
            if isinstance(step, int | float) and isinstance(value, int | float) and math.isfinite(value)
        }.items()
    )
