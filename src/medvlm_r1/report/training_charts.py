"""The curves of trainings: which figures of `metrics.jsonl` are drawn, in which order, and beside which others."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medvlm_r1.evaluation.score import order_modalities
from medvlm_r1.evaluation.statistics import mean_interval, wilson
from medvlm_r1.report.charts import Band, Chart, Points, lay_out

Rows = Sequence[Mapping[str, Any]]

_ACCURACY, _BLANK, _QUESTIONS = "eval_accuracy", "eval_blank_accuracy", "eval_questions"
_MODALITY = re.compile(rf"{_ACCURACY}_(.+)")

# Key or pattern in metrics.jsonl, title, what is plotted. The order is the order on the page, after the accuracies on
# held-out questions. A loss is drawn for each run apart, because the losses of two methods have no common scale.
_PANELS: tuple[tuple[str, str, str], ...] = (
    (r"eval_(?P<name>.*accuracy.*)", "Held out: {name}", "on the evaluation data"),
    (r"eval_well_formed", "Held out: well formed", "percent of answers in the wanted form"),
    (r"eval_contradiction", "Held out: contradiction", "percent of answers at odds with their reasoning"),
    (r"eval_reward", "Held out: reward", "on the evaluation data"),
    (r"eval_loss", "Held out: loss of {run}", "on the evaluation data"),
    (r"reward", "Reward", "mean over the completions of a step"),
    (r"rewards/(?P<name>.+)/mean", "Reward: {name}", "mean over the completions of a step"),
    (r"blank_right", "Correct without the image", "share of prompts answered correctly on a blank image"),
    (r"own_right", "Correct with its own image", "share of completions"),
    (r"other_right", "The same letter beside another's image", "share of completions"),
    (r"completions/mean_length", "Length of a completion", "tokens"),
    (r"completions/clipped_ratio", "Cut off at the token limit", "share of completions"),
    (r"kl", "Distance from the reference", "KL divergence, nats per token"),
    (r"entropy", "Entropy", "nats per token"),
    (r"frac_reward_zero_std", "Groups that teach nothing", "share of zero advantage: their rewards are all equal"),
    (r"loss", "Loss of {run}", "as optimized"),
    (r"mean_token_accuracy", "Token accuracy", "share of target tokens"),
    (r"grad_norm", "Gradient norm", "before clipping"),
)


def build_panels(metrics: Mapping[str, Rows]) -> list[Chart]:
    """Lay out one chart per known metric that any run has logged.

    Args:
        metrics: for every run of the report, the rows of its `metrics.jsonl`, none for one without a training; a row
            needs `step`, all else may be absent or not finite.

    Returns:
        Charts in reading order; empty when nothing was logged. A run's style is its position.
    """
    styles = {run: position for position, run in enumerate(metrics)}
    keys = list(dict.fromkeys(key for rows in metrics.values() for row in rows for key in row))
    panels = _held_out(metrics, styles)
    drawn = {_ACCURACY, *(key for key in keys if _MODALITY.fullmatch(key)), *([_BLANK] if _ACCURACY in keys else [])}
    for pattern, title, subtitle in _PANELS:
        for key in keys:
            match = re.fullmatch(pattern, key)
            if match is None or key in drawn:
                continue
            series = _by_run(metrics, key)
            name = match.groupdict().get("name", "").replace("_", " ").replace("/", ", ")
            apart = [{run: points} for run, points in series.items()] if "{run}" in title else [series]
            for part in apart:
                if part:
                    heading = title.format(name=name, run=next(iter(part)))
                    panels.append(lay_out(heading, subtitle, part, styles, across="step"))
    return panels


def _held_out(metrics: Mapping[str, Rows], styles: Mapping[str, int]) -> list[Chart]:
    """Accuracy with and without the image in one chart, the gap being what is to be seen; then by modality."""
    charts = []
    real = _by_run(metrics, _ACCURACY)
    if real:
        blank = {f"{run}, blank image": points for run, points in _by_run(metrics, _BLANK).items()}
        places = {**styles, **{name: place for place, name in enumerate(blank, start=len(styles))}}
        bands = {run: _mean_band(metrics[run]) for run in real}
        told = _told("percent right, mean over the modalities", bands)
        charts.append(lay_out("Held out: accuracy", told, real | blank, places, across="step", bands=bands))
    by_modality = {run: part for run, rows in metrics.items() if (part := _by_modality(rows))}
    for run, part in by_modality.items():
        bands = {modality: _band(metrics[run], modality) for modality in part}
        charts.append(
            lay_out(
                "Held out: by modality" + (f", {run}" if len(by_modality) > 1 else ""),
                _told("percent right", bands),
                part,
                {modality: place for place, modality in enumerate(part, start=1)},
                across="step",
                bands=bands,
            )
        )
    return charts


def _told(what: str, bands: Mapping[str, Band]) -> str:
    return f"{what}; shaded: 95 % interval" if any(bands.values()) else what


def _by_modality(rows: Rows) -> dict[str, Points]:
    names = {match[1] for row in rows for key in row if (match := _MODALITY.fullmatch(key))}
    series = {name: _series(rows, f"{_ACCURACY}_{name}") for name in order_modalities(names)}
    return {name: points for name, points in series.items() if points}


def _counts(rows: Rows, modality: str) -> dict[float, tuple[int, int]]:
    """By step: how many of how many questions were right; empty where it was not logged how many there were."""
    asked = dict(_series(rows, f"{_QUESTIONS}_{modality}"))
    right = dict(_series(rows, f"{_ACCURACY}_{modality}"))
    return {
        step: (min(round(percent / 100 * n), n), n)
        for step, percent in right.items()
        if percent >= 0 and (n := int(asked.get(step, 0))) > 0
    }


def _band(rows: Rows, modality: str) -> Band:
    return [(step, *_percent(wilson(k, n))) for step, (k, n) in _counts(rows, modality).items()]


def _mean_band(rows: Rows) -> Band:
    """The interval of the mean over the modalities, at steps where the count of each is known."""
    parts = [_counts(rows, modality) for modality in _by_modality(rows)]
    steps = sorted(set.intersection(*map(set, parts))) if parts else []
    return [(step, *_percent(mean_interval([part[step] for part in parts]))) for step in steps]


def _percent(ends: tuple[float, float]) -> tuple[float, float]:
    return 100 * ends[0], 100 * ends[1]


def _by_run(metrics: Mapping[str, Rows], key: str) -> dict[str, Points]:
    return {run: points for run, rows in metrics.items() if (points := _series(rows, key))}


def _series(rows: Rows, key: str) -> Points:
    points = {
        float(row["step"]): float(row[key])
        for row in rows
        if isinstance(row.get(key), int | float)
        and isinstance(row.get("step"), int | float)
        and math.isfinite(row[key])
    }
    return sorted(points.items())
