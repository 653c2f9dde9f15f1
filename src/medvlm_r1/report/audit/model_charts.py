"""Charts of a model audit by probe: measures, labels and reference lines, and curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from medvlm_r1.audit.probe import ProbeResult
from medvlm_r1.audit.probes.confidence import RISKS, STATED, VOTE
from medvlm_r1.audit.probes.options import FLIPS_FEW
from medvlm_r1.audit.probes.subgroups import GROUPINGS
from medvlm_r1.audit.probes.truth import TRUSTED
from medvlm_r1.report.charts import Chart, Line, Point, Points, Share, ShareChart, nice_ticks
from medvlm_r1.report.table import percent

_ACCURACY = {
    "accuracy_real": "its own image",
    "accuracy_blank": "a gray image",
    "accuracy_noise": "noise",
    "accuracy_shuffled": "another item's",
    "accuracy_absent": "no image",
}
_CHANGED = {
    "image_sensitivity": "any other image",
    "changed_blank": "a gray image",
    "changed_noise": "noise",
    "changed_shuffled": "another item's",
    "changed_absent": "no image",
}
_ORDER = {"accuracy": "original order", "circular_accuracy": "correct in every order"}
_FLIPS = {"flip_rate": "answers changed", "any_flip": "items with a change"}
_WITHOUT = {"accuracy_with": "with it", "accuracy_filler": "dots instead", "accuracy_without": "without it"}
_FOLLOWED = {
    "changed_by_relevant_mistake": "a mistake that matters",
    "changed_by_mistake": "any mistake",
    "sway_text": "a hint in the question",
    "silent_sway_text": "… without mentioning it",
    "sway_image": "a hint on the image",
    "silent_sway_image": "… without mentioning it",
}
_ODDS = {"reasoned": "with a reasoning", "contradiction": "contradicts reasoning"}
_REASONS = {
    "right_for_wrong_reason": "correct, a claim false",
    "right_against_reason": "correct, false on the point",
    "wrong_for_right_reason": "wrong, all claims true",
    "sensitivity": "findings claimed",
    "specificity": "healthy, none claimed",
}
_SELECTIVE = {
    "coverage_5": "accepted at 5 % wrong",
    "coverage_10": "accepted at 10 % wrong",
    "confidently_wrong": "confidently wrong",
}
_BY = {"stated": "by letter", "vote": "by vote"}
_CURVES = {STATED: ("probability of the letter", 2), VOTE: ("vote of samples", 1)}
"""Name and style of each confidence."""
_FEW = 16
"""Maximum number of points that get dots."""
_DOT = 3.6


def _image_charts(probe: ProbeResult) -> list[ShareChart]:
    """Accuracy by image variant compared with chance, and changed answers."""
    line, dashed = _reference(probe, "chance", "chance")
    return [
        *_chart("Accuracy by image", f"percent of the questions{dashed}", probe, _ACCURACY, line),
        *_chart("Answers that change", "percent of the answers, compared with its own image", probe, _CHANGED),
    ]


def _options_charts(probe: ProbeResult) -> list[ShareChart]:
    """Accuracy in the original and in every order, flips, and recall by letter."""
    limit = 100 * FLIPS_FEW
    charts = [
        *_chart("Accuracy by option order", "percent of the questions", probe, _ORDER),
        *_chart("Changes by option order", f"percent; dashed: {limit:.0f}, the limit for pass", probe, _FLIPS, limit),
    ]
    for size, recalls in probe.detail.get("recall_by_letter", {}).items():
        shares = [Share(f"correct at {letter}", 100 * value) for letter, value in recalls.items()]
        mean = sum(share.percent for share in shares) / len(shares)
        subtitle = f"accuracy in percent, over all orders; dashed: mean, {percent(mean)}"
        charts.append(ShareChart(f"Recall by letter, {size} options", subtitle, shares, mean))
    return charts


def _reasoning_charts(probe: ProbeResult) -> list[ShareChart]:
    """Accuracy without the reasoning, effects of mistakes and hints, and contradictions."""
    return [
        *_chart("Accuracy by reasoning", "percent of the questions", probe, _WITHOUT),
        *_chart("Answers that follow", "percent of the answers that change, or follow the hint", probe, _FOLLOWED),
        *_chart("Answer and reasoning", "percent of the answers", probe, _ODDS),
    ]


def _truth_charts(probe: ProbeResult) -> list[ShareChart]:
    """True claims by attribute, and answers compared with claims."""
    names = {
        name: f"{name.removeprefix('true_')}, {measure.n}"
        for name, measure in probe.measures.items()
        if name.startswith("true_")
    }
    line = 100 * TRUSTED
    subtitle = f"percent, by attribute with the number of claims; dashed: {line:.0f}"
    return [
        *_chart("True claims", subtitle, probe, {"true": "all claims"} | names, line),
        *_chart("Answers and their claims", "percent of the answers, of the images with and without", probe, _REASONS),
    ]


def _confidence_charts(probe: ProbeResult) -> list[ShareChart]:
    """Coverage at fixed risk, and confidently wrong answers."""
    names = {f"{kind}_{name}": f"{label}, {by}" for name, label in _SELECTIVE.items() for kind, by in _BY.items()}
    return _chart("Selective prediction", "percent of the answers", probe, names)


def _subgroup_charts(probe: ProbeResult) -> list[ShareChart]:
    """Accuracy by subgroup compared with all items."""
    line, dashed = _reference(probe, "accuracy", "all")
    charts = []
    for grouping in GROUPINGS:
        title, unit = ("By number of options", " options") if grouping == "options" else (f"By {grouping}", "")
        names = {
            name: f"{name.removeprefix(f'{grouping}: ')}{unit}, {measure.n}"
            for name, measure in probe.measures.items()
            if name.startswith(f"{grouping}: ") and measure.unit == "share"
        }
        subtitle = f"accuracy in percent, with the number of questions{dashed}"
        charts += _chart(title, subtitle, probe, names, line)
    return charts


CHARTS: dict[str, Callable[[ProbeResult], list[ShareChart]]] = {
    "image": _image_charts,
    "options": _options_charts,
    "reasoning": _reasoning_charts,
    "truth": _truth_charts,
    "confidence": _confidence_charts,
    "subgroups": _subgroup_charts,
}
"""By name of the probe."""


def _reference(probe: ProbeResult, measure: str, name: str) -> tuple[float | None, str]:
    """Return a measure as position of the dashed line, and its mention in the subtitle."""
    if measure not in probe.measures:
        return None, ""
    line = 100 * probe.measures[measure].value
    return line, f"; dashed: {name}, {percent(line)}"


def _chart(
    title: str, subtitle: str, probe: ProbeResult, names: Mapping[str, str], line: float | None = None
) -> list[ShareChart]:
    """Chart of the available measures; no chart if there are none."""
    shares = []
    for name, label in names.items():
        measure = probe.measures.get(name)
        if measure and measure.n:
            low, high = measure.ci95 or (measure.value, measure.value)
            shares.append(Share(label, 100 * measure.value, (100 * low, 100 * high)))
    return [ShareChart(title, subtitle, shares, line)] if shares else []


def early_curve(probe: ProbeResult) -> Chart | None:
    """same(k/K): share of unchanged answers with truncated reasoning; None if it was not run.

    The area over the curve (AOC) is filled.
    """
    early = probe.detail.get("early")
    if not early:
        return None
    pairs = zip(early["share_of_reasoning"], early["same"], strict=True)
    points = [(100 * x, 100 * y) for x, y in pairs if y is not None]
    aoc = probe.measures.get("aoc")
    area = "" if aoc is None else f", AOC {aoc.value:.2f}"
    return Chart(
        title="Early answering",
        subtitle=f"percent of {early['n']} answers equal to the final one{area} (filled area)",
        lines=[Line("same answer", 2, points, dot=_DOT, area=[(0.0, 100.0), *points, (100.0, 100.0)])],
        y_marks=nice_ticks(0.0, 100.0),
        across="percent of the reasoning given",
        text=_text({"same answer": points}),
    )


def reliability_curve(probe: ProbeResult) -> Chart | None:
    """Accuracy by confidence, one dot per bin of equal mass; None without confidences."""
    series = _series(probe, "reliability", 0, 1)
    if not series:
        return None
    return Chart(
        title="Reliability",
        subtitle="accuracy in percent, one mark per tenth of the answers; dashed: perfect calibration",
        lines=[
            Line(*_CURVES[kind], points, _labeled(probe, f"{kind}_ece", "ECE"), joined=False, dot=_DOT)
            for kind, points in series.items()
        ],
        guides=[[(0.0, 0.0), (100.0, 100.0)]],
        y_marks=nice_ticks(0.0, 100.0),
        across="confidence in percent",
        text=_text({_CURVES[kind][0]: points for kind, points in series.items()}),
    )


def risk_curve(probe: ProbeResult) -> Chart | None:
    """Risk-coverage curve: percent wrong among accepted answers by coverage; None without confidences."""
    series = _series(probe, "risk_coverage", 1, 2)
    if not series:
        return None
    highest = max(100 * RISKS[-1] * 1.5, *(y for points in series.values() for _, y in points))
    return Chart(
        title="Risk and coverage",
        subtitle="percent wrong of accepted answers; dashed: " + " and ".join(f"{100 * risk:.0f}" for risk in RISKS),
        lines=[
            Line(
                *_CURVES[kind],
                points,
                _labeled(probe, f"{kind}_auroc", "AUROC"),
                dot=_DOT if len(points) <= _FEW else 0.0,
            )
            for kind, points in series.items()
        ],
        guides=[[(0.0, 100 * risk), (100.0, 100 * risk)] for risk in RISKS],
        y_marks=[value for value in nice_ticks(0.0, highest) if value <= 100],
        across="percent of the answers accepted, most confident first",
        text=_text({_CURVES[kind][0]: points for kind, points in series.items()}),
    )


CURVES: dict[str, Sequence[Callable[[ProbeResult], Chart | None]]] = {
    "reasoning": (early_curve,),
    "confidence": (reliability_curve, risk_curve),
}
"""By name of the probe."""


def _series(probe: ProbeResult, name: str, x: int, y: int) -> dict[str, list[Point]]:
    """Return points in percent by confidence; `x` and `y` are columns of the stored rows."""
    return {
        kind: [(100 * row[x], 100 * row[y]) for row in probe.detail[kind][name]]
        for kind in _CURVES
        if probe.detail.get(kind, {}).get(name)
    }


def _labeled(probe: ProbeResult, measure: str, name: str) -> str:
    return f"{name} {probe.measures[measure].value:.2f}" if measure in probe.measures else ""


def _text(series: Mapping[str, Points]) -> str:
    """Text alternative: all points of a short line, about a dozen of a long one."""
    lines = []
    for name, points in series.items():
        some = points[:: max(1, len(points) // 12)]
        lines.append(f"{name}: " + ", ".join(f"{y:.0f} at {x:.0f}" for x, y in some))
    return ". ".join(lines) + "."
