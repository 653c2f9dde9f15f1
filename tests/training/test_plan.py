"""The plan of a configuration: steps, sharing, memory by part, cards, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trl.trainer.utils import RepeatSampler

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.training.config import load_config
from medvlm_r1.training.dry_run import memory
from medvlm_r1.training.dry_run.batch import Batch
from medvlm_r1.training.dry_run.cards import BANDWIDTH_SHARE, CARDS, MATRIX_SHARE, TOKEN_SECONDS, card_named, seconds
from medvlm_r1.training.dry_run.launch import Launch, read_launch
from medvlm_r1.training.dry_run.plan import Plan, make_plan, refuse_memory
from medvlm_r1.training.dry_run.work import total

WriteConfig = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]
PAPER = {"samples": 600, "rows": 4, "accumulation": 4, "group": 4, "passes_per_generation": 4, "epochs": 2.0}


@pytest.fixture
def plan(write_config: WriteConfig) -> Callable[..., Plan]:
    """Makes a plan of the tiny configuration: 2 completions of a prompt, 4 rows of a pass."""

    def make(method: str = "grpo", launch: Launch = Launch(), overrides: Any = (), **changes: Any) -> Plan:  # noqa: B008
        if method == "grpo":
            overrides = ["max_completion_length=64", *overrides]
        config = load_config(write_config(method, **changes), [f"trainer.{name}" for name in overrides])
        return make_plan(config, launch=launch)

    return make


def test_what_an_evaluation_shares_with_the_training_is_noted(plan: Callable[..., Plan], data_dir: Path) -> None:
    [note] = plan(data={"train": str(data_dir), "eval": str(data_dir)}).notes[:1]
    assert note.startswith(
        "Warning: data.eval shares pictures or subjects with data.train: 8 of 8 questions of data.eval"
    )
    assert not any("data.eval" in note for note in plan().notes)


def test_the_papers_steps() -> None:
    batch = Batch(**PAPER)
    assert (batch.steps, batch.step_prompts, batch.epochs_done) == (300, 4, 2)
    two = Batch(**{**PAPER, "accumulation": 2, "passes_per_generation": 2, "processes": 2})
    assert (two.steps, two.step_prompts, two.epochs_done) == (300, 4, 2)


@pytest.mark.parametrize("changes", [{}, {"samples": 103}, {"iterations": 2}, {"accumulation": 2}, {"group": 8}])
def test_passes_are_those_of_trls_sampler(changes: dict[str, int]) -> None:
    batch = Batch(**{**PAPER, **changes})
    sampler = RepeatSampler(
        range(batch.samples),
        mini_repeat_count=batch.group,
        batch_size=batch.generation_prompts,
        repeat_count=batch.iterations * batch.passes_per_generation,
    )
    loaded = batch.rows * batch.passes_per_generation
    assert batch.passes_per_epoch == len(list(sampler)) // loaded


def test_sft_uses_the_last_incomplete_batch() -> None:
    batch = Batch(samples=10, rows=4, accumulation=2, group=1, passes_per_generation=1, keeps_rest=True, epochs=3)
    assert (batch.passes_per_epoch, batch.steps) == (3, 6)


def test_prompts_computed() -> None:
    batch = Batch(**PAPER)
    assert batch.prompt_passes(shared=True) == 4
    assert batch.prompt_passes(shared=False) == 16
    assert batch.prefills(shared=True) == 4
    assert batch.prefills(shared=False) == 16
    # One row at a time there is nothing to share in the update; generation still takes the whole group at once.
    alone = Batch(**{**PAPER, "rows": 1, "accumulation": 16, "passes_per_generation": 16})
    assert alone.prompt_passes(shared=True) == 16
    assert alone.prefills(shared=True) == 4
    assert not batch.scores_old_policy
    assert Batch(**{**PAPER, "iterations": 2}).scores_old_policy


def test_sharing_saves_the_prompt_and_nothing_else(plan: Callable[..., Plan]) -> None:
    made = plan()
    shared, plain = made.work(shared=True), made.work(shared=False)
    assert set(shared) == set(plain) == {"generation", "reference", "update"}
    for phase in plain:
        assert plain[phase]["prompt"] == pytest.approx(2 * shared[phase]["prompt"])
        assert plain[phase]["completions"] == shared[phase]["completions"]
        assert plain[phase]["head"] == shared[phase]["head"]
    assert plain["update"]["tower"] == pytest.approx(2 * shared["update"]["tower"])
    assert made.shares
    assert total(shared) < total(plain)


def test_a_forward_and_a_backward_pass_are_three_forwards(plan: Callable[..., Plan]) -> None:
    work = plan().work(shared=False)
    assert work["update"]["prompt"] == pytest.approx(3 * work["reference"]["prompt"])
    assert work["update"]["head"] == pytest.approx(4 * work["reference"]["head"])
    again = plan(overrides=["gradient_checkpointing=true"]).work(shared=False)
    assert again["update"]["prompt"] == pytest.approx(4 * work["reference"]["prompt"])


def test_without_a_kl_term_there_is_no_reference(plan: Callable[..., Plan]) -> None:
    made = plan(overrides=["beta=0.0"])
    assert "reference" not in made.work(shared=True)
    assert made.memory(shared=True)["reference"] == 0
    assert plan().memory(shared=True)["reference"] == made.shape.parameters.total * 4


def test_kept_features_are_the_trainers() -> None:
    from medvlm_r1.training.dry_run.settings import FEATURES_BYTES
    from medvlm_r1.training.grpo import FEATURES_MB

    assert FEATURES_BYTES == FEATURES_MB * 1e6


def test_a_frozen_tower_is_run_once_for_each_image(plan: Callable[..., Plan]) -> None:
    frozen = plan(lora={"r": 2, "target_modules": ["q_proj"]}, overrides=["max_steps=8"])
    # 8 samples, 2 prompts a step, 8 steps: two epochs, and features are kept from the first.
    assert frozen.run.batch.epochs_done == 2
    assert frozen.run.kept == 0.5
    shared, plain = frozen.work(shared=True), frozen.work(shared=False)
    assert plain["update"]["tower"] == pytest.approx(4 * shared["update"]["tower"])
    assert shared["update"]["tower"] == pytest.approx(shared["reference"]["tower"])


def test_memory_of_full_weights(plan: Callable[..., Plan]) -> None:
    made = plan()
    count, part = made.shape.parameters.total, made.memory(shared=True)
    assert part["weights"] == part["gradients"] == 4 * count
    assert part["optimizer"] == 8 * count
    assert part["copies"] == 2 * count
    plain = made.memory(shared=False)
    assert part["activations"] < plain["activations"]
    changed = {name for name in part if part[name] != plain[name]}
    assert changed == {"activations", "head", "cache"}
    checkpointed = plan(overrides=["gradient_checkpointing=true"]).memory(shared=False)
    assert checkpointed["activations"] < plain["activations"]


def test_memory_of_adapters(plan: Callable[..., Plan]) -> None:
    changes = {"lora": {"r": 2}, "trainer": {"model_init_kwargs": {"dtype": "bfloat16"}}}
    made = plan(**changes)
    parameters, part = made.shape.parameters, made.memory(shared=True)
    assert part["weights"] == 2 * parameters.total + 4 * parameters.adapters
    assert part["gradients"] == 4 * parameters.adapters
    assert part["optimizer"] == 8 * parameters.adapters
    assert part["copies"] == 2 * parameters.adapters
    assert part["reference"] == 0


@pytest.mark.parametrize(
    ("sharding", "whole"), [("none", {"weights", "gradients", "optimizer"}), ("zero2", {"weights"}), ("zero3", set())]
)
def test_memory_of_shards(plan: Callable[..., Plan], sharding: Any, whole: set[str]) -> None:
    made = plan(launch=Launch(processes=2, sharding=sharding))
    one = replace(made.placement, processes=1)
    part = made.memory(shared=False)
    alone = replace(made, placement=one).memory(shared=False)
    for name in ("weights", "gradients", "optimizer"):
        assert part[name] == pytest.approx(alone[name] / (1 if name in whole else 2))
    # bf16 weights and gradients, and float32 weights beside Adam's two moments.
    if sharding != "none":
        assert alone["optimizer"] == 12 * made.shape.parameters.total
        assert alone["weights"] == 2 * made.shape.parameters.total
    assert made.shares is (sharding != "zero3")
    assert part["buckets"] == (part["gradients"] if sharding == "none" else 0)
    assert alone["buckets"] == 0


def test_the_peak_is_the_fuller_time(plan: Callable[..., Plan]) -> None:
    made = plan()
    part = dict.fromkeys(made.memory(shared=True), 0.0)

    def peak(given: dict[str, float], *where: Any) -> float:
        return max(memory.phases(given, *where).values())

    assert peak({**part, "weights": 3, "cache": 5, "logits": 1, "activations": 4}, made.placement) == 9
    assert peak({**part, "weights": 3, "cache": 5, "gradients": 4, "head": 3}, made.placement) == 10
    vllm = replace(made.placement, vllm_share=0.5)
    assert peak({**part, "weights": 3, "gradients": 4}, vllm, 20) == 17
    assert peak({**part, "weights": 3, "gradients": 4}, replace(vllm, vllm_sleeps=True), 20) == 13


def test_transformers_writes_in_a_loop(plan: Callable[..., Plan]) -> None:
    card = CARDS["h100-80gb"]
    # One generation of 64 tokens feeds the step.
    assert plan().seconds(card, shared=True)["writing"] == pytest.approx(64 * TOKEN_SECONDS)
    vllm = plan(overrides=["use_vllm=true"])
    assert vllm.seconds(card, shared=True)["writing"] < TOKEN_SECONDS
    assert vllm.memory(shared=True)["cache"] == 0
    assert vllm.peak(card, shared=True) > 0.3 * card.memory
    assert "old policy" in vllm.work(shared=True)
    assert vllm.work(shared=True)["generation"] == vllm.work(shared=False)["generation"]


def test_the_reference_has_no_adapters(plan: Callable[..., Plan]) -> None:
    made = plan(lora={"r": 2})
    work = made.work(shared=False)
    assert 0 < work["reference"]["prompt"] < work["generation"]["prompt"]
    assert work["reference"]["prompt"] == pytest.approx(plan().work(shared=False)["reference"]["prompt"])


def test_rows_below_the_group_are_noted(plan: Callable[..., Plan]) -> None:
    made = plan(overrides=["per_device_train_batch_size=1", "gradient_accumulation_steps=4"])
    assert any("a prompt is computed 2 times" in note for note in made.notes)
    assert made.work(shared=True)["update"] == made.work(shared=False)["update"]
    assert not any("is computed" in note for note in plan().notes)


def test_time() -> None:
    card = card_named("A100-80GB")
    found = seconds(card, operations=card.peak, written=0, read=card.bandwidth)
    assert found["matrix"] == pytest.approx(1 / MATRIX_SHARE)
    assert found["writing"] == pytest.approx(1 / BANDWIDTH_SHARE)
    assert found["step"] == found["matrix"] + found["writing"]
    assert seconds(card, operations=0, written=0, read=1, looped=50)["writing"] == 50 * TOKEN_SECONDS
    assert seconds(card, operations=0, written=card.peak, read=0)["step"] == pytest.approx(1 / MATRIX_SHARE)


def test_an_unknown_card_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown card 'rtx-4080'; did you mean 'rtx-4090'"):
        card_named("rtx-4080")


def test_completions_too_short_for_their_tags_are_refused(plan: Callable[..., Plan]) -> None:
    with pytest.raises(UserError, match=r"max_completion_length is 6, .*<think></think><answer>A</answer>, has \d+"):
        plan(overrides=["max_completion_length=6"])


@pytest.mark.parametrize(
    ("method", "overrides", "said"),
    [
        ("grpo", ["use_vllm=true", "vllm_max_model_length=70"], "vllm_max_model_length is 70, but the longest prompt"),
        ("sft", ["max_length=20"], "max_length is 20, but the longest prompt"),
        (
            "grpo",
            ["per_device_train_batch_size=3"],
            r"\(3\) must be divisible by num_generations \(2\).*per_device_train_batch_size",
        ),
        ("grpo", ["per_device_train_batch_size=64"], "takes 32 prompts and the data have 8"),
        ("grpo", ["max_completion_length=40000"], "reaches 32768 positions"),
    ],
)
def test_what_would_go_wrong_is_refused(
    plan: Callable[..., Plan], method: str, overrides: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        plan(method, overrides=overrides)


def test_what_fits_nowhere_is_refused(plan: Callable[..., Plan]) -> None:
    made = plan()
    refuse_memory(made)
    small = replace(CARDS["rtx-4090"], memory=2.0**20, label="toy")
    with pytest.raises(UserError, match=r"fits on none of the cards .*toy: 1\.\d of 0 GiB.*runtime 1\.5 GiB"):
        refuse_memory(replace(made, cards=(small,)))
    refuse_memory(replace(made, cards=(small, CARDS["rtx-4090"])))


def test_a_model_of_another_family_is_refused(plan: Callable[..., Plan], tiny_policy_dir: Path, tmp_path: Path) -> None:
    import shutil

    from transformers import AutoConfig

    folder = shutil.copytree(tiny_policy_dir, tmp_path / "other")
    AutoConfig.for_model("llava").save_pretrained(folder)
    with pytest.raises(UserError, match="a 'llava' model; the dry run counts qwen2_vl"):
        plan(model=str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"other: the model cannot be laid out"):
        plan(model=str(folder))


def test_weights_are_not_needed(plan: Callable[..., Plan], tiny_policy_dir: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny_policy_dir, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    assert plan(model=str(folder)).shape.parameters == plan().shape.parameters


def test_a_launch_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "launch.yaml"
    for text, said in (
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}\nnum_processes: 2\n", "FSDP version 1"),
        ("nonsense: 1\n", "not a configuration of accelerate"),
        ("- 1\n", "not a configuration of accelerate"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=said):
            read_launch(file)
    with pytest.raises(UsageError, match="not a configuration of accelerate"):
        read_launch(tmp_path / "absent.yaml")


def test_the_command_prints_and_trains_nothing(write_config: WriteConfig, command: Command, tmp_path: Path) -> None:
    file = write_config(trainer={"max_completion_length": 64})
    code, out, _ = command("train", "grpo", "--config", file, "--dry-run", "--card", "rtx-4090")
    assert code == 0
    for said in ("Steps", "Image tokens", "generation", "reference", "activations", "RTX 4090", "35%", "assumptions"):
        assert said in out
    assert "A100" not in out
    assert not (tmp_path / "run").exists()


def test_the_command_in_json(write_config: WriteConfig, command: Command) -> None:
    file = write_config("sft")
    code, out, _ = command("train", "sft", "--config", file, "--dry-run", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["method"] == "sft"
    assert set(record["operations_per_step"]) == {"plain"}
    assert set(record["operations_per_step"]["plain"]) == {"update"}
    assert set(record["cards"]) == set(CARDS)
    assert record["assumed"]["matrix_share"] == MATRIX_SHARE


def test_the_command_refuses(write_config: WriteConfig, command: Command) -> None:
    file = write_config()
    code, _, error = command("train", "grpo", "--config", file, "--dry-run")
    assert code == 1
    assert "max_completion_length is 6" in error
    code, _, error = command("train", "grpo", "--config", file, "--card", "rtx-4090")
    assert code == 2
    assert "belong to --dry-run" in error
    code, _, error = command("train", "grpo", "--config", file, "--dry-run", "--card", "rtx")
    assert code == 2
    assert "unknown card" in error


def test_a_plan_for_this_cpu(write_config: WriteConfig, command: Command) -> None:
    file = write_config(trainer={"max_completion_length": 64})
    code, out, _ = command("train", "grpo", "--config", file, "--dry-run", "--card", "cpu", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["assumed"]["runtime_bytes"] == memory.RUNTIME_CPU
    # Nobody says how fast it is.
    assert set(record["cards"]["cpu"]["shared"]) == {"memory", "fits"}
    # bf16 on a CPU only where it is asked for: float32 needs no copies.
    assert record["memory"]["shared"]["copies"] == 0
    asked = command("train", "grpo", "--config", file, "--dry-run", "--card", "cpu", "--json", "trainer.bf16=true")
    assert json.loads(asked[1])["memory"]["shared"]["copies"] == 2 * record["model"]["total"]
    code, out, _ = command("train", "grpo", "--config", file, "--dry-run", "--card", "cpu")
    assert code == 0
    assert "this CPU" in out
    code, _, error = command("train", "grpo", "--config", file, "--dry-run", "--card", "cpu", "--card", "rtx-4090")
    assert code == 2
    assert "leave out cpu or rtx-4090" in error
