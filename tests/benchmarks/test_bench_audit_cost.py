"""What the audit costs beside a plain evaluation."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks.audit_cost import audit_cost, cost_lines
from medvlm_r1.audit.registry import PROBES
from medvlm_r1.cli import app


def test_both_are_timed_on_the_same_questions() -> None:
    seen: list[tuple[int, int]] = []
    found = audit_cost(items=3, rounds=2, progress=lambda *at: seen.append(at))
    assert found["items"] == 3
    assert len(found["ratios"]) == 2
    assert found["variants_per_item"] > len(PROBES)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert f"{found['ratio']:.2f} evaluations" in cost_lines(found)[-1]


def test_the_command_prints_json() -> None:
    result = CliRunner().invoke(app, ["bench", "audit-cost", "--items", "3", "--rounds", "1", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["ratio"] == pytest.approx(found["seconds"]["audit"] / found["seconds"]["plain"])
