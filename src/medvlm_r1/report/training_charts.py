"""Training curves: which metrics of `metrics.jsonl` are drawn, and in which order."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medvlm_r1.evaluation.score import order_modalities
from medvlm_r1.evaluation.statistics import mean_interval, wilson
from medvlm_r1.report.charts import Band, Chart, Point, series_chart

Rows = Sequence[Mapping[str, Any]]

_ACCURACY, _BLANK, _QUESTIONS = "eval_accuracy", "eval_blank_accuracy", "eval_questions"
_MODALITY = re.compile(rf"{_ACCURACY}_(.+)")

# Key or pattern in metrics.jsonl, title, subtitle, in page order after the held-out accuracies. Each run has its own
# loss chart, because losses of different methods have different scales.
_PANELS: tuple[tuple[str, str, str], ...] = (
    (r"eval_(?P<name>.*accuracy.*)", "Held out: {name}", "on the evaluation data"),
    (r"eval_well_formed", "Held out: well-formed", "percent of answers in the required format"),
    (r"eval_contradiction", "Held out: contradiction", "percent of answers that contradict their reasoning"),
    (r"eval_reward", "Held out: reward", "on the evaluation data"),
    (r"eval_loss", "Held out: loss of {run}", "on the evaluation data"),
    (r"reward", "Reward", "mean over the completions of a step"),
    (r"rewards/(?P<name>.+)/mean", "Reward: {name}", "mean over the completions of a step"),
    (r"blank_right", "Correct without the image", "share of prompts answered correctly with a blank image"),
    (r"own_right", "Correct with its own image", "share of completions"),
    (r"other_right", "The same letter with another image", "share of completions"),
    (r"completions/mean_length", "Length of a completion", "tokens"),
    (r"completions/clipped_ratio", "Truncated at the token limit", "share of completions"),
    (r"kl", "Distance from the reference", "KL divergence, nats per token"),
    (r"entropy", "Entropy", "nats per token"),
    (r"frac_reward_zero_std", "Groups that teach nothing", "share with equal rewards, so zero advantage"),
    (r"loss", "Loss of {run}", "as optimized"),
    (r"mean_token_accuracy", "Token accuracy", "share of target tokens"),
    (r"grad_norm", "Gradient norm", "before clipping"),
)


def build_panels(metrics: Mapping[str, Rows]) -> list[Chart]:
    """Lay out one chart per known metric that any run has logged.

    Args:
        metrics: rows of `metrics.jsonl` by run, empty without a training; a row needs `step`, all else may be
            missing or not finite.

    Returns:
        Charts in reading order; empty if nothing was logged. A run's style is its position.
    """
    styles = {run: position for position, run in enumerate(metrics)}
    keys = list(dict.fromkeys(key for rows in metrics.values() for row in rows for key in row))
    panels = _held_out(metrics, styles)
    done = {_ACCURACY, *(key for key in keys if _MODALITY.fullmatch(key)), *([_BLANK] if _ACCURACY in keys else [])}
    for pattern, title, subtitle in _PANELS:
        for key in keys:
            match = re.fullmatch(pattern, key)
            if match is None or key in done:
                continue
            series = _by_run(metrics, key)
            name = match.groupdict().get("name", "").replace("_", " ").replace("/", ", ")
            for lines in [{run: points} for run, points in series.items()] if "{run}" in title else [series]:
                if lines:
                    heading = title.format(name=name, run=next(iter(lines)))
                    panels.append(series_chart(heading, subtitle, lines, styles, across="step"))
    return panels


def _held_out(metrics: Mapping[str, Rows], styles: Mapping[str, int]) -> list[Chart]:
    """Accuracy with real and blank images in one chart, then accuracy by modality."""
    charts = []
    real = _by_run(metrics, _ACCURACY)
    if real:
        blank = {f"{run}, blank image": points for run, points in _by_run(metrics, _BLANK).items()}
        all_styles = {**styles, **{name: style for style, name in enumerate(blank, start=len(styles))}}
        bands = {run: _mean_band(metrics[run]) for run in real}
        subtitle = _with_interval("accuracy in percent, mean over modalities", bands)
        charts.append(
            series_chart("Held out: accuracy", subtitle, real | blank, all_styles, across="step", bands=bands)
        )
    by_run = {run: series for run, rows in metrics.items() if (series := _by_modality(rows))}
    for run, series in by_run.items():
        title = "Held out: by modality" + (f", {run}" if len(by_run) > 1 else "")
        bands = {modality: _band(metrics[run], modality) for modality in series}
        own_styles = {modality: style for style, modality in enumerate(series, start=1)}
        subtitle = _with_interval("accuracy in percent", bands)
        charts.append(series_chart(title, subtitle, series, own_styles, across="step", bands=bands))
    return charts


def _with_interval(subtitle: str, bands: Mapping[str, Band]) -> str:
    return f"{subtitle}; shaded: 95 % interval" if any(bands.values()) else subtitle


def _by_modality(rows: Rows) -> dict[str, list[Point]]:
    names = {match[1] for row in rows for key in row if (match := _MODALITY.fullmatch(key))}
    series = {name: _series(rows, f"{_ACCURACY}_{name}") for name in order_modalities(names)}
    return {name: points for name, points in series.items() if points}


def _counts(rows: Rows, modality: str) -> dict[float, tuple[int, int]]:
    """(correct, total) by step; empty if the totals were not logged."""
    totals = dict(_series(rows, f"{_QUESTIONS}_{modality}"))
    return {
        step: (min(round(percent / 100 * n), n), n)
        for step, percent in _series(rows, f"{_ACCURACY}_{modality}")
        if percent >= 0 and (n := int(totals.get(step, 0))) > 0
    }


def _band(rows: Rows, modality: str) -> Band:
    return [(step, *_percent(wilson(k, n))) for step, (k, n) in _counts(rows, modality).items()]


def _mean_band(rows: Rows) -> Band:
    """Interval of the mean over modalities, at steps where all counts are known."""
    counts = [_counts(rows, modality) for modality in _by_modality(rows)]
    steps = sorted(set.intersection(*map(set, counts))) if counts else []
    return [(step, *_percent(mean_interval([by_step[step] for by_step in counts]))) for step in steps]


def _percent(ends: tuple[float, float]) -> tuple[float, float]:
    return 100 * ends[0], 100 * ends[1]


def _by_run(metrics: Mapping[str, Rows], key: str) -> dict[str, list[Point]]:
    return {run: points for run, rows in metrics.items() if (points := _series(rows, key))}


def _series(rows: Rows, key: str) -> list[Point]:
    points = {
        float(row["step"]): float(row[key])
        for row in rows
        if isinstance(row.get(key), int | float)
        and isinstance(row.get("step"), int | float)
        and math.isfinite(row[key])
    }
    return sorted(points.items())
