"""Curves: which metrics become charts, and that the geometry keeps the data's order and size."""

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.audit.probe import Measure, ProbeResult
from medvlm_r1.report.audit.model_charts import early_curve, reliability_curve, risk_curve
from medvlm_r1.report.charts import Chart, Share, ShareChart, letter_chart, nice_ticks, running_mean
from medvlm_r1.report.page import render_page
from medvlm_r1.report.table import number
from medvlm_r1.report.training_charts import build_panels


def titles(panels: list[Chart]) -> list[str]:
    return [panel.title for panel in panels]


def drawn_at(template: str, attribute: str, **values: Any) -> list[float]:
    """Numbers of an attribute in a rendered chart, in page order."""
    return [float(number) for number in re.findall(rf' {attribute}="([\d.]+)"', render_page(template, **values))]


def test_known_metrics_become_charts_in_reading_order() -> None:
    keys = (
        "step loss learning_rate kl reward rewards/accuracy_paper/mean eval_accuracy/MRI eval_well_formed eval_runtime "
        "other_right own_right completions/mean_length frac_reward_zero_std entropy grad_norm"
    )
    assert titles(build_panels({"GRPO": [dict.fromkeys(keys.split(), 1)]})) == [
        "Held out: accuracy, MRI",
        "Held out: well-formed",
        "Reward",
        "Reward: accuracy paper",
        "Correct with its own image",
        "The same letter with another image",
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
    assert [y for _, y in parts.lines[1].area] == pytest.approx([29.93, 29.93, 70.07, 70.07], abs=0.01)
    assert len(mean.lines[0].area) == 4


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
    assert len(line.points) == 2
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
    assert panel.lines[0].dot > 0
    [x], [y] = (drawn_at("curve.html", attribute, curve=panel) for attribute in ("cx", "cy"))
    assert (panel.left <= x <= panel.right, y) == (True, panel.bottom)


def test_a_resumed_step_counts_once() -> None:
    rows = [{"step": 1, "kl": 0.1}, {"step": 2, "kl": 0.2}, {"step": 2, "kl": 0.3}]
    (panel,) = build_panels({"run": rows})
    assert len(panel.lines[0].points) == 2
    assert panel.lines[0].last == "0.3"


def test_long_series_are_smoothed_and_thinned() -> None:
    rows = [{"step": n, "reward": float(n % 2)} for n in range(1, 5001)]
    (line,) = build_panels({"run": rows})[0].lines
    assert 100 < len(line.raw) <= 401
    heights = [y for _, y in line.points][5:-5]
    assert max(heights) - min(heights) < 0.02


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60))
def test_points_stay_in_the_frame_and_higher_is_larger(values: list[float]) -> None:
    (panel,) = build_panels({"run": [{"step": n, "reward": value} for n, value in enumerate(values)]})
    placed = [(panel.x(x), panel.y(y)) for x, y in (panel.lines[0].raw or panel.lines[0].points)]
    assert len(placed) == len(values)
    for (x, y), value in zip(placed, values, strict=True):
        assert panel.left <= x <= panel.right
        assert panel.top - 0.1 <= y <= panel.bottom + 0.1
        for (_, other), compared in zip(placed, values, strict=True):
            assert value <= compared or y <= other
    assert all(panel.left <= panel.x(mark) <= panel.right for mark in panel.x_marks)


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


def probe(**detail: Any) -> ProbeResult:
    measures = {"aoc": Measure(value=0.25, n=9), "vote_ece": Measure(value=0.125, n=9)}
    return ProbeResult(name="p", verdict="warn", sentence="", measures=measures, detail=detail)


def test_curves_of_an_audit() -> None:
    assert (early_curve(probe()), reliability_curve(probe()), risk_curve(probe())) == (None, None, None)
    early = early_curve(probe(early={"share_of_reasoning": [0.0, 0.5, 1.0], "same": [0.5, 0.75, 1.0], "n": 9}))
    assert early is not None
    assert early.lines[0].points == [(0, 50), (50, 75), (100, 100)]
    assert [early.path([point]) for point in early.lines[0].points] == ["M44,87", "M196,48.5", "M348,10"]
    assert "AOC 0.25" in early.subtitle
    assert early.text == "same answer: 50 at 0, 75 at 50, 100 at 100."
    votes = {"reliability": [[0.6, 0.5, 4], [1.0, 1.0, 5]], "risk_coverage": [[1.0, 0.5, 0.0], [0.6, 1, 0.4]]}
    reliability, risk = reliability_curve(probe(vote=votes)), risk_curve(probe(vote=votes))
    assert reliability is not None
    assert risk is not None
    assert [(line.name, line.last) for line in reliability.lines] == [("vote of samples", "ECE 0.12")]
    assert reliability.lines[0].points == [(60, 50), (100, 100)]
    # The highest mark is the highest risk, 40 percent; 5 and 10 percent are dashed lines.
    assert risk.y_marks[-1] == 40
    assert risk.lines[0].points[-1] == (100, 40)
    assert [guide[0][1] for guide in risk.guides] == pytest.approx([5, 10])


def test_shares_are_drawn_to_scale_and_long_names_have_room() -> None:
    rows = [Share("a", 20.0, (10.0, 30.0)), Share("b", 100.0)]
    at = drawn_at("blind.html", "cx", chart=ShareChart("t", "s", rows, 25.0))
    assert at == pytest.approx([116 + 0.2 * 202, 318], abs=0.1)
    assert "M166.5 6.0V54.0" in render_page("blind.html", chart=ShareChart("t", "s", rows, 25.0))
    [wide] = drawn_at("blind.html", "cx", chart=ShareChart("t", "s", [Share("x" * 30, 20.0)]))
    assert at[0] < wide < 318


def test_letters_are_drawn_to_scale() -> None:
    # Two questions of two options, two of four: an even distribution is A 1.5, B 1.5, C 0.5, D 0.5.
    chart = letter_chart("CT", {"A": 3, "B": 0, "C": 1, "D": 0}, [2, 2, 4, 4])
    assert chart.rows == [("A", 3, 1.5), ("B", 0, 1.5), ("C", 1, 0.5), ("D", 0, 0.5)]
    assert drawn_at("letters.html", "height", chart=chart) == pytest.approx([108, 0, 36, 0], abs=0.1)
    expected = re.findall(r'chance-line" d="M[\d.]+ ([\d.]+)', render_page("letters.html", chart=chart))
    assert list(map(float, expected)) == pytest.approx([74, 74, 110, 110], abs=0.1)
