"""The plan of a configuration: steps, sharing, memory by part, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from trl.trainer.utils import RepeatSampler

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.training.config import load_config
from medvlm_r1.training.dry_run import memory
from medvlm_r1.training.dry_run.plan import make_plan, refuse_memory
from medvlm_r1.training.dry_run.settings import Batch, Launch, read_launch

WriteConfig = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]
PAPER = {"samples": 600, "rows": 4, "accumulation": 4, "group": 4, "passes_per_generation": 4, "epochs": 2.0}


@pytest.fixture
def plan(write_config):
    """Makes a plan of the tiny configuration: 2 completions of a prompt, 4 rows of a pass."""

    def make(method="grpo", launch=Launch(), overrides=(), device=None, **changes):  # noqa: B008
        if method == "grpo":
            overrides = ["max_completion_length=64", *overrides]
        config = load_config(write_config(method, **changes), [f"trainer.{name}" for name in overrides])
        return make_plan(config, launch=launch, device=device)

    return make


def test_what_an_evaluation_shares_with_the_training_is_noted(plan, data_dir):
    [note] = plan(data={"train": str(data_dir), "eval": str(data_dir)}).notes[:1]
    assert note.startswith(
        "Warning: data.eval shares images or subjects with data.train: 8 of 8 questions of data.eval"
    )
    assert not any("data.eval" in note for note in plan().notes)


def test_the_papers_steps():
    batch = Batch(**PAPER)
    assert (batch.steps, batch.step_prompts, batch.epochs_done) == (300, 4, 2)
    two = Batch(**{**PAPER, "accumulation": 2, "passes_per_generation": 2, "processes": 2})
    assert (two.steps, two.step_prompts, two.epochs_done) == (300, 4, 2)


@pytest.mark.parametrize("changes", [{}, {"samples": 103}, {"iterations": 2}, {"accumulation": 2}, {"group": 8}])
def test_passes_are_those_of_trls_sampler(changes):
    batch = Batch(**{**PAPER, **changes})
    sampler = RepeatSampler(
        range(batch.samples),
        mini_repeat_count=batch.group,
        batch_size=batch.generation_prompts,
        repeat_count=batch.iterations * batch.passes_per_generation,
    )
    loaded = batch.rows * batch.passes_per_generation
    assert batch.passes_per_epoch == len(list(sampler)) // loaded


def test_sft_uses_the_last_incomplete_batch():
    batch = Batch(samples=10, rows=4, accumulation=2, group=1, passes_per_generation=1, keeps_rest=True, epochs=3)
    assert (batch.passes_per_epoch, batch.steps) == (3, 6)


def test_prompts_of_adjacent_rows():
    batch = Batch(**PAPER)
    assert [batch.prompts_in(rows) for rows in (1, 4, 5, 16)] == [1, 1, 2, 4]
    assert Batch(**{**PAPER, "iterations": 2}).step_prompts == 2


def test_without_a_kl_term_there_is_no_reference(plan):
    made = plan(overrides=["beta=0.0"])
    assert made.memory(shared=True)["reference"] == 0
    assert plan().memory(shared=True)["reference"] == made.shape.parameters.total * 4


def test_a_frozen_tower_saves_no_activations(plan):
    frozen = plan(lora={"r": 2, "target_modules": ["q_proj"]})
    assert not frozen.shape.trains_tower
    learning = replace(frozen, shape=replace(frozen.shape, trains_tower=True))
    assert frozen.memory(shared=True)["activations"] < learning.memory(shared=True)["activations"]


def test_memory_of_full_weights(plan):
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


def test_memory_of_adapters(plan):
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
def test_memory_of_shards(plan, sharding, whole):
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
    assert made.shares
    assert part["buckets"] == (part["gradients"] if sharding == "none" else 0)
    assert alone["buckets"] == 0


def test_the_peak_is_the_fuller_time(plan):
    made = plan()
    part = dict.fromkeys(made.memory(shared=True), 0.0)

    def peak(given, *where):
        return max(memory.phases(given, *where).values())

    assert peak({**part, "weights": 3, "cache": 5, "logits": 1, "activations": 4}, made.placement) == 9
    assert peak({**part, "weights": 3, "cache": 5, "gradients": 4, "head": 3}, made.placement) == 10
    vllm = replace(made.placement, vllm_share=0.5)
    assert peak({**part, "weights": 3, "gradients": 4}, vllm, 20) == 17
    assert peak({**part, "weights": 3, "gradients": 4}, replace(vllm, vllm_sleeps=True), 20) == 13


def test_vllm_has_its_own_memory(plan):
    colocated = plan(overrides=["use_vllm=true"], device=80 * 2.0**30)
    assert colocated.memory(shared=True)["cache"] == colocated.memory(shared=True)["logits"] == 0
    assert colocated.peak(shared=True) > 0.3 * 80 * 2**30
    assert any("only when --memory is given" in note for note in colocated.notes)
    server = plan(overrides=["use_vllm=true", "vllm_mode=server"], device=80 * 2.0**30)
    assert server.peak(shared=True) < 0.3 * 80 * 2**30
    assert any("vLLM server runs on other devices" in note for note in server.notes)


def test_rows_below_the_group_are_noted(plan):
    made = plan(overrides=["per_device_train_batch_size=1", "gradient_accumulation_steps=4"])
    assert any("is therefore computed 2 times" in note for note in made.notes)
    assert made.memory(shared=True)["activations"] > made.memory(shared=False)["activations"]
    assert not any("is therefore computed" in note for note in plan().notes)


def test_completions_too_short_for_their_tags_are_refused(plan):
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
        ("grpo", ["per_device_train_batch_size=64"], "needs 32 prompts, and the data set has 8"),
        ("grpo", ["max_completion_length=40000"], "has 32768 positions"),
    ],
)
def test_what_would_go_wrong_is_refused(plan, method, overrides, said):
    with pytest.raises(UserError, match=said):
        plan(method, overrides=overrides)


def test_a_run_that_does_not_fit_is_refused(plan):
    refuse_memory(plan())
    refuse_memory(plan(device=24 * 2.0**30))
    with pytest.raises(UserError, match=r"needs about 1\.\d GiB on each device, which has 0\.5 GiB.*runtime 1\.5 GiB"):
        refuse_memory(plan(device=2.0**29))


def test_a_model_of_another_family_is_refused(plan, tiny_policy_dir, tmp_path):
    import shutil

    from transformers import AutoConfig

    folder = shutil.copytree(tiny_policy_dir, tmp_path / "other")
    AutoConfig.for_model("llava").save_pretrained(folder)
    with pytest.raises(UserError, match="a 'llava' model; the dry run supports qwen2_vl"):
        plan(model=str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"other: no model can be built"):
        plan(model=str(folder))


def test_weights_are_not_needed(plan, tiny_policy_dir, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_policy_dir, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    assert plan(model=str(folder)).shape.parameters == plan().shape.parameters


def test_a_launch_file_of_another_kind_is_refused(tmp_path):
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


def test_the_command_prints_and_trains_nothing(write_config, command, tmp_path):
    file = write_config(trainer={"max_completion_length": 64})
    code, out, _ = command("train", "grpo", "--config", file, "--dry-run", "--memory", 24)
    assert code == 0
    for words in ("Steps", "Image tokens", "1 GPU with 24.0 GiB", "reference", "activations", "peak, generation"):
        assert words in out
    assert not (tmp_path / "run").exists()


def test_the_command_in_json(write_config, command):
    file = write_config("sft")
    code, out, _ = command("train", "sft", "--config", file, "--dry-run", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["method"] == "sft"
    assert set(record["memory"]) == {"plain"}
    assert record["device_memory"] is None
    code, out, _ = command("train", "sft", "--config", file, "--dry-run")
    assert code == 0
    assert "peak, update" in out
    assert "generation" not in out


def test_the_command_refuses(write_config, command):
    file = write_config()
    code, _, error = command("train", "grpo", "--config", file, "--dry-run")
    assert code == 1
    assert "max_completion_length is 6" in error
    fits = ("trainer.max_completion_length=64", "--dry-run", "--memory")
    code, out, error = command("train", "grpo", "--config", file, *fits, 0.5)
    assert code == 1
    assert "activations" in out
    assert "does not fit" in error
    for option in (("--memory", 24), ("--cpu",), ("--completion-tokens", 9)):
        code, _, error = command("train", "grpo", "--config", file, *option)
        assert code == 2
        assert "require --dry-run" in error


def test_a_plan_for_this_cpu(write_config, command):
    file = write_config(trainer={"max_completion_length": 64})
    asked = ("train", "grpo", "--config", file, "--dry-run")
    code, out, _ = command(*asked, "--cpu", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["cpu"]
    assert record["device_memory"] == memory.machine_memory()
    assert record["memory"]["shared"]["runtime"] == memory.RUNTIME_CPU
    # On a CPU, bf16 is off by default: float32 needs no copies.
    assert record["memory"]["shared"]["copies"] == 0
    assert json.loads(command(*asked, "--json", "trainer.use_cpu=true")[1]) == record
    half = command(*asked, "--cpu", "--json", "trainer.bf16=true")
    assert json.loads(half[1])["memory"]["shared"]["copies"] == 2 * record["model"]["total"]
    code, out, _ = command(*asked, "--cpu", "--memory", 8)
    assert code == 0
    assert "1 CPU with 8.0 GiB" in out


@pytest.mark.parametrize(("sharding", "shared"), [("zero3", True), ("fsdp2", True), ("fsdp2", False)])
def test_sharded_weights_are_whole_while_a_device_generates(plan, sharding, shared):
    made = plan(launch=Launch(processes=4, sharding=sharding))
    part = made.memory(shared=shared)
    assert part["generation weights"] == 2 * made.shape.parameters.total
    phases = made.phases(shared=shared)
    rest = sum(part[name] for name in ("weights", "optimizer", "reference", "copies", "runtime", "cache", "logits"))
    assert phases["generation"] == pytest.approx(rest + part["generation weights"])
