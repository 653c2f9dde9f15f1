"""Several processes, each with a share of the batch, take the steps one process takes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from runs import rows
from safetensors.torch import load_file
from torch import distributed

from medvlm_r1.models.load import load_policy
from medvlm_r1.recipes import recipe
from medvlm_r1.training.loop import leave_process_group
from medvlm_r1.training.reliability.checkpoint import numbered

SCRIPT = Path(__file__).with_name("written_run.py")


def rewards_by_length(completion_ids, **_):
    """Longer is better; nothing else depends on how rows were shared out."""
    return [float(len(ids)) for ids in completion_ids]


def ending_the_job(completion_ids, **columns):
    """In the third step the main process sends SIGTERM to the shell that runs the launcher."""
    _STEPS.append(len(completion_ids))
    if len(_STEPS) == 3 and os.environ["RANK"] == "0":
        os.kill(psutil.Process(os.getppid()).ppid(), signal.SIGTERM)
    return rewards_by_length(completion_ids)


_STEPS = []


def _finish(command):
    """What a command prints; it has to end with exit code 0."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def check_names(out):
    """The final model and every checkpoint have the tensors of the base model, or an adapter that fits it."""
    base = Path(yaml.safe_load((out / "config.yaml").read_text())["model"])
    for folder in (out / "model", *(out / "checkpoints").glob("checkpoint-*")):
        if (folder / "adapter_config.json").exists():
            load_policy(str(folder))
        else:
            assert load_file(folder / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()


def _run(arguments, out):
    printed = _finish([sys.executable, *arguments])
    check_names(out)
    rollouts = rows(out / "metrics.jsonl")
    evaluated = {row["eval_processes"] for row in rollouts if "eval_processes" in row}
    assert evaluated in (set(), {arguments.count("torch.distributed.run") + 1})
    return ([row for row in rollouts if "loss" in row], load_file(out / "model" / "model.safetensors"), printed)


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
# The file of the recipes, but for two processes on this machine, in float32.
FSDP2 = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(recipe("accelerate/fsdp2.yaml"))]
FSDP2 += ["--num_processes=2", "--mixed_precision=no", "--main_process_port=0"]


STEPS = {"max_steps": 4, "num_generations": 4, "learning_rate": 1e-3, "lr_scheduler_type": "constant"}
# A group's rows are together wherever they are cut.
STEPS |= {"gradient_accumulation_steps": 1, "shuffle_dataset": False}
REWARDS = [{"name": "test_distributed.rewards_by_length"}]


@pytest.mark.parametrize(
    ("launcher", "changes", "trainer", "tolerance"),
    [
        (TORCHRUN, {"evaluate_every": 2}, {}, 1e-4),
        pytest.param(TORCHRUN, {"sharing": "off"}, {}, 1e-4, marks=pytest.mark.engines),
        pytest.param(TORCHRUN, {}, {"bf16": True}, 2e-2, marks=pytest.mark.engines),
        # `test_sharded.py` has mixed rows under FSDP2.
        pytest.param(FSDP2, {}, {}, 1e-4, marks=pytest.mark.engines),
    ],
    ids=["ddp-on", "ddp-off", "ddp-bf16", "fsdp2"],
)
def test_two_processes_take_the_steps_of_one(write_config, tmp_path, launcher, changes, trainer, tolerance):
    config = write_config(rewards=REWARDS, **changes, trainer={**STEPS, "beta": 0.04, **trainer})
    one, two = tmp_path / "one", tmp_path / "two"
    alone, weights, _ = _run([str(SCRIPT), str(config), str(one), "trainer.per_device_train_batch_size=8"], one)
    both, shared, printed = _run(
        [*launcher, str(SCRIPT), str(config), str(two), "trainer.per_device_train_batch_size=4"], two
    )
    assert len(alone) == len(both) == 4
    for a, b in zip(alone, both, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=tolerance, abs=tolerance / 100)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=10 * tolerance)
        assert b["reward"] == pytest.approx(a["reward"])
    assert any(abs(row["grad_norm"]) > 1e-3 for row in alone)
    for name, wanted in weights.items():
        if tolerance > 1e-3 and name.endswith("k_proj.bias"):
            continue  # Its gradient is 0 but for rounding, which Adam scales up.
        assert float((shared[name] - wanted).norm()) <= tolerance * float(wanted.norm()) + 1e-6, name
    if launcher is FSDP2:
        assert {"Qwen2VLDecoderLayer", "Qwen2VLVisionBlock", "Qwen2VLForConditionalGeneration"} <= set(printed.split())


def test_a_queue_gets_a_checkpoint_and_exit_code_0(write_config, tmp_path):
    """SIGTERM to the script alone; the same line resumes."""
    trainer = {"max_steps": 500, "per_device_train_batch_size": 2}
    config = write_config(rewards=[{"name": "test_distributed.ending_the_job"}], trainer=trainer)
    command = ["bash", str(recipe("accelerate/preemptible.sh")), "--config_file", str(recipe("accelerate/ddp.yaml"))]
    command += ["--num_processes=2", "--mixed_precision=no", "--main_process_port=0"]
    command += ["-m", "medvlm_r1", "train", "grpo", "--config", str(config)]
    steps = [0]
    for _ in range(2):
        assert "Stopped after step" in _finish(command)
        steps.append(numbered(tmp_path / "run" / "checkpoints")[0][0])
    assert steps[0] + 3 <= steps[1] <= steps[2] - 3 < 497


def test_a_process_group_is_left(tmp_path):
    """Threads of a group that is left open can end the process with SIGABRT after its last line."""
    leave_process_group()
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    leave_process_group()
    assert not distributed.is_initialized()


def test_one_process_instead_of_two_is_a_warning(write_config, tmp_path):
    """accelerate starts the processes of a MULTI_CPU file only by mpirun."""
    launch = yaml.safe_load(recipe("accelerate/ddp.yaml").read_text())
    file = tmp_path / "cpus.yaml"
    file.write_text(yaml.safe_dump(launch | {"distributed_type": "MULTI_CPU", "mixed_precision": "no"}))
    arguments = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(file), str(SCRIPT)]
    out = tmp_path / "alone"
    settings = ["trainer.num_generations=4", "trainer.gradient_accumulation_steps=2"]
    *_, printed = _run([*arguments, str(write_config()), str(out), *settings], out)
    assert "8 completions: per_device_train_batch_size 4 x gradient_accumulation_steps 2 x 1 process" in printed
