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

pytestmark = pytest.mark.engines

SHAPE = qwen2_vl((8192, 512, 2048, 8, 8, 8), (2, 256, 4, 4), sections=[8, 12, 12])
MIDDLE = dataclasses.replace(TINY, name="middle", about="8 layers of width 512", shape=SHAPE)


@pytest.fixture(scope="module")
def figures():
    return bench_step(recipe("paper.yaml"), stand_ins=MIDDLE, pixels=84)


def test_the_step_is_a_whole_one(figures):
    logs = figures["measured"]["logs"]
    assert logs["completions/min_length"] == logs["completions/max_length"] == 16
    assert logs["reward_std"] > 0
    assert logs["grad_norm"] > 0
    assert figures["completions"] == 4
    assert figures["image_tokens"] == 9
    assert figures["parameters"] == figures["trained"] > 3e7


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory by phase is read from /proc")
def test_the_results_page_shows_every_phase(figures):
    rows = [line.split(" | ") for line in render_part("step", figures).splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| ", "| generation", "| update", "| step"]
    assert rows[-1][-1] == f"{figures['ratio']:.2f} |"


def test_memory_is_as_the_dry_run_estimates(figures):
    assert figures["ratio"] == pytest.approx(1, abs=0.15)
    # The same of what the model alone takes: the libraries are most of a process this small.
    libraries = figures["planned"]["parts"]["runtime"]
    assert (figures["planned"]["peak"] - libraries) / (figures["peak"] - libraries) == pytest.approx(1, abs=0.25)
    measured = figures["measured"]
    assert measured["libraries"] < measured["peak"]["generation"] < measured["peak"]["update"] == figures["peak"]


def test_the_commands(figures, command, monkeypatch):
    call = {}

    def measured(config, overrides, **options):
        call.update(options, config=config, overrides=overrides)
        return figures

    monkeypatch.setattr(step, "bench_step", measured)
    code, out, _ = command("benchmarks.step", "--json", "trainer.beta=0.1")
    assert code == 0
    assert json.loads(out)["ratio"] == figures["ratio"]
    assert call["config"].name == "paper-lora-24gb.yaml"
    assert call["overrides"] == ["trainer.beta=0.1"]
    assert call["stand_ins"] is PRESETS["paper"]
    code, out, _ = command("benchmarks.step", "--own", "--config", recipe("paper.yaml"))
    assert code == 0
    assert call["stand_ins"] is None
    words = ("paper.yaml", "8 layers of width 512", "4 completions of 16 tokens", f"is {figures['ratio']:.2f} times")
    assert [word for word in words if word not in out] == []
