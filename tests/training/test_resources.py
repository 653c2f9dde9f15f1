"""What runs out or is taken away: room on the disk, leave to write, memory, the folder, the clock, the time to run."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from runs import At, rows, same_weights

from medvlm_r1.audit.runner import audit_model
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.stopping import Preempted
from medvlm_r1.training.grpo import train_grpo
from medvlm_r1.training.reliability.checkpoint import damage, numbered
from medvlm_r1.training.reliability.guard import explain
from medvlm_r1.training.sft import train_sft

Tried = Callable[[str, int], None]
SMALL = 4 << 20
REWARD = [{"name": "sample_rewards:distinct_tokens"}]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB."""
    disk = tmp_path / "small"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this account may not mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("room", range(0, 700_000, 100_000))
def test_a_full_disk_leaves_a_whole_checkpoint_and_says_how_to_go_on(configure, small_disk, room, tried):
    trainer = {"max_steps": 3, "save_steps": 1, "save_total_limit": 2}
    config = configure("sft", out=str(small_disk / "run"), trainer=trainer)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (SMALL - 48_000 - room))
    with pytest.raises(UserError, match="no space left on the disk") as stopped:
        train_sft(config)
    checkpoints = Path(config.out) / "checkpoints"
    assert all(damage(path) is None for _, path in numbered(checkpoints))
    assert not list(checkpoints.glob("*.partial"))
    stands = numbered(checkpoints)
    assert ("resumes from " + stands[0][1].name if stands else "starts again") in str(stopped.value)
    filler.unlink()
    model = train_sft(config)
    assert [row["step"] for row in rows(model.parent / "metrics.jsonl")] == [1, 2, 3]
    tried("disk-full", 1)


@pytest.mark.parametrize(
    ("words", "name", "room"), [(("eval",), "answers.jsonl", 4_096), (("audit", "model"), "answers.jsonl", 24_576)]
)
def test_questions_asked_on_a_full_disk_keep_their_answers(
    tiny_policy_dir, data_dir, small_disk, command, tried, words, name, room
):
    # Room for the lock and some of the eight answers.
    (small_disk / "filler").write_bytes(b"x" * (SMALL - room))
    out = small_disk / "run"
    settings = ("--data", data_dir, "--out", out, "--batch-size", 1, "--max-new-tokens", 4)
    code, _, err = command(*words, tiny_policy_dir, *settings)
    assert code == 1
    assert "no space left on the disk" in err
    assert "re-run to resume" in err
    stored = (out / name).read_bytes()
    items = {json.loads(line)["id"] for line in stored.splitlines(keepends=True) if line.endswith(b"\n")}
    assert 0 < len(items) < 8
    (small_disk / "filler").unlink()
    code, _, err = command(*words, tiny_policy_dir, *settings)
    assert (code, "Traceback" in err) == (0, False)
    answers = (out / name).read_bytes()
    rows = [json.loads(line) for line in answers.splitlines()]
    assert len({row["id"] for row in rows}) == 8
    assert len({(row["id"], row["variant"]) for row in rows}) == len(rows)
    assert answers.startswith(stored[: stored.rfind(b"\n") + 1])
    tried("disk-full", 1)


def test_a_folder_that_cannot_be_written_is_named(write_config, tiny_policy_dir, data_dir, small_disk, command, tried):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    out = small_disk / "run"
    # A configuration's folder is tried by the run; one of the command line is looked at before any work.
    tried_by_run = (1, r"run: no permission to read or write.*Read-only file system.*give another folder")
    looked_at = (2, r"small is not writable.*give another folder")
    for words, (wanted, message) in (
        (("train", "grpo", "--config", write_config(out=str(out))), tried_by_run),
        (("eval", tiny_policy_dir, "--data", data_dir, "--out", out), looked_at),
        (("audit", "model", tiny_policy_dir, "--data", data_dir, "--out", out), looked_at),
    ):
        code, _, err = command(*words)
        refusal = " ".join(err.split())
        assert (code, "Traceback" in err) == (wanted, False)
        assert re.search(message, refusal), refusal
        tried("read-only", 1)


def test_a_complete_run_can_be_read_from_a_read_only_disk(configure, small_disk):
    trainer = {"save_strategy": "no"}
    config = configure("sft", out=str(small_disk / "run"), trainer=trainer)
    model = train_sft(config)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert train_sft(config) == model


ON_A_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
ON_A_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "8589934592 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("refusing", "error", "first"),
    [
        (
            "medvlm_r1.models.decoding.shared_generation.torch.multinomial",
            ON_A_GPU,
            "completions: trainer.max_completion_length (now 6)",
        ),
        (
            "transformers.models.qwen2_vl.modeling_qwen2_vl.Qwen2VLVisionBlock.forward",
            ON_A_GPU,
            "pixels: max_pixels (now the bound of the processor)",
        ),
        ("torch.Tensor.backward", ON_A_CPU, "batch: trainer.per_device_train_batch_size (now 4)"),
        ("medvlm_r1.training.loop.load_policy", ON_A_CPU, "trainer.gradient_checkpointing=true or adapters"),
    ],
)
def test_out_of_memory_names_what_to_lower_first(train, monkeypatch, refusing, error, first, tried):
    # A new exception: its traceback tells where memory ran out.
    monkeypatch.setattr(refusing, Mock(side_effect=type(error)(*error.args)))
    with pytest.raises(UserError) as stopped:
        train()
    refusal = str(stopped.value)
    assert refusal.startswith("Out of memory ")
    assert refusal.partition("the first in the list first: ")[2].startswith(first)
    assert all(f"{name}:" in refusal for name in ("batch", "pixels", "completions"))
    assert ("2.00 GiB more were asked for" in refusal) == (error is ON_A_GPU)
    tried("out-of-memory", 1)


def test_memory_of_the_machine_itself_is_asked_for_and_refused(configure, tried):
    # More than any address space: the allocator's own words.
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60)
    refusal = explain(refused.value, configure("sft"))
    assert refusal is not None
    assert refusal.startswith("Out of memory")
    assert "completions" not in refusal
    tried("out-of-memory", 1)


def test_other_failures_are_left_as_they_are(configure):
    config = configure()
    for error in (RuntimeError("shape mismatch"), OSError(errno.ECONNRESET, "reset"), ValueError("out of memory")):
        assert explain(error, config) is None


def test_two_runs_do_not_share_a_folder(configure, tiny_policy_dir, data_dir, tmp_path, tried):
    # A process of its own: a lock is a process's.
    hold = (
        "import sys; from pathlib import Path; from medvlm_r1.disk import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    config = configure()
    out = Path(config.out)
    command = [sys.executable, "-c", hold, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for attempt in (
            lambda: train_grpo(config),
            lambda: evaluate(str(tiny_policy_dir), data_dir, out),
            lambda: audit_model(str(tiny_policy_dir), data_dir, out),
        ):
            with pytest.raises(UserError, match="is in use: another process has locked"):
                attempt()
            tried("locked", 1)
        assert [path.name for path in out.iterdir()] == [".lock"]
        other.kill()
    # A dead process holds nothing.
    train_grpo(config)


def test_a_foreign_folder_gets_no_lock(train, tmp_path):
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("x")
    with pytest.raises(UserError, match="holds no run"):
        train(out=str(other))
    assert [path.name for path in other.iterdir()] == ["chapter.tex"]


def test_a_clock_that_is_set_back_changes_nothing(train, tmp_path, monkeypatch, tried):
    settings = {"rewards": REWARD, "trainer": {"max_steps": 4, "save_steps": 1, "save_total_limit": 1}}
    steady = train(**settings, out=str(tmp_path / "steady"))
    now = time.time()
    jumps = iter(range(10**9))

    def jumping():
        return now - 86_400.0 * next(jumps)

    monkeypatch.setattr(time, "time", jumping)
    replace = Path.replace

    def backwards(self, target):
        placed = replace(self, target)
        if target.name.startswith("checkpoint-"):
            os.utime(target, (jumping(), jumping()))
        return placed

    monkeypatch.setattr(Path, "replace", backwards)
    jumped = train(**settings, out=str(tmp_path / "jumped"))
    assert [path.name for _, path in numbered(jumped / "checkpoints")] == ["checkpoint-4"]
    assert same_weights(steady / "model", jumped / "model")
    assert all(row["step_time"] >= 0 for row in rows(jumped / "metrics.jsonl"))
    tried("clock", 1)


@pytest.mark.parametrize("times", [1, 2])
def test_a_scheduler_gets_a_checkpoint_and_exit_code_0(configure, capfd, times, tried):
    config = configure(rewards=REWARD, trainer={"max_steps": 4})

    def term():
        # A launcher hands the signal on to processes that had it already.
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted, match=r"Stopped after step 2 of 4.*The same command resumes from there") as stopped:
        train_grpo(config, progress=At(2, term))
    assert stopped.value.exit_code == 0
    assert "Stopping after this step with a checkpoint" in capfd.readouterr().err
    assert [path.name for _, path in numbered(Path(config.out) / "checkpoints")] == ["checkpoint-2"]
    train_grpo(config)
    tried("sigterm", 1)


def test_a_scheduler_in_the_midst_of_reused_completions_gets_its_checkpoint_after_them(configure, tried):
    trainer = {"max_steps": 6, "num_iterations": 3}
    config = configure(rewards=REWARD, trainer=trainer)
    with pytest.raises(Preempted, match="Stopped after step 3 of 6"):
        train_grpo(config, progress=At(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    train_grpo(config)
    config = configure(rewards=REWARD, out=config.out + "2", trainer=trainer)
    # Nothing is left to do but to end.
    assert train_grpo(config, progress=At(5, lambda: os.kill(os.getpid(), signal.SIGTERM))).is_dir()
    tried("sigterm", 2)


@pytest.mark.parametrize("moment", ["load_policy", "_write_model"])
def test_a_signal_before_and_after_the_steps_ends_at_once(configure, monkeypatch, moment, tried):
    def term(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not handled")

    before = signal.getsignal(signal.SIGTERM)
    config = configure(rewards=REWARD)
    with monkeypatch.context() as patched:
        patched.setattr(f"medvlm_r1.training.loop.{moment}", term)
        with pytest.raises(Preempted, match="the same command resumes"):
            train_grpo(config)
    assert signal.getsignal(signal.SIGTERM) is before
    assert train_grpo(config).is_dir()
    tried("sigterm", 1)
