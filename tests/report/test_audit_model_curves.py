"""The charts of a model's audit are drawn to scale."""

from typing import Any

import pytest

from medvlm_r1.audit.probe import Measure, ProbeResult
from medvlm_r1.report.audit.charts import Share, share_chart
from medvlm_r1.report.audit.model_curves import early_curve, reliability_curve, risk_curve


def probe(**detail: Any) -> ProbeResult:
    measures = {"aoc": Measure(value=0.25, n=9), "vote_ece": Measure(value=0.125, n=9)}
    return ProbeResult(name="p", verdict="warn", sentence="", measures=measures, detail=detail)


def test_the_curves_are_drawn_to_scale() -> None:
    assert (early_curve(probe()), reliability_curve(probe()), risk_curve(probe())) == (None, None, None)
    early = early_curve(probe(early={"share_of_reasoning": [0.0, 0.5, 1.0], "same": [0.5, 0.75, 1.0], "n": 9}))
    assert early is not None
    frame, marks = early.frame, early.lines[0].marks
    tall, wide = frame.bottom - frame.top, frame.right - frame.left
    assert [(frame.bottom - mark.y) / tall for mark in marks] == pytest.approx([0.5, 0.75, 1.0], abs=0.002)
    assert [(mark.x - frame.left) / wide for mark in marks] == pytest.approx([0, 0.5, 1], abs=0.002)
    assert "AOC 0.25" in early.subtitle
    assert early.said == "same answer: 50 at 0, 75 at 50, 100 at 100."
    found = probe(
        vote={"reliability": [[0.6, 0.5, 4], [1.0, 1.0, 5]], "risk_coverage": [[1.0, 0.5, 0.0], [0.6, 1, 0.4]]}
    )
    reliability, risk = reliability_curve(found), risk_curve(found)
    assert reliability is not None
    assert risk is not None
    assert [(line.name, line.last) for line in reliability.lines] == [("vote of samples", "ECE 0.12")]
    assert reliability.lines[0].marks[1].y == frame.top
    # The highest tick is the highest risk, 40 percent; 5 and 10 percent are drawn beside.
    assert [tick.label for tick in risk.y_ticks][-1] == "40"
    assert risk.lines[0].marks[-1].y == frame.top
    heights = [(frame.bottom - float(guide.rpartition(",")[2])) / tall for guide in risk.guides]
    assert heights == pytest.approx([0.05 / 0.4, 0.10 / 0.4], abs=0.002)


def test_long_names_have_room() -> None:
    short, long = (share_chart("t", "s", [Share(name=name, percent=50.0)]) for name in ("x", "x" * 30))
    assert short.left < long.left < long.rows[0].value < long.right
    assert short.chance is None
