"""One measured step of a recipe, compared with its dry run."""

import dataclasses
import json
import sys

import pytest
from test_bench_grpo import TINY

from benchmarks import step
from benchmarks.presets import PRESETS, qwen2_vl
from benchmarks.results_page import render_part
from benchmarks.step import bench_step
from medvlm_r1.recipes import recipe

SHAPE = qwen2_vl((8192, 512, 2048, 8, 8, 8), (2, 256, 4, 4), sections=[8, 12, 12])
MIDDLE = dataclasses.replace(TINY, name="middle", about="8 layers of width 512", shape=SHAPE)


@pytest.fixture(scope="module")
def found():
    return bench_step(recipe("paper.yaml"), stand_ins=MIDDLE, pixels=84)


def test_the_step_is_a_whole_one(found):
    logs = found["measured"]["logs"]
    assert logs["completions/min_length"] == logs["completions/max_length"] == 16
    assert logs["reward_std"] > 0
    assert logs["grad_norm"] > 0
    assert found["completions"] == 4
    assert found["image_tokens"] == 9
    assert found["parameters"] == found["trained"] > 3e7


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory by phase is read from /proc")
def test_the_results_page_shows_every_phase(found):
    rows = [line.split(" | ") for line in render_part("step", found).splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| ", "| generation", "| update", "| step"]
    assert rows[-1][-1] == f"{found['ratio']:.2f} |"


def test_memory_is_as_the_dry_run_estimates(found):
    assert found["ratio"] == pytest.approx(1, abs=0.15)
    # The same of what the model alone takes: the libraries are most of a process this small.
    libraries = found["planned"]["parts"]["runtime"]
    assert (found["planned"]["peak"] - libraries) / (found["peak"] - libraries) == pytest.approx(1, abs=0.25)
    measured = found["measured"]
    assert measured["libraries"] < measured["peak"]["generation"] < measured["peak"]["update"] == found["peak"]


def test_the_commands(found, command, monkeypatch):
    asked = {}

    def measured(config, overrides, **options):
        asked.update(options, config=config, overrides=overrides)
        return found

    monkeypatch.setattr(step, "bench_step", measured)
    code, out, _ = command("benchmarks.step", "--json", "trainer.beta=0.1")
    assert code == 0
    assert json.loads(out)["ratio"] == found["ratio"]
    assert asked["config"].name == "paper-lora-24gb.yaml"
    assert asked["overrides"] == ["trainer.beta=0.1"]
    assert asked["stand_ins"] is PRESETS["paper"]
    code, out, _ = command("benchmarks.step", "--own", "--config", recipe("paper.yaml"))
    assert code == 0
    assert asked["stand_ins"] is None
    words = ("paper.yaml", "8 layers of width 512", "4 completions of 16 tokens", f"is {found['ratio']:.2f} times")
    assert [word for word in words if word not in out] == []
