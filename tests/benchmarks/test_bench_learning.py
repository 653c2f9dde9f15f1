"""Benchmarks of pass rates and of the curriculum: their figures of hand, and a short run of each."""

import pytest

from benchmarks.curriculum import bench_curriculum, curriculum_lines, figures
from benchmarks.pass_rates import Counts, agreement, bench_pass_rates


def test_agreement_of_hand():
    same, apart = (Counts(8, 16), Counts(32, 64)), (Counts(16, 16), Counts(16, 64))
    result = agreement([same, same, same, apart])
    assert (result["n"], result["difference"], result["outside"]) == (4, 75 / 4, 25)
    assert (result["shared"], result["direct"]) == (62.5, 43.75)
    assert result["standard_error"] == pytest.approx(75 / 4)


def test_pass_rates_are_measured_once(tmp_path, monkeypatch):
    first = bench_pass_rates(tmp_path, items=3, samples=2, direct=2)
    assert first["n"] == 3
    monkeypatch.setattr("benchmarks.pass_rates.LocalGenerator.generate", None)
    assert bench_pass_rates(tmp_path, items=3, samples=2, direct=2) == first


def test_the_first_evaluation_with_nine_tenths_of_the_plain_accuracy():
    def rows(*accuracies):
        return [
            row
            for step, value in enumerate(accuracies, start=1)
            for row in ({"step": step, "step_time": 2.0}, {"step": step, "eval_accuracy": value})
        ]

    result = figures({"plain": rows(50, 71, 73, 80), "curriculum": rows(60, 72, 70, 71)})
    assert result["plain"] == {"final": 80, "steps": 3, "seconds": 6}
    assert result["curriculum"] == {"final": 71, "steps": 2, "seconds": 4}
    never = figures({"plain": rows(50, 80), "curriculum": rows(60, 71)})
    assert never["curriculum"] == {"final": 71, "steps": None, "seconds": None}


def test_a_short_curriculum(tmp_path):
    small = ["trainer.per_device_train_batch_size=4", "trainer.num_generations=2"]
    small += ["trainer.max_completion_length=8", "data.pass_rate=[0, 1]"]
    results = bench_curriculum(tmp_path, seeds=2, steps=2, train=6, held_out=3, overrides=small)
    assert results["questions"] == 6
    assert all(arms["plain"]["final"] is not None for arms in results["seeds"])
    assert set(results["differences"]) >= {"final"}
    assert "curriculum minus plain, final" in "\n".join(curriculum_lines(results))
