"""The self-check passes on this machine, and every planted fault makes a line fail."""

import dataclasses
import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvlm_r1.errors import UserError
from medvlm_r1.models.families import FAMILIES
from medvlm_r1.models.sharing import forward
from medvlm_r1.training.self_check import run, steps
from medvlm_r1.training.self_check.equality import compare

TYPES = (torch.float32, torch.bfloat16)


def lines(check):
    return {line.check: line for line in run.run_check(check, "cpu")}


def test_every_family_agrees_in_both_types():
    report = lines("equality")
    assert len(report) == 2 * len(FAMILIES)
    assert {line.status for line in report.values()} == {"pass"}, report


def _mask_off_by_one(patch):
    plain = forward.dense_mask
    patch.setattr(forward, "dense_mask", lambda *args, **options: plain(*args, **options).roll(1, dims=-1))


def _dropped_image(patch):
    patch.setattr(forward, "encode_images", lambda model, vision: [])


def _positions_off_by_one(patch):
    plain = forward._positions

    def moved(*args):
        positions = plain(*args)
        return torch.cat([positions[..., :-4], positions[..., -4:] + 1], dim=-1)

    patch.setattr(forward, "_positions", moved)


@pytest.mark.parametrize("plant", [_mask_off_by_one, _dropped_image, _positions_off_by_one])
@pytest.mark.parametrize("dtype", TYPES, ids=["float32", "bfloat16"])
def test_a_planted_fault_of_the_forward_fails(plant, dtype, monkeypatch):
    plant(monkeypatch)
    agrees, detail = compare("gemma3", dtype, "cpu")
    assert not agrees, detail


def test_a_check_that_raises_is_a_failing_line(monkeypatch):
    monkeypatch.setattr(forward, "_pack", lambda rows: 1 / 0)
    (line,) = run.run_check("equality", "cpu")
    assert line.status == "fail"
    assert line.detail == "ZeroDivisionError: division by zero"


@pytest.fixture
def short(monkeypatch):
    size = dataclasses.replace(steps.SIZES["cpu"], edge=56, completion=6, group=4, timed=1)
    monkeypatch.setitem(steps.SIZES, "cpu", size)


@pytest.mark.usefixtures("short")
def test_a_grpo_step_of_all_weights():
    report = lines("step")
    assert list(report) == ["GRPO step, full weights", "peak memory against the dry run", "save and reload, float32"]
    assert report["GRPO step, full weights"].status == "pass"
    assert "times as fast" in report["GRPO step, full weights"].detail
    assert report["save and reload, float32"].status == "pass"


@pytest.mark.usefixtures("short")
def test_a_lora_step_keeps_the_dtype_of_its_base(monkeypatch):
    assert {line.status for line in lines("lora").values()} == {"pass"}

    plain = steps.train_grpo

    def in_float32(*args, **options):
        folder = plain(*args, **options)
        file = folder / "model.safetensors"
        save_file({name: value.float() for name, value in load_file(file).items()}, file, {"format": "pt"})
        return folder

    monkeypatch.setattr(steps, "train_grpo", in_float32)
    line = lines("lora")["save and reload, bfloat16"]
    assert line.status == "fail"
    assert "105 of 105 tensors are torch.float32, in the base torch.bfloat16" in line.detail


def test_a_saved_model_with_other_names_or_nothing_trained(tmp_path):
    for name, tensors in {
        "base": {"a": torch.ones(2)},
        "same": {"a": torch.ones(2)},
        "renamed": {"model.a": torch.zeros(2)},
    }.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    with pytest.raises(UserError, match="nothing was trained"):
        steps.check_saved(tmp_path / "same", tmp_path / "base")
    with pytest.raises(UserError, match="2 tensor names differ"):
        steps.check_saved(tmp_path / "renamed", tmp_path / "base")


def test_a_process_that_dies_or_hangs_is_a_failing_line(monkeypatch):
    def died(command, **_):
        return subprocess.CompletedProcess(command, -9, "", "Killed\n")

    monkeypatch.setattr(run.subprocess, "run", died)
    assert "code -9: Killed" in run.run_all(["step"], "cpu", lambda *_: None)[0].detail

    def hangs(command, **_):
        raise subprocess.TimeoutExpired(command, run.TIMEOUT)

    monkeypatch.setattr(run.subprocess, "run", hangs)
    (line,) = run.run_all(["step"], "cpu", lambda *_: None)
    assert (line.status, line.detail) == ("fail", f"no result after {run.TIMEOUT} s")


def test_the_command_writes_a_report(command, tmp_path):
    code, out, err = command("doctor", "--check", "vllm", "--check", "fsdp2", "--out", tmp_path, "--json")
    assert code == 0, err
    report = json.loads((tmp_path / "doctor.json").read_text())
    assert json.loads(out) == report
    assert [(line["check"], line["status"]) for line in report["lines"]] == [
        ("GRPO step, vLLM colocated", "not available"),
        ("FSDP2, world size 1", "pass"),
    ]
    assert "| FSDP2, world size 1 | pass |" in (tmp_path / "doctor.md").read_text()


def test_a_failing_line_is_exit_code_1(command, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "run_all", lambda *_: [run.Line("FSDP2, world size 1", "fail", "why")])
    code, out, err = command("doctor", "--out", tmp_path)
    assert code == 1
    assert "fail           why" in out
    assert "1 of 1 checks failed: FSDP2, world size 1" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(command):
    code, _, err = command("doctor", "--gpu")
    assert code == 1
    assert "torch sees no GPU" in err
