"""The shares that a model's audit draws, question by question: which measures, under which name, against which line."""

from __future__ import annotations

from collections.abc import Mapping

from medvlm_r1.audit.probe import Measure, ProbeResult
from medvlm_r1.audit.probes.options import FLIPS_FEW
from medvlm_r1.audit.probes.subgroups import GROUPINGS
from medvlm_r1.audit.probes.truth import TRUSTED
from medvlm_r1.report.audit.charts import BlindChart, Share, share_chart
from medvlm_r1.report.table import percent

_SHOWN = {
    "accuracy_real": "its own image",
    "accuracy_blank": "a grey image",
    "accuracy_noise": "noise",
    "accuracy_shuffled": "another item's",
    "accuracy_absent": "no image",
}
_CHANGED = {
    "image_sensitivity": "any other image",
    "changed_blank": "a grey image",
    "changed_noise": "noise",
    "changed_shuffled": "another item's",
    "changed_absent": "no image",
}
_ORDER = {"accuracy": "right as asked", "circular_accuracy": "right in every order"}
_FLIPS = {"flip_rate": "answers changed", "any_flip": "items with a change"}
_WITHOUT = {"accuracy_with": "with it", "accuracy_filler": "dots in its place", "accuracy_without": "without it"}
_MOVED = {
    "changed_by_relevant_mistake": "a mistake that matters",
    "changed_by_mistake": "any mistake",
    "sway_text": "a hint in the question",
    "silent_sway_text": "… without a word of it",
    "sway_image": "a hint on the image",
    "silent_sway_image": "… without a word of it",
}
_ODDS = {"reasoned": "with a reasoning", "contradiction": "against its reasoning"}
_REASONS = {
    "right_for_wrong_reason": "right, a claim false",
    "right_against_reason": "right, false on the point",
    "wrong_for_right_reason": "wrong, all claims true",
    "sensitivity": "findings claimed",
    "specificity": "healthy left healthy",
}
_KEPT = {
    "coverage_5": "kept at 5 % wrong",
    "coverage_10": "kept at 10 % wrong",
    "confidently_wrong": "surely wrong",
}
_BY = {"stated": "by letter", "vote": "by vote"}


def image_charts(probe: ProbeResult) -> list[BlindChart]:
    """Accuracy by what was shown, against guessing; and how many answers change with it."""
    chance = probe.measures.get("chance")
    line = None if chance is None else 100 * chance.value
    return _present(
        _chart(
            "Correct, by the image shown",
            "percent of the questions" + ("" if line is None else f"; dashed: guessing, {percent(line)}"),
            probe,
            _SHOWN,
            line=line,
        ),
        _chart("Answers that change", "percent of the answers, against those with its own image", probe, _CHANGED),
    )


def options_charts(probe: ProbeResult) -> list[BlindChart]:
    """Accuracy as asked and in every order, flips, and recall by letter."""
    limit = 100 * FLIPS_FEW
    charts = _present(
        _chart("Correct, by the order of the options", "percent of the questions", probe, _ORDER),
        _chart(
            "Changed by the order",
            f"percent; dashed: {limit:.0f}, up to which the order does not matter",
            probe,
            _FLIPS,
            line=limit,
        ),
    )
    for size, recalls in probe.detail.get("recall_by_letter", {}).items():
        shares = [Share(name=f"right one at {letter}", percent=100 * value) for letter, value in recalls.items()]
        mean = sum(share.percent for share in shares) / len(shares)
        told = f"percent right, over all orders; dashed: their mean, {percent(mean)}"
        charts.append(share_chart(f"Recall by letter, {size} options", told, shares, line=mean))
    return charts


def reasoning_charts(probe: ProbeResult) -> list[BlindChart]:
    """Accuracy without the reasoning, what moves an answer, and whether answer and reasoning agree."""
    return _present(
        _chart("Correct, by the reasoning kept", "percent of the questions", probe, _WITHOUT),
        _chart("Answers moved", "percent of the answers that change, or follow the hint", probe, _MOVED),
        _chart("Answer and reasoning", "percent of the answers", probe, _ODDS),
    )


def truth_charts(probe: ProbeResult) -> list[BlindChart]:
    """True claims by attribute, and how answers and claims go together."""
    names = {
        name: f"{name.removeprefix('true_')}, {found.n}"
        for name, found in probe.measures.items()
        if name.startswith("true_")
    }
    line = 100 * TRUSTED
    return _present(
        _chart(
            "Claims that are true",
            f"percent, by attribute with the number of claims; dashed: {line:.0f}",
            probe,
            {"true": "all claims"} | names,
            line=line,
        ),
        _chart("Answers and their claims", "percent of the answers, of the images with and without", probe, _REASONS),
    )


def confidence_charts(probe: ProbeResult) -> list[BlindChart]:
    """What deferring keeps, and what is wrong at a high confidence."""
    names = {f"{kind}_{name}": f"{label}, {by}" for name, label in _KEPT.items() for kind, by in _BY.items()}
    return _present(_chart("What deferring keeps", "percent of the answers", probe, names))


def subgroup_charts(probe: ProbeResult) -> list[BlindChart]:
    """Accuracy by each grouping, against that of all."""
    overall = probe.measures.get("accuracy")
    line = None if overall is None else 100 * overall.value
    charts = []
    for grouping in GROUPINGS:
        several = grouping == "options"
        names = {
            name: f"{name.removeprefix(f'{grouping}: ')}{' options' if several else ''}, {found.n}"
            for name, found in probe.measures.items()
            if name.startswith(f"{grouping}: ") and found.unit == "share"
        }
        told = "percent right, with the number of questions"
        if line is not None:
            told += f"; dashed: all, {percent(line)}"
        title = "By number of options" if several else f"By {grouping}"
        charts += _present(_chart(title, told, probe, names, line=line))
    return charts


CHARTS = {
    "image": image_charts,
    "options": options_charts,
    "reasoning": reasoning_charts,
    "truth": truth_charts,
    "confidence": confidence_charts,
    "subgroups": subgroup_charts,
}
"""By name of the probe."""


def _chart(
    title: str, subtitle: str, probe: ProbeResult, names: Mapping[str, str], *, line: float | None = None
) -> BlindChart | None:
    """The measures that are there; None when none is."""
    found = {name: probe.measures[name] for name in names if name in probe.measures and probe.measures[name].n}
    shares = [_share(names[name], measure) for name, measure in found.items()]
    return share_chart(title, subtitle, shares, line=line) if shares else None


def _share(name: str, measure: Measure) -> Share:
    low, high = measure.ci95 or (measure.value, measure.value)
    return Share(name=name, percent=100 * measure.value, ci95=(100 * low, 100 * high))


def _present(*charts: BlindChart | None) -> list[BlindChart]:
    return [chart for chart in charts if chart is not None]
