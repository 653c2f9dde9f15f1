"""Curves: which metrics become charts, and that the geometry keeps the data's order and size."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.report.charts import FRAME, Chart, nice_ticks, number, running_mean
from medvlm_r1.report.training_charts import build_panels


def titles(panels: list[Chart]) -> list[str]:
    return [panel.title for panel in panels]


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", path)]


def test_known_metrics_become_charts_in_reading_order() -> None:
    row = {
        "step": 1,
        "loss": 0.1,
        "learning_rate": 1e-6,
        "kl": 0.0,
        "reward": 1.0,
        "rewards/accuracy_paper/mean": 0.5,
        "eval_accuracy/MRI": 0.5,
        "eval_well_formed": 90.0,
        "eval_runtime": 3.0,
        "other_right": 0.3,
        "own_right": 0.8,
        "completions/mean_length": 90,
        "frac_reward_zero_std": 0.2,
        "entropy": 0.4,
        "grad_norm": 2.0,
    }
    assert titles(build_panels({"GRPO": [row]})) == [
        "Held out: accuracy, MRI",
        "Held out: well formed",
        "Reward",
        "Reward: accuracy paper",
        "Correct with its own image",
        "The same letter beside another's image",
        "Length of a completion",
        "Distance from the reference",
        "Entropy",
        "Groups that teach nothing",
        "Loss of GRPO",
        "Gradient norm",
    ]


def test_accuracy_with_and_without_the_image_is_one_chart() -> None:
    rows = [
        {"step": step, "eval_accuracy": 40.0 + step, "eval_blank_accuracy": 33.0, "eval_contradiction": 2.0}
        for step in (25, 50)
    ]
    panels = build_panels({"GRPO": rows, "other": [{"step": 25, "eval_accuracy": 50.0}]})
    assert titles(panels) == ["Held out: accuracy", "Held out: contradiction"]
    lines = panels[0].lines
    assert [line.name for line in lines] == ["GRPO", "other", "GRPO, blank image"]
    assert [line.last for line in lines] == ["90", "50", "33"]
    assert len({line.style for line in lines}) == 3
    assert titles(build_panels({"GRPO": [{"step": 1, "eval_blank_accuracy": 3.0}]})) == ["Held out: blank accuracy"]


def held_out(step: int, *, questions: int | None, ct: float = 60.0) -> dict[str, float]:
    row: dict[str, float] = {"step": step, "eval_accuracy": 70.0, "eval_accuracy_CT": ct, "eval_accuracy_MRI": 80.0}
    return row if questions is None else row | {"eval_questions_MRI": questions, "eval_questions_CT": questions}


def test_accuracy_by_modality_has_its_interval() -> None:
    mean, parts = build_panels({"GRPO": [held_out(step, questions=20, ct=50.0) for step in (10, 20)]})
    assert (mean.title, parts.title) == ("Held out: accuracy", "Held out: by modality")
    assert "95 % interval" in parts.subtitle
    assert [line.name for line in parts.lines] == ["MRI", "CT"]
    # Ten of twenty: Wilson's interval is 29.93 to 70.07 percent.
    scale = (FRAME.bottom - FRAME.top) / 100
    heights = [(FRAME.bottom - y) / scale for _, y in points(parts.lines[1].area)]
    assert heights == pytest.approx([29.93, 29.93, 70.07, 70.07], abs=0.1)
    assert mean.lines[0].area.endswith("Z")


def test_without_the_number_of_questions_there_is_no_interval() -> None:
    panels = build_panels({"GRPO": [held_out(step, questions=None) for step in (10, 20)]})
    assert titles(panels) == ["Held out: accuracy", "Held out: by modality"]
    assert not any(line.area for panel in panels for line in panel.lines)
    assert not any("interval" in panel.subtitle for panel in panels)


def test_modalities_of_several_runs_are_drawn_apart() -> None:
    rows = [held_out(10, questions=4)]
    assert titles(build_panels({"SFT": rows, "zero-shot": [], "GRPO": rows}))[1:] == [
        "Held out: by modality, SFT",
        "Held out: by modality, GRPO",
    ]


def test_nothing_logged_gives_no_charts() -> None:
    assert build_panels({"zero-shot": []}) == []
    assert build_panels({"a": [{"step": 1, "unknown": 3.0}], "b": [{"reward": 1.0}]}) == []


def test_absent_text_and_infinite_values_are_left_out() -> None:
    rows = [
        {"step": 1, "reward": 1.0},
        {"step": 2, "kl": 0.1},
        {"step": 3, "reward": math.nan},
        {"step": 4, "reward": "high"},
        {"step": 5, "reward": math.inf},
        {"step": 6, "reward": 1.5},
        {"step": None, "reward": 9.0},
    ]
    (line,) = next(panel for panel in build_panels({"run": rows}) if panel.title == "Reward").lines
    assert len(points(line.path)) == 2
    assert line.last == "1.5"


def test_a_run_keeps_its_style_in_every_chart() -> None:
    rows = [{"step": 1, "grad_norm": 1.0}, {"step": 2, "grad_norm": 2.0}]
    (panel,) = build_panels({"zero-shot": [], "SFT": rows, "GRPO": rows})
    assert [(line.name, line.style) for line in panel.lines] == [("SFT", 1), ("GRPO", 2)]


def test_losses_of_two_runs_never_share_a_chart() -> None:
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    assert titles(build_panels({"SFT": rows, "GRPO": rows})) == ["Loss of SFT", "Loss of GRPO"]


def test_a_single_value_is_a_dot() -> None:
    (panel,) = build_panels({"run": [{"step": 5, "reward": 0.0}]})
    (dot,) = panel.lines[0].marks
    assert (FRAME.left <= dot.x <= FRAME.right, dot.y) == (True, FRAME.bottom)


def test_a_resumed_step_counts_once() -> None:
    rows = [{"step": 1, "kl": 0.1}, {"step": 2, "kl": 0.2}, {"step": 2, "kl": 0.3}]
    (panel,) = build_panels({"run": rows})
    assert len(points(panel.lines[0].path)) == 2
    assert panel.lines[0].last == "0.3"


def test_long_series_are_smoothed_and_thinned() -> None:
    rows = [{"step": n, "reward": float(n % 2)} for n in range(1, 5001)]
    (line,) = build_panels({"run": rows})[0].lines
    assert 100 < len(points(line.thin)) <= 401
    heights = [y for _, y in points(line.path)][5:-5]
    assert max(heights) - min(heights) < 2


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60))
def test_points_stay_in_the_frame_and_higher_is_larger(values: list[float]) -> None:
    (panel,) = build_panels({"run": [{"step": n, "reward": value} for n, value in enumerate(values)]})
    placed = points(panel.lines[0].path)
    assert len(placed) == len(values)
    for (x, y), value in zip(placed, values, strict=True):
        assert FRAME.left <= x <= FRAME.right
        assert FRAME.top - 0.1 <= y <= FRAME.bottom + 0.1
        for (_, other), compared in zip(placed, values, strict=True):
            assert value <= compared or y <= other
    assert all(FRAME.left <= tick.at <= FRAME.right for tick in panel.x_ticks)


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e5))
def test_ticks_are_round_even_and_cover(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + step * 1e-6
    assert ticks[-1] >= low + width - step * 1e-6
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert any(mantissa == pytest.approx(factor, rel=1e-4) for factor in (1, 2, 5, 10))


def test_ticks_by_hand() -> None:
    assert nice_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert nice_ticks(0, 300) == [0, 100, 200, 300]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.5, "0.5"), (-0.25, "−0.25"), (1.2345, "1.23"), (400.0, "400"), (0.00002, "2e−5"), (250000, "2.5e5")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_running_mean_by_hand() -> None:
    assert running_mean([1, 2, 3, 10], 3) == pytest.approx([1.5, 2, 5, 6.5])
