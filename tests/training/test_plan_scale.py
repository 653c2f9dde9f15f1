"""The step on several cards: how it is cut, what is sent, and that nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medvlm_r1.training.config import load_config
from medvlm_r1.training.dry_run.batch import Batch
from medvlm_r1.training.dry_run.cards import BANDWIDTH_SHARE, CARDS, LINK_SHARE, NETWORK, this_machine
from medvlm_r1.training.dry_run.launch import Launch
from medvlm_r1.training.dry_run.plan import Plan, make_plan
from medvlm_r1.training.dry_run.scale import bandwidth, gradient_bytes, scale, spread, sync_bytes

CARD = CARDS["a100-80gb"]
PAPER = Batch(samples=600, rows=4, accumulation=4, group=4, passes_per_generation=4, epochs=2.0)


@pytest.fixture
def plan(write_config: Callable[..., Path]) -> Callable[..., Plan]:
    def make(launch: Launch = Launch(), *overrides: str, **changes: Any) -> Plan:  # noqa: B008
        given = ["trainer.max_completion_length=64", "trainer.gradient_accumulation_steps=4", *overrides]
        changes.setdefault("trainer", {"num_generations": 4, "generation_batch_size": None})
        return make_plan(load_config(write_config("grpo", **changes), given), launch=launch)

    return make


def test_a_larger_step_keeps_the_passes_of_a_card() -> None:
    cut = spread(PAPER, 8, "larger")
    assert cut is not None
    assert (cut.rows, cut.accumulation, cut.step_prompts) == (4, 4, 32)


@pytest.mark.parametrize(
    ("cards", "rows", "passes", "times"), [(1, 4, 4, 1), (2, 4, 2, 1), (4, 4, 1, 1), (8, 2, 1, 2), (16, 1, 1, 4)]
)
def test_the_same_step_is_dealt_out(cards: int, rows: int, passes: int, times: int) -> None:
    cut = spread(PAPER, cards, "same")
    assert cut is not None
    assert (cut.rows, cut.accumulation, cut.step_prompts) == (rows, passes, 4)
    assert cut.passes_per_generation == passes
    # Each of a group's cards computes its prompt.
    assert cut.prompt_passes(shared=True) * cards / cut.step_prompts == times


@pytest.mark.parametrize("cards", [3, 32, 64])
def test_a_step_has_no_more_cards_than_rows(cards: int) -> None:
    assert spread(PAPER, cards, "same") is None


def test_a_plan_for_several_cards_is_cut_alike() -> None:
    two = replace(PAPER, accumulation=2, passes_per_generation=2, processes=2)
    assert spread(two, 4, "same") == spread(PAPER, 4, "same")


def test_gradients_go_round_a_ring(plan: Callable[..., Plan]) -> None:
    made = plan()
    assert gradient_bytes(made) == 0
    for cards in (2, 8):
        sent = gradient_bytes(replace(made, run=replace(made.run, batch=replace(made.run.batch, processes=cards))))
        assert sent == pytest.approx(2 * (cards - 1) / cards * 4 * made.shape.parameters.total)
    adapted = plan(Launch(processes=2), lora={"r": 2})
    assert gradient_bytes(adapted) == 4 * adapted.shape.parameters.adapters


def test_shards_are_gathered_for_every_pass(plan: Callable[..., Plan]) -> None:
    made = plan(Launch(processes=2, sharding="fsdp2"))
    total = made.shape.parameters.total
    assert made.run.batch.accumulation == 4
    # Forward, backward and reference of 4 passes and the generation, in bf16; then float32 gradients of each pass.
    assert gradient_bytes(made) == pytest.approx(0.5 * (13 * 2 * total + 4 * 4 * total))


def test_vllm_is_sent_the_weights(plan: Callable[..., Plan]) -> None:
    made = plan()
    assert sync_bytes(made) == 0
    vllm = plan(Launch(), "trainer.use_vllm=true")
    assert sync_bytes(vllm) == 2 * vllm.shape.parameters.total
    server = plan(Launch(), "trainer.use_vllm=true", "trainer.vllm_mode=server")
    colocated = plan(Launch(), "trainer.use_vllm=true", "trainer.vllm_mode=colocate")
    # Beside the trainer it is a copy in memory; elsewhere it goes over the links.
    [near], [far] = ([one for one in scale(made, CARD, [1]) if one.way == "larger"] for made in (colocated, server))
    assert near.sync_bytes == far.sync_bytes
    assert near.sending == pytest.approx(2 * near.sync_bytes / (BANDWIDTH_SHARE * CARD.bandwidth))
    assert far.sending == pytest.approx(far.sync_bytes / (LINK_SHARE * CARD.links))


def test_seconds_add_up(plan: Callable[..., Plan]) -> None:
    made = plan()
    found = scale(made, CARD, [1, 2, 64])
    assert [one.way for one in found] == ["larger"] * 3 + ["same"] * 2
    assert [one.cards for one in found] == [1, 2, 64, 1, 2]
    alone = made.seconds(CARD, shared=made.shares)
    assert alone is not None
    for one in found:
        assert one.seconds == one.generation + one.update + one.sending
        assert one.sending == pytest.approx((one.gradient_bytes + one.sync_bytes) / bandwidth(CARD, one.cards))
    assert found[0].seconds == pytest.approx(alone["step"])
    assert found[0].sending == 0
    # Every card works as before; sending is all that is added.
    assert found[2].generation + found[2].update == pytest.approx(alone["step"])
    assert found[2].sending > found[1].sending
    assert found[4].update < found[3].update
    assert bandwidth(CARD, 8) == LINK_SHARE * CARD.links
    assert bandwidth(CARD, 16) == LINK_SHARE * NETWORK


def test_nothing_is_said_of_a_card_of_unknown_speed(plan: Callable[..., Plan]) -> None:
    assert scale(plan(), this_machine()) == []


def test_the_command(write_config: Callable[..., Path], command: Callable[..., tuple[int, str, str]]) -> None:
    file = write_config(trainer={"max_completion_length": 64})
    arguments = ["train", "grpo", "--config", file, "--scale", "1", "--scale", "2"]
    code, _, error = command(*arguments)
    assert code == 2
    assert "belong to --dry-run" in error
    code, out, _ = command(*arguments, "--dry-run", "--json")
    assert code == 0
    assert {name: len(rows) for name, rows in json.loads(out)["scale"].items()} == dict.fromkeys(CARDS, 4)
    code, out, _ = command(*arguments, "--dry-run", "--card", "h100-80gb")
    assert code == 0
    assert "H100 80GB (computed, not measured)" in out
