"""What the audit costs beside a plain evaluation."""

import json
from collections.abc import Callable

import pytest

from benchmarks.audit_cost import audit_cost, cost_lines
from medvlm_r1.audit.registry import PROBES


def test_both_are_timed_on_the_same_questions() -> None:
    seen: list[tuple[int, int]] = []
    found = audit_cost(items=3, rounds=2, progress=lambda *at: seen.append(at))
    assert found["items"] == 3
    assert len(found["ratios"]) == 2
    assert found["variants_per_item"] > len(PROBES)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert f"{found['ratio']:.2f} evaluations" in cost_lines(found)[-1]


def test_the_command_prints_json(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = command("benchmarks.audit_cost", "--items", "3", "--rounds", "1", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["ratio"] == pytest.approx(found["seconds"]["audit"] / found["seconds"]["plain"])
