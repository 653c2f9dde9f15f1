"""Curves: which metrics become charts, and that the geometry keeps the data's order and size."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.audit.probe import Measure, ProbeResult
from medvlm_r1.report.audit_model import probe_curves
from medvlm_r1.report.charts import build_panels, nice_ticks, running_mean
from medvlm_r1.report.page import number, render_page


def titles(**metrics):
    return [panel.title for panel in build_panels(metrics)]


def attributes(template, name, /, **values):
    """Numbers of an attribute in a rendered chart, in page order."""
    return [float(value) for value in re.findall(rf' {name}="([\d.]+)"', render_page(template, **values))]


def test_known_metrics_become_charts_in_reading_order():
    keys = (
        "step loss learning_rate kl reward rewards/accuracy_paper/mean eval_accuracy/MRI eval_well_formed eval_runtime "
        "other_right own_right completions/mean_length frac_reward_zero_std entropy grad_norm"
    )
    assert titles(GRPO=[dict.fromkeys(keys.split(), 1)]) == [
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
    # Losses of two runs never share a chart; what is unknown or has no step has none.
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    assert titles(SFT=rows, GRPO=rows) == ["Loss of SFT", "Loss of GRPO"]
    assert titles(zero=[], a=[{"step": 1, "unknown": 3.0}], b=[{"reward": 1.0}]) == []


def test_accuracy_with_and_without_the_image_is_one_chart():
    rows = [
        {"step": step, "eval_accuracy": 40.0 + step, "eval_blank_accuracy": 33.0, "eval_contradiction": 2.0}
        for step in (25, 50)
    ]
    accuracy, contradiction = build_panels({"GRPO": rows, "other": [{"step": 25, "eval_accuracy": 50.0}]})
    assert (accuracy.title, contradiction.title) == ("Held out: accuracy", "Held out: contradiction")
    assert [(line.name, line.last) for line in accuracy.lines] == [
        ("GRPO", "90"),
        ("other", "50"),
        ("GRPO, blank image", "33"),
    ]
    assert len({line.style for line in accuracy.lines}) == 3
    assert titles(GRPO=[{"step": 1, "eval_blank_accuracy": 3.0}]) == ["Held out: blank accuracy"]


def test_accuracy_by_modality_has_its_interval():
    def rows(**questions):
        row = {"eval_accuracy": 70.0, "eval_accuracy_CT": 50.0, "eval_accuracy_MRI": 80.0, **questions}
        return [{"step": step, **row} for step in (10, 20)]

    mean, parts = build_panels({"GRPO": rows(eval_questions_MRI=20, eval_questions_CT=20)})
    assert (mean.title, parts.title) == ("Held out: accuracy", "Held out: by modality")
    assert "95 % interval" in parts.subtitle
    assert [line.name for line in parts.lines] == ["MRI", "CT"]
    # Ten of twenty: Wilson's interval is 29.93 to 70.07 percent.
    assert [y for _, y in parts.lines[1].area] == pytest.approx([29.93, 29.93, 70.07, 70.07], abs=0.01)
    assert len(mean.lines[0].area) == 4
    # Without the number of questions there is none; modalities of several runs are drawn apart.
    panels = build_panels({"SFT": rows(), "zero-shot": [], "GRPO": rows()})
    assert [panel.title for panel in panels][1:] == ["Held out: by modality, SFT", "Held out: by modality, GRPO"]
    assert not any(line.area or "interval" in panel.subtitle for panel in panels for line in panel.lines)
    # An accuracy that is no percentage, or a negative count, has no interval.
    odd = [*rows(eval_questions_MRI=20, eval_questions_CT=-3), {"step": 30, "eval_accuracy_MRI": 480.0}]
    _, parts = build_panels({"GRPO": odd})
    assert [len(line.area) for line in parts.lines] == [4, 0]


def test_values_that_cannot_be_drawn_are_left_out():
    values = [(1, 1.0), (3, math.nan), (4, "high"), (5, math.inf), (6, 1.2), (6, 1.5), (None, 9.0)]
    rows = [{"step": step, "reward": value} for step, value in values]
    [panel] = build_panels({"zero-shot": [], "run": [*rows, {"step": 2}]})
    # A resumed step counts once, and a run keeps its style in every chart.
    [line] = panel.lines
    assert (line.points, line.last, line.style) == ([(1, 1), (6, 1.5)], "1.5", 1)


def test_a_single_value_is_a_dot_and_long_series_are_smoothed_and_thinned():
    [panel] = build_panels({"run": [{"step": 5, "reward": 0.0}]})
    [x], [y] = (attributes("curve.html", name, curve=panel) for name in ("cx", "cy"))
    assert (panel.left <= x <= panel.right, y) == (True, panel.bottom)
    [panel] = build_panels({"run": [{"step": n, "reward": float(n % 2)} for n in range(1, 5001)]})
    [line] = panel.lines
    assert 100 < len(line.raw) <= 401
    heights = [y for _, y in line.points][5:-5]
    assert max(heights) - min(heights) < 0.02
    assert running_mean([1, 2, 3, 10], 3) == pytest.approx([1.5, 2, 5, 6.5])


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60))
def test_points_stay_in_the_frame_and_higher_is_larger(values):
    [panel] = build_panels({"run": [{"step": n, "reward": value} for n, value in enumerate(values)]})
    points = [(panel.x(x), panel.y(y)) for x, y in (panel.lines[0].raw or panel.lines[0].points)]
    assert len(points) == len(values)
    assert all(panel.left <= x <= panel.right for x in [*(x for x, _ in points), *map(panel.x, panel.x_marks)])
    heights = [y for _, (_, y) in sorted(zip(values, points, strict=True))]
    assert heights == sorted(heights, reverse=True)
    assert panel.top - 0.1 <= heights[-1] <= heights[0] <= panel.bottom + 0.1


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e5))
def test_ticks_are_round_even_and_cover(low, width):
    ticks = nice_ticks(low, low + width)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + step * 1e-6
    assert ticks[-1] >= low + width - step * 1e-6
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert any(mantissa == pytest.approx(factor, rel=1e-4) for factor in (1, 2, 5, 10))
    assert nice_ticks(0, 300) == [0, 100, 200, 300]


def test_numbers_are_short():
    texts = {0: "0", 0.5: "0.5", -0.25: "−0.25", 1.2345: "1.23", 400.0: "400", 0.00002: "2e−5", 250000: "2.5e5"}
    assert {value: number(value) for value in texts} == texts


def test_curves_of_an_audit():
    measures = {"aoc": Measure(value=0.25, n=9), "vote_ece": Measure(value=0.125, n=9)}
    early = {"share_of_reasoning": [0.0, 0.5, 1.0], "same": [0.5, 0.75, 1.0], "n": 9}
    votes = {"reliability": [[0.6, 0.5, 4], [1.0, 1.0, 5]], "risk_coverage": [[1.0, 0.5, 0.0], [0.6, 1, 0.4]]}
    nothing = ProbeResult(name="p", verdict="warn", sentence="")
    assert probe_curves(nothing) == []
    probe = replace(nothing, measures=measures, detail={"early": early, "vote": votes})
    answering, reliability, risk = probe_curves(probe)
    assert answering.lines[0].points == [(0, 50), (50, 75), (100, 100)]
    assert answering.path(answering.lines[0].points) == "M44,87 L196,48.5 L348,10"
    assert "AOC 0.25" in answering.subtitle
    assert answering.text == "same answer: 50 at 0, 75 at 50, 100 at 100."
    assert [(line.name, line.last) for line in reliability.lines] == [("vote of samples", "ECE 0.12")]
    assert reliability.lines[0].points == [(60, 50), (100, 100)]
    # The highest mark is the highest risk, 40 percent; 5 and 10 percent are dashed lines.
    assert risk.y_marks[-1] == 40
    assert risk.lines[0].points[-1] == (100, 40)
    assert [guide[0][1] for guide in risk.guides] == pytest.approx([5, 10])


def test_shares_and_letters_are_drawn_to_scale_and_long_names_have_room():
    def recall(*shares):
        finding = {"probe": ProbeResult(name="options", verdict="warn", sentence=""), "recalls": [("2", shares, 25.0)]}
        return {"finding": finding, "audit": {"limits": {"flips": 10}}}

    two = recall(("a", 20.0, (10.0, 30.0), "plain"), ("b", 100.0, None, "plain"))
    at = attributes("audit_charts.html", "cx", **two)
    assert at == pytest.approx([116 + 0.2 * 202, 318], abs=0.1)
    assert "M166.5 6.0V54.0" in render_page("audit_charts.html", **two)
    [wide] = attributes("audit_charts.html", "cx", **recall(("x" * 30, 20.0, None, "plain")))
    assert at[0] < wide < 318
    # Two questions of two options, two of four: an even distribution is A 1.5, B 1.5, C 0.5, D 0.5.
    questions = [{"options": "ab"}, {"options": "ab"}, {"options": "abcd"}, {"options": "abcd"}]
    letters = {"name": "CT", "modality": SimpleNamespace(letters={"A": 3, "B": 0, "C": 1, "D": 0}, items=questions)}
    assert attributes("letters.html", "height", **letters) == pytest.approx([108, 0, 36, 0], abs=0.1)
    expected = re.findall(r'chance-line" d="M[\d.]+ ([\d.]+)', render_page("letters.html", **letters))
    assert list(map(float, expected)) == pytest.approx([74, 74, 110, 110], abs=0.1)


def test_bars_of_an_audit_are_shares_of_some_items():
    measures = {
        "accuracy": Measure(value=0.5, n=9),
        "options: 2": Measure(value=0.4, n=9),
        "options: 4": Measure(value=0.0, n=0),
        "options: spread": Measure(value=0.4, n=9, unit="difference"),
    }
    probe = ProbeResult(name="subgroups", verdict="warn", sentence="", measures=measures)
    audit = {"groupings": ["modality", "options"]}
    page = render_page("audit_charts.html", finding={"probe": probe, "recalls": []}, audit=audit)
    assert re.findall("<h3>(.*)</h3>", page) == ["By number of options"]
    assert re.findall(r'aria-label="[^"]*"', page)[0].endswith('; dashed: all, 50.0. 2 options, 9: 40.0 percent."')
