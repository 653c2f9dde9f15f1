"""The plan of a configuration: steps, sharing, memory by part, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
from transformers import AutoConfig
from trl.trainer.utils import RepeatSampler

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.training.dry_run import memory
from medvlm_r1.training.dry_run.plan import make_plan, refuse_memory
from medvlm_r1.training.dry_run.settings import Launch, Run, read_launch

SIZES = {"completion": 64, "weights": 4, "compute": 2, "generates": True}
PAPER = {"samples": 600, "rows": 4, "accumulation": 4, "group": 4, "passes_per_generation": 4, "epochs": 2.0, **SIZES}
ALONE = Launch()
BFLOAT16 = {"model_init_kwargs": {"dtype": "bfloat16"}}


@pytest.fixture
def plan(configure):
    """Makes a plan of the tiny configuration: 2 completions of a prompt, 4 rows of a pass."""

    def make(method="grpo", *overrides, launch=ALONE, device=None, **changes):
        if method == "grpo":
            overrides = ["max_completion_length=64", *overrides]
        config = configure(method, *(f"trainer.{name}" for name in overrides), **changes)
        return make_plan(config, launch=launch, device=device)

    return make


@pytest.mark.parametrize(
    ("changes", "steps", "step_prompts", "epochs"),
    [
        ({}, 300, 4, 2),
        ({"accumulation": 2, "passes_per_generation": 2, "launch": Launch(processes=2)}, 300, 4, 2),
        ({"iterations": 2}, 600, 2, 2),
        # SFT uses the last incomplete run.
        ({"samples": 10, "accumulation": 2, "group": 1, "passes_per_generation": 1, "generates": False}, 4, 8, 3.2),
    ],
)
def test_steps(changes, steps, step_prompts, epochs):
    run = Run(**{**PAPER, **changes})
    assert (run.steps, run.step_prompts, run.epochs_done) == (steps, step_prompts, epochs)


@pytest.mark.parametrize("changes", [{}, {"samples": 103}, {"iterations": 2}, {"accumulation": 2}, {"group": 8}])
def test_passes_are_those_of_trls_sampler(changes):
    run = Run(**{**PAPER, **changes})
    sampler = RepeatSampler(
        range(run.samples),
        mini_repeat_count=run.group,
        batch_size=run.generation_prompts,
        repeat_count=run.iterations * run.passes_per_generation,
    )
    assert run.passes_per_epoch == len(list(sampler)) // (run.rows * run.passes_per_generation)


def test_prompts_of_adjacent_rows():
    assert [Run(**PAPER).prompts_in(rows) for rows in (1, 4, 5, 16)] == [1, 1, 2, 4]


def test_memory_of_full_weights(plan):
    made = plan()
    count, part = made.shape.parameters.total, made.memory(shared=True)
    assert part["weights"] == part["gradients"] == part["reference"] == 4 * count
    assert part["optimizer"] == 8 * count
    assert part["copies"] == 2 * count
    assert part["buckets"] == 0
    plain = made.memory(shared=False)
    assert part["activations"] < plain["activations"]
    assert {name for name in part if part[name] != plain[name]} == {"activations", "head", "cache"}
    checkpointed = plan("grpo", "gradient_checkpointing=true").memory(shared=False)
    assert checkpointed["activations"] < plain["activations"]
    # Without a KL term there is no reference.
    assert plan("grpo", "beta=0.0").memory(shared=True)["reference"] == 0


def test_memory_of_adapters(plan):
    made = plan(lora={"r": 2}, trainer=BFLOAT16)
    parameters, part = made.shape.parameters, made.memory(shared=True)
    assert part["weights"] == 2 * parameters.total + 4 * parameters.adapters
    assert part["gradients"] == 4 * parameters.adapters
    assert part["optimizer"] == 8 * parameters.adapters
    assert part["copies"] == 2 * parameters.adapters
    assert part["reference"] == 0
    # A frozen tower saves no activations.
    frozen = plan(lora={"r": 2, "target_modules": ["q_proj"]})
    assert not frozen.shape.trains_tower
    learning = replace(frozen, shape=replace(frozen.shape, trains_tower=True))
    assert frozen.memory(shared=True)["activations"] < learning.memory(shared=True)["activations"]


@pytest.mark.parametrize(
    ("sharding", "whole"), [("none", {"weights", "gradients", "optimizer"}), ("zero2", {"weights"}), ("zero3", set())]
)
def test_memory_of_shards(plan, sharding, whole):
    made = plan(launch=Launch(processes=2, sharding=sharding))
    part = made.memory(shared=False)
    run = replace(made.run, launch=replace(made.run.launch, processes=1))
    alone = replace(made, run=run).memory(shared=False)
    for name in ("weights", "gradients", "optimizer"):
        assert part[name] == pytest.approx(alone[name] / (1 if name in whole else 2))
    # bf16 weights and gradients, and float32 weights beside Adam's two moments.
    if sharding != "none":
        assert alone["optimizer"] == 12 * made.shape.parameters.total
        assert alone["weights"] == 2 * made.shape.parameters.total
    assert made.run.shares
    assert part["buckets"] == (part["gradients"] if sharding == "none" else 0)


@pytest.mark.parametrize(("sharding", "shared"), [("zero3", True), ("fsdp2", True), ("fsdp2", False)])
def test_sharded_weights_are_whole_while_a_device_generates(plan, sharding, shared):
    made = plan(launch=Launch(processes=4, sharding=sharding))
    part = made.memory(shared=shared)
    assert part["generation weights"] == 2 * made.shape.parameters.total
    rest = sum(part[name] for name in ("weights", "optimizer", "reference", "copies", "runtime", "cache", "logits"))
    assert made.phases(shared=shared)["generation"] == pytest.approx(rest + part["generation weights"])


def test_the_peak_is_the_fuller_time(plan):
    made = plan()
    part = dict.fromkeys(made.memory(shared=True), 0.0)

    def peak(given, **changes):
        return max(memory.phases({**part, "weights": 3, **given}, replace(made.run, **changes), 20).values())

    assert peak({"cache": 5, "logits": 1, "activations": 4}) == 9
    assert peak({"cache": 5, "gradients": 4, "head": 3}) == 10
    assert peak({"gradients": 4}, vllm_share=0.5) == 17
    assert peak({"gradients": 4}, vllm_share=0.5, vllm_sleeps=True) == 13


def test_vllm_has_its_own_memory(plan):
    colocated = plan("grpo", "use_vllm=true", device=80 * 2.0**30)
    assert colocated.memory(shared=True)["cache"] == colocated.memory(shared=True)["logits"] == 0
    server = plan("grpo", "use_vllm=true", "vllm_mode=server", device=80 * 2.0**30)
    assert server.peak(shared=True) < 0.3 * 80 * 2**30 < colocated.peak(shared=True)


def test_notes(plan, data_dir):
    made = plan("grpo", "per_device_train_batch_size=1", "gradient_accumulation_steps=4")
    assert made.memory(shared=True)["activations"] > made.memory(shared=False)["activations"]
    both = {"train": str(data_dir), "eval": str(data_dir)}
    overlap = "data.eval shares images or subjects with data.train: 8 of 8 questions of data.eval"
    for noted, words in (
        (made, "is therefore computed 2 times"),
        (plan(data=both), overlap),
        (plan("grpo", "use_vllm=true"), "only when --memory is given"),
        (plan("grpo", "use_vllm=true", "vllm_mode=server"), "vLLM server runs on other devices"),
    ):
        assert any(words in note for note in noted.notes)
        assert not any(words in note for note in plan().notes)


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("grpo", ["max_completion_length=6"], r"_length is 6, .*<think></think><answer>A</answer>, has \d+"),
        ("grpo", ["use_vllm=true", "vllm_max_model_length=70"], "vllm_max_model_length is 70, but the longest prompt"),
        ("sft", ["max_length=20"], "max_length is 20, but the longest prompt"),
        ("grpo", ["per_device_train_batch_size=3"], r"\(3\) must be divisible by .*per_device_train_batch_size"),
        ("grpo", ["per_device_train_batch_size=64"], "needs 32 prompts, and the data set has 8"),
        ("grpo", ["max_completion_length=40000"], "has 32768 positions"),
        ("grpo", ["model_init_kwargs={dtype: torch.float8_e4m3fn}"], "dtype 'float8_e4m3fn' is not supported"),
    ],
)
def test_what_would_go_wrong_is_refused(plan, method, overrides, message):
    with pytest.raises(UserError, match=message):
        plan(method, *overrides)


def test_a_run_that_does_not_fit_is_refused(plan):
    refuse_memory(plan())
    refuse_memory(plan(device=24 * 2.0**30))
    with pytest.raises(UserError, match=r"needs about 1\.\d GiB on each device, which has 0\.5 GiB.*runtime 1\.5 GiB"):
        refuse_memory(plan(device=2.0**29))


def test_models(plan, tiny_policy_dir, tmp_path):
    folder = shutil.copytree(tiny_policy_dir, tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    # Weights are not needed.
    assert plan(model=str(folder)).shape.parameters == plan().shape.parameters
    AutoConfig.for_model("llava").save_pretrained(folder)
    with pytest.raises(UserError, match="a 'llava' model; the dry run supports qwen2_vl"):
        plan(model=str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"other: no model can be built"):
        plan(model=str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}\nnum_processes: 2\n", "FSDP version 1"),
        ("nonsense: 1\n", "not a configuration of accelerate"),
        ("- 1\n", "not a configuration of accelerate"),
        (None, "not a configuration of accelerate"),
    ],
)
def test_a_launch_file_of_another_kind_is_refused(tmp_path, text, message):
    file = tmp_path / "launch.yaml"
    if text:
        file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_launch(file)


@pytest.fixture
def dry_run(write_config, command):
    """Runs the command with --dry-run."""

    def run(*arguments, method="grpo", tokens=64):
        file = write_config(method, **({"trainer": {"max_completion_length": tokens}} if method == "grpo" else {}))
        return command("train", method, "--config", file, "--dry-run", *arguments)

    return run


def test_the_command_prints_and_trains_nothing(dry_run, tmp_path):
    code, out, _ = dry_run("--memory", 24)
    assert code == 0
    for words in ("Steps", "Image tokens", "1 GPU with 24.0 GiB", "reference", "activations", "peak, generation"):
        assert words in out
    code, out, _ = dry_run(method="sft")
    assert code == 0
    assert "peak, update" in out
    assert "generation" not in out
    code, out, _ = dry_run("--json", method="sft")
    record = json.loads(out)
    assert (code, record["method"], set(record["memory"]), record["device_memory"]) == (0, "sft", {"plain"}, None)
    assert not (tmp_path / "run").exists()


def test_the_command_refuses(dry_run, write_config, command):
    code, _, error = dry_run(tokens=6)
    assert (code, "max_completion_length is 6" in error) == (1, True)
    code, out, error = dry_run("--memory", 0.5)
    assert (code, "activations" in out, "does not fit" in error) == (1, True, True)
    for option in (("--memory", 24), ("--cpu",), ("--completion-tokens", 9)):
        code, _, error = command("train", "grpo", "--config", write_config(), *option)
        assert (code, "require --dry-run" in error) == (2, True)


def test_a_plan_for_this_cpu(dry_run):
    code, out, _ = dry_run("--cpu", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["cpu"]
    assert record["device_memory"] == memory.machine_memory()
    assert record["memory"]["shared"]["runtime"] == memory.RUNTIME_CPU
    # On a CPU, bf16 is off by default: float32 needs no copies.
    assert record["memory"]["shared"]["copies"] == 0
    assert json.loads(dry_run("--json", "trainer.use_cpu=true")[1]) == record
    half = dry_run("--cpu", "--json", "trainer.bf16=true")
    assert json.loads(half[1])["memory"]["shared"]["copies"] == 2 * record["model"]["total"]
    code, out, _ = dry_run("--cpu", "--memory", 8)
    assert (code, "1 CPU with 8.0 GiB" in out) == (0, True)
