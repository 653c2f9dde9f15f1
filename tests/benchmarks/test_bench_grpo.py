from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import grpo
from benchmarks.grpo import Alternating, fastest_first, fit_together
from benchmarks.presets import PRESETS, Preset, build, qwen2_vl, random_completions, rows
from benchmarks.process import Child, OutOfMemory, reported
from benchmarks.replay import Replay
from benchmarks.results_page import render_part
from benchmarks.side import matrix_peak, operations, varied_rewards
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.statistics import t_interval

TINY = Preset(
    name="tiny",
    about="two layers",
    shape=qwen2_vl((1024, 32, 64, 2, 2, 2), (1, 32, 2, 2), sections=[2, 3, 3]),
    pixels=56,
    text_tokens=30,
    completion=(3, 9),
    prompts=2,
    group=3,
    micro_batches=(6, 3),
    rounds=1,
    options={"beta": 0.04, "loss_type": "grpo", "temperature": 1.0, "learning_rate": 1e-6},
)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return grpo.bench_grpo(TINY)


def test_the_two_sides_agree(found: dict[str, Any]) -> None:
    assert found["logp_max_diff"] < 1e-5
    assert 0 < found["grad_rel_diff"] < 1e-4


def test_work_for_each_prompt_is_counted(found: dict[str, Any]) -> None:
    trl, ours = found["sides"]["trl"], found["sides"]["ours"]
    # Policy and reference once for each completion, or once in all.
    assert trl["images_per_prompt"] == {"generation": 3, "update": 6}
    assert ours["images_per_prompt"] == {"generation": 1, "update": 2}
    # A prompt of 30 tokens of text and 4 of the image, completions of 3, 6 and 9 tokens.
    assert ours["tokens_per_prompt"]["update"] == pytest.approx(2 * (34 + 18), abs=4)
    assert trl["tokens_per_prompt"]["update"] == pytest.approx(2 * 3 * (34 + 9), abs=12)
    assert ours["operations"]["update"] < trl["operations"]["update"] / 1.5


def test_the_record_says_what_was_measured(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found)) == found
    assert set(found["speedup"]) == {"generation", "update", "step"}
    for side in found["sides"].values():
        assert side["step"] == pytest.approx(side["generation"] + side["update"])
        assert side["memory"] > 1e8
    assert 0 < found["peak_share"] < 1
    assert found["memory_ratio"] == found["sides"]["ours"]["memory"] / found["sides"]["trl"]["memory"]
    assert set(found["tried"]) == {"6", "3"}


def test_micro_batches_that_one_step_cannot_tell_apart_are_tried_again_in_the_other_order() -> None:
    asked = []
    times = {1: [40.0], 2: [28.9, 27.0, 27.2], 4: [28.0, 28.4, 28.6]}

    def attempt(micro: int, timed: int) -> list[dict[str, Any]]:
        asked.append((micro, timed))
        return [{"step": times[micro].pop(0)} for _ in range(timed)]

    tried = fastest_first((1, 2, 4), attempt)
    assert asked == [(1, 1), (2, 1), (4, 1), (4, 2), (2, 2)]
    assert list(tried) == [2, 4, 1]
    assert [len(steps) for steps in tried.values()] == [3, 3, 1]


def test_a_micro_batch_without_memory_is_left_out() -> None:
    def attempt(micro: int, timed: int) -> list[dict[str, Any]]:
        if micro > 1:
            raise OutOfMemory("The measured process died.")
        return [{"step": 1.0}] * timed

    assert fastest_first((4, 2, 1), attempt) == {1: [{"step": 1.0}], 4: [], 2: []}
    with pytest.raises(UserError, match="ran out of memory with 2 rows"):
        fastest_first((4, 2), attempt)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (ValueError("no such loss"), False),
    ],
)
def test_a_process_says_whether_memory_was_what_it_lacked(error: Exception, memory: bool) -> None:
    ours, theirs = multiprocessing.Pipe()
    with reported(theirs):
        raise error
    assert ours.recv() == {"error": f"{type(error).__name__}: {error}", "out_of_memory": memory}


def test_a_process_that_dies_is_taken_for_one_without_memory() -> None:
    with Child(_dies) as child, pytest.raises(OutOfMemory, match="died"):
        child.receive()


def _dies(pipe: Any) -> None:
    os._exit(9)


@pytest.mark.parametrize("together", [True, False])
def test_sides_that_do_not_fit_together_take_turns_alone(together: bool) -> None:
    standing: list[str] = []
    told = []

    class Fake:
        def __init__(self, side: str) -> None:
            self._side, self._steps = side, 0

        def __enter__(self) -> Fake:
            standing.append(self._side)
            return self

        def __exit__(self, *_: object) -> None:
            standing.remove(self._side)

        def step(self) -> dict[str, Any]:
            self._steps += 1
            told.append((self._side, self._steps, len(standing)))
            return {"steps": self._steps}

    with Alternating(Fake, together=together) as turns:  # type: ignore[arg-type]
        # The first step of a process warms it up and is nobody's figure.
        taken = [turns.step(side)["steps"] for side in ("trl", "ours", "trl", "ours")]
    assert not standing
    assert taken == ([2, 2, 3, 3] if together else [2, 2, 2, 2])
    assert {number for *_, number in told[2:]} == ({2} if together else {1})


def test_what_fits_is_asked_of_the_whole_memory() -> None:
    assert fit_together([1e6, 1e6])
    assert not fit_together([1e15, 1.0])


def test_every_preset_asks_for_whole_groups() -> None:
    for preset in PRESETS.values():
        assert all(preset.rows % micro == 0 for micro in preset.micro_batches)


def test_random_completions_are_rewarded_unequally() -> None:
    rewards = varied_rewards([[5, 6, 1], [5, 7, 1], [8, 6, 1]])
    assert len(set(rewards)) == 3
    assert rewards == varied_rewards([[5, 6, 1], [5, 7, 1], [8, 6, 1]])


def test_prompts_and_completions_have_the_lengths_of_the_preset(tmp_path: Path) -> None:
    policy = build(TINY, tmp_path)
    made = rows(TINY, policy, 2)
    assert len(made) == 4
    text = policy.processor.apply_chat_template(made[0]["prompt"], add_generation_prompt=True)
    inputs = policy.processor(text=[text], images=[made[0]["images"]], return_tensors="pt")
    image = policy.model.config.image_token_id
    assert int((inputs["input_ids"] == image).sum()) == 4
    assert 25 <= int((inputs["input_ids"] != image).sum()) <= 30
    completions = random_completions(TINY, policy, inputs["input_ids"][0].tolist())
    assert sorted(map(len, completions)) == [3, 6, 9]
    assert completions == random_completions(TINY, policy, inputs["input_ids"][0].tolist())


def test_a_failing_side_is_told_not_hung() -> None:
    broken = dataclasses.replace(TINY, options=TINY.options | {"loss_type": "no such loss"})
    with pytest.raises(grpo.UserError, match="no such loss"):
        grpo.bench_grpo(broken)


def _write(texts: dict[tuple[int, ...], list[list[int]]], prompts: list[list[int]], order: Callable[[int], Any]) -> Any:
    """Decodes as a loop would that drops ended rows and reorders the others."""
    replay = Replay(lambda prompt: texts[tuple(prompt)], pad=0, ends=[1])
    ids, done = torch.tensor(prompts), []
    while len(ids):
        token = replay(ids, torch.zeros(len(ids), 20)).argmax(-1)
        ids = torch.cat([ids, token[:, None]], dim=1)
        done += [row.tolist() for row in ids[token == 1]]
        ids = ids[token != 1]
        ids = ids[order(len(ids))]
    return sorted(done)


@pytest.mark.parametrize("order", [lambda n: slice(None), lambda n: torch.arange(n).flip(0)])
def test_replay_writes_every_completion_whatever_the_order_of_rows(order: Callable[[int], Any]) -> None:
    texts = {(5, 6): [[7, 1], [7, 8, 1], [7, 8, 9, 1]], (6,): [[7, 1], [7, 1], [3, 4, 1]]}
    prompts = [[5, 6]] * 3 + [[0, 6]] * 3
    wanted = [[5, 6, *text] for text in texts[(5, 6)]] + [[0, 6, *text] for text in texts[(6,)]]
    assert _write(texts, prompts, order) == sorted(wanted)


def test_replay_refuses_rows_it_did_not_write() -> None:
    replay = Replay(lambda prompt: [[7, 8, 1]], pad=0, ends=[1])
    replay(torch.tensor([[5]]), torch.zeros(1, 20))
    with pytest.raises(RuntimeError, match="no completion"):
        replay(torch.tensor([[5, 9]]), torch.zeros(1, 20))


@pytest.mark.parametrize("causal", [False, True])
def test_operations_of_attention_and_products(causal: bool) -> None:
    query, key, value = (torch.randn(2, 3, 16, 8, requires_grad=True) for _ in range(3))
    with operations() as counted:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        forward = counted.get_total_flops()
        (out @ torch.randn(8, 5)).sum().backward()
    pairs = 2 * 3 * 16 * 16 * (0.5 if causal else 1)
    product = 2 * (2 * 3 * 16) * 8 * 5
    assert forward == 2 * 2 * pairs * 8
    assert counted.get_total_flops() == forward + product + product + 5 * 2 * pairs * 8


def test_the_matrix_peak_is_a_rate() -> None:
    assert matrix_peak(torch.float32, torch.device("cpu"), size=64, tries=1) > 1e6


def test_the_command_prints_the_table(
    found: dict[str, Any], command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo, "bench_grpo", lambda preset, **_: found | {"preset": preset.name})
    code, out, _ = command("benchmarks.grpo", "--preset", "demo")
    assert code == 0
    assert "peak memory, GB" in out
    assert "micro" not in out or "rows of a forward pass" in out
    code, out, _ = command("benchmarks.grpo", "--json")
    assert json.loads(out)["speedup"] == found["speedup"]


def test_the_demo_replays_what_the_base_samples() -> None:
    small = dataclasses.replace(PRESETS["demo"], prompts=2, group=4, micro_batches=(8,), rounds=1)
    found = grpo.bench_grpo(small)
    assert found["logp_max_diff"] < 1e-4
    # The base answers with its end token long before the limit of 64.
    assert found["sides"]["ours"]["tokens_per_prompt"]["update"] < 2 * (110 + 4 * 48)


def test_the_results_page_shows_every_ratio_with_its_interval(found: dict[str, Any]) -> None:
    # Of one round there is no interval.
    assert f"| {found['speedup']['update']:.2f} | - |" in render_part("grpo-demo", found)
    sides = {name: side | {"rounds": [*side["rounds"], *side["rounds"]]} for name, side in found["sides"].items()}
    # Two rounds of ratios r and 4 r have the geometric mean 2 r, and an interval on the scale of logarithms.
    twice = {name: side | {"rounds": list(side["rounds"])} for name, side in found["sides"].items()}
    twice["trl"]["rounds"].append({part: 4 * value for part, value in twice["trl"]["rounds"][0].items()})
    twice["ours"]["rounds"] *= 2
    low, high = (math.exp(end) for end in t_interval([0.0, math.log(4)]))
    step = found["speedup"]["step"]
    page = render_part("grpo-demo", found | {"sides": twice, "rounds": 2})
    assert f"| {2 * step:.2f} | [{low * step:.2f},\u00a0{high * step:.2f}] |" in page
    ratio = f"{found['speedup']['step']:.2f}"
    assert f"| {ratio} | [{ratio},\u00a0{ratio}] |" in render_part("grpo-demo", found | {"sides": sides, "rounds": 2})
