import dataclasses
import json
import math
import multiprocessing
import os
from contextlib import ExitStack

import pytest
import torch

from benchmarks import grpo
from benchmarks.grpo import fastest_first
from benchmarks.presets import PRESETS, Preset, build, qwen2_vl, random_completions, rows
from benchmarks.process import Child, OutOfMemory, reported
from benchmarks.replay import Replay
from benchmarks.results_page import render_part
from benchmarks.side import operations
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
    micro_batches=(6,),
    rounds=1,
    options={"beta": 0.04, "loss_type": "grpo", "temperature": 1.0, "learning_rate": 1e-6},
)


@pytest.fixture(scope="module")
def measured():
    return grpo.bench_grpo(TINY)


def test_the_two_sides_agree_and_every_pass_is_counted(measured):
    assert measured["logp_max_diff"] < 1e-5
    assert 0 < measured["grad_rel_diff"] < 1e-4
    trl, ours = measured["sides"]["trl"], measured["sides"]["ours"]
    # Policy and reference once for each completion, or once in all.
    assert trl["images_per_prompt"] == {"generation": 3, "update": 6}
    assert ours["images_per_prompt"] == {"generation": 1, "update": 2}
    # A prompt of 30 tokens of text and 4 of the image, completions of 3, 6 and 9 tokens.
    assert ours["tokens_per_prompt"]["update"] == pytest.approx(2 * (34 + 18), abs=4)
    assert trl["tokens_per_prompt"]["update"] == pytest.approx(2 * 3 * (34 + 9), abs=12)
    assert ours["operations"]["update"] < trl["operations"]["update"] / 1.5


def test_the_record(measured, command, monkeypatch):
    assert json.loads(json.dumps(measured)) == measured
    assert set(measured["speedup"]) == {"generation", "update", "step"}
    for side in measured["sides"].values():
        assert side["step"] == pytest.approx(side["generation"] + side["update"])
        assert side["memory"] > 1e8
    assert 0 < measured["peak_share"] < 1
    assert set(measured["tried"]) == {"6"}
    monkeypatch.setattr(grpo, "bench_grpo", lambda preset, **_: measured | {"preset": preset.name})
    code, out, _ = command("benchmarks.grpo", "--preset", "demo")
    assert code == 0
    assert "peak memory, GB" in out
    assert json.loads(command("benchmarks.grpo", "--json")[1])["speedup"] == measured["speedup"]


def test_near_micro_batches_are_tried_again_in_the_other_order_and_one_without_memory_is_left_out():
    calls = []
    times = {1: [40.0], 2: [28.9, 27.0, 27.2], 4: [28.0, 28.4, 28.6]}

    def attempt(micro, timed):
        calls.append((micro, timed))
        if micro > 4:
            raise OutOfMemory("The measured process died.")
        return [{"step": times[micro].pop(0)} for _ in range(timed)]

    tried = fastest_first((1, 2, 4, 8), attempt)
    assert calls == [(1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (2, 2)]
    assert [(micro, len(steps)) for micro, steps in tried.items()] == [(2, 3), (4, 3), (1, 1), (8, 0)]
    with pytest.raises(UserError, match="ran out of memory with 8 rows"):
        fastest_first((16, 8), attempt)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (ValueError("no such loss"), False),
    ],
)
def test_a_process_reports_whether_it_ran_out_of_memory(error, memory):
    ours, theirs = multiprocessing.Pipe()
    with reported(theirs):
        raise error
    assert ours.recv() == {"error": f"{type(error).__name__}: {error}", "out_of_memory": memory}


def test_a_process_that_dies_is_taken_for_one_without_memory():
    with Child(_dies) as child, pytest.raises(OutOfMemory, match="died"):
        child.receive()


def _dies(pipe):
    os._exit(9)


@pytest.mark.parametrize("together", [True, False])
def test_sides_that_do_not_fit_together_take_turns_alone(together):
    running, steps = [], []

    class Fake(ExitStack):
        def __init__(self, side):
            super().__init__()
            running.append(side)
            self.callback(running.remove, side)
            self.steps = 0

        def step(self):
            self.steps += 1
            steps.append(len(running))
            return self.steps

    # The first step of a process is its warm-up and is not measured.
    taken = list(grpo.alternate(Fake, rounds=2, together=together))
    assert not running
    numbers = (2, 2, 3, 3) if together else (2, 2, 2, 2)
    assert taken == list(zip(("trl", "ours") * 2, numbers, strict=True))
    assert set(steps[2:]) == ({2} if together else {1})


def test_prompts_and_completions_have_the_lengths_of_the_preset(tmp_path):
    for preset in PRESETS.values():
        assert all(preset.rows % micro == 0 for micro in preset.micro_batches)
    policy = build(TINY, tmp_path)
    made = rows(TINY, policy, 2)
    assert len(made) == 4
    text = policy.processor.apply_chat_template(made[0]["prompt"], add_generation_prompt=True)
    ids = policy.processor(text=[text], images=[made[0]["images"]], return_tensors="pt")["input_ids"]
    image = policy.model.config.image_token_id
    assert int((ids == image).sum()) == 4
    assert 25 <= int((ids != image).sum()) <= 30
    completions = random_completions(TINY, policy, ids[0].tolist())
    assert sorted(map(len, completions)) == [3, 6, 9]
    assert completions == random_completions(TINY, policy, ids[0].tolist())


def test_a_failing_side_is_reported():
    broken = dataclasses.replace(TINY, options=TINY.options | {"loss_type": "no such loss"})
    with pytest.raises(UserError, match="no such loss"):
        grpo.bench_grpo(broken)


@pytest.mark.parametrize("order", [lambda n: slice(None), lambda n: torch.arange(n).flip(0)])
def test_replay_writes_every_completion_whatever_the_order_of_rows(order):
    """Decode as a loop would that drops ended rows and reorders the others."""
    texts = {(5, 6): [[7, 1], [7, 8, 1], [7, 8, 9, 1]], (6,): [[7, 1], [7, 1], [3, 4, 1]]}
    replay = Replay(lambda prompt: texts[tuple(prompt)], pad=0, ends=[1])
    ids, done = torch.tensor([[5, 6]] * 3 + [[0, 6]] * 3), []
    while len(ids):
        token = replay(ids, torch.zeros(len(ids), 20)).argmax(-1)
        ids = torch.cat([ids, token[:, None]], dim=1)
        done += ids[token == 1].tolist()
        ids = ids[token != 1]
        ids = ids[order(len(ids))]
    assert sorted(done) == sorted([*([5, 6, *t] for t in texts[(5, 6)]), *([0, 6, *t] for t in texts[(6,)])])
    replay = Replay(lambda prompt: [[7, 8, 1]], pad=0, ends=[1])
    replay(torch.tensor([[5]]), torch.zeros(1, 20))
    with pytest.raises(RuntimeError, match="no completion"):
        replay(torch.tensor([[5, 9]]), torch.zeros(1, 20))


@pytest.mark.parametrize("causal", [False, True])
def test_operations_of_attention_and_products(causal):
    query, key, value = (torch.randn(2, 3, 16, 8, requires_grad=True) for _ in range(3))
    with operations() as counted:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        forward = counted.get_total_flops()
        (out @ torch.randn(8, 5)).sum().backward()
    pairs = 2 * 3 * 16 * 16 * (0.5 if causal else 1)
    product = 2 * (2 * 3 * 16) * 8 * 5
    assert forward == 2 * 2 * pairs * 8
    assert counted.get_total_flops() == forward + product + product + 5 * 2 * pairs * 8


@pytest.mark.engines
def test_the_demo_replays_what_the_base_samples():
    small = dataclasses.replace(PRESETS["demo"], prompts=2, group=4, micro_batches=(8,), rounds=1)
    figures = grpo.bench_grpo(small)
    assert figures["logp_max_diff"] < 1e-4
    # The base answers with its end token long before the limit of 64.
    assert figures["sides"]["ours"]["tokens_per_prompt"]["update"] < 2 * (110 + 4 * 48)


def test_the_results_page_shows_every_ratio_with_its_interval(measured):
    # A single round has no interval.
    assert f"| {measured['speedup']['update']:.2f} | - |" in render_part("grpo-demo", measured)
    # Two rounds of ratios r and 4 r have the geometric mean 2 r, and an interval on the scale of logarithms.
    sides = {name: side | {"rounds": side["rounds"] * 2} for name, side in measured["sides"].items()}
    sides["trl"]["rounds"][1] = {part: 4 * value for part, value in sides["trl"]["rounds"][0].items()}
    low, high = (math.exp(end) for end in t_interval([0.0, math.log(4)]))
    step = measured["speedup"]["step"]
    page = render_part("grpo-demo", measured | {"sides": sides, "rounds": 2})
    assert f"| {2 * step:.2f} | [{low * step:.2f},\u00a0{high * step:.2f}] |" in page
