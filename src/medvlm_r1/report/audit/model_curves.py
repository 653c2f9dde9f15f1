"""Curves of a model audit: early answering, reliability and risk-coverage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from medvlm_r1.audit.probe import ProbeResult
from medvlm_r1.audit.probes.confidence import RISKS, STATED, VOTE
from medvlm_r1.report.charts import FRAME, Chart, Line, Mark, Point, Tick, nice_ticks, number, svg_path

_KINDS = {STATED: "probability of the letter", VOTE: "vote of samples"}
_STYLES = {STATED: 2, VOTE: 1}
_FEW = 16
"""Maximum number of points that get marks."""


def early_curve(probe: ProbeResult) -> Chart | None:
    """same(k/K): share of unchanged answers with truncated reasoning; None if it was not run.

    The area over the curve (AOC) is filled.
    """
    found = probe.detail.get("early")
    if not found:
        return None
    points = [
        (100 * x, 100 * y) for x, y in zip(found["share_of_reasoning"], found["same"], strict=True) if y is not None
    ]
    place, x_ticks, y_ticks = _axes(100.0)
    over = [(0.0, 100.0), *points, (100.0, 100.0)]
    line = Line(
        name="same answer",
        style=2,
        path=svg_path([*map(place, points)]),
        marks=_dots(points, place),
        area=svg_path([*map(place, over)]) + "Z",
        last="",
    )
    aoc = probe.measures.get("aoc")
    told = "" if aoc is None else f", AOC {aoc.value:.2f}"
    return Chart(
        title="Early answering",
        subtitle=f"percent of {found['n']} answers equal to the final one{told} (filled area)",
        lines=(line,),
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        across="percent of the reasoning given",
        said=_said({"same answer": points}),
    )


def reliability_curve(probe: ProbeResult) -> Chart | None:
    """Accuracy by confidence, one mark per bin of equal mass; None without confidences."""
    series = _series(probe, "reliability", lambda row: (100 * row[0], 100 * row[1]))
    if not series:
        return None
    place, x_ticks, y_ticks = _axes(100.0)
    lines = tuple(
        Line(
            name=_KINDS[kind],
            style=_STYLES[kind],
            path="",
            marks=_dots(points, place),
            last=_told(probe, f"{kind}_ece", "ECE"),
        )
        for kind, points in series.items()
    )
    return Chart(
        title="Reliability",
        subtitle="accuracy in percent, one mark per tenth of the answers; dashed: perfect calibration",
        lines=lines,
        guides=(svg_path([place((0.0, 0.0)), place((100.0, 100.0))]),),
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        across="confidence in percent",
        said=_said({_KINDS[kind]: points for kind, points in series.items()}),
    )


def risk_curve(probe: ProbeResult) -> Chart | None:
    """Risk-coverage curve: percent wrong among accepted answers by coverage; None without confidences."""
    series = _series(probe, "risk_coverage", lambda row: (100 * row[1], 100 * row[2]))
    if not series:
        return None
    place, x_ticks, y_ticks = _axes(max(100 * RISKS[-1] * 1.5, *(y for points in series.values() for _, y in points)))
    lines = tuple(
        Line(
            name=_KINDS[kind],
            style=_STYLES[kind],
            path=svg_path([*map(place, points)]),
            marks=_dots(points, place) if len(points) <= _FEW else (),
            last=_told(probe, f"{kind}_auroc", "AUROC"),
        )
        for kind, points in series.items()
    )
    return Chart(
        title="Risk and coverage",
        subtitle="percent wrong of accepted answers; dashed: " + " and ".join(f"{100 * risk:.0f}" for risk in RISKS),
        lines=lines,
        guides=tuple(svg_path([place((0.0, 100 * risk)), place((100.0, 100 * risk))]) for risk in RISKS),
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        across="percent of the answers accepted, most confident first",
        said=_said({_KINDS[kind]: points for kind, points in series.items()}),
    )


def _series(probe: ProbeResult, name: str, read: Callable[[Sequence[float]], Point]) -> dict[str, list[Point]]:
    return {
        kind: [read(row) for row in probe.detail[kind][name]] for kind in _KINDS if probe.detail.get(kind, {}).get(name)
    }


def _axes(highest: float) -> tuple[Callable[[Point], Point], tuple[Tick, ...], tuple[Tick, ...]]:
    """Return a function from percent to user units, and the ticks of both axes; y goes up to about `highest`."""
    y_marks = [value for value in nice_ticks(0.0, highest) if value <= 100]
    top = y_marks[-1]

    def place(point: Point) -> Point:
        x, y = point
        return (
            round(FRAME.left + x / 100 * (FRAME.right - FRAME.left), 1),
            round(FRAME.bottom - y / top * (FRAME.bottom - FRAME.top), 1),
        )

    x_ticks = tuple(Tick(at=place((x, 0.0))[0], label=number(x)) for x in (0.0, 25.0, 50.0, 75.0, 100.0))
    return place, x_ticks, tuple(Tick(at=place((0.0, y))[1], label=number(y)) for y in y_marks)


def _dots(points: Sequence[Point], place: Callable[[Point], Point]) -> tuple[Mark, ...]:
    return tuple(Mark(x=x, y=y) for x, y in map(place, points))


def _told(probe: ProbeResult, measure: str, name: str) -> str:
    found = probe.measures.get(measure)
    return "" if found is None else f"{name} {found.value:.2f}"


def _said(series: Mapping[str, Sequence[Point]]) -> str:
    """Text alternative: all points of a short line, about a dozen of a long one."""
    told = []
    for name, points in series.items():
        some = points[:: max(1, len(points) // 12)]
        told.append(f"{name}: " + ", ".join(f"{y:.0f} at {x:.0f}" for x, y in some))
    return ". ".join(told) + "."
