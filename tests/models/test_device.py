"""Choices that depend on the device, tested for a GPU without one."""

import os
from types import SimpleNamespace

import psutil
import pytest
import torch
from trl.trainer import utils as trl_utils

from medvlm_r1.evaluation.run import evaluate, identify
from medvlm_r1.models.device import SMALL, choose_threads, head_columns, inference_dtype, limit_threads
from medvlm_r1.models.load import load_policy
from medvlm_r1.training.dry_run import memory
from tiny_policy import build_tiny_adapter


@pytest.mark.parametrize(
    ("device", "stored", "dtype"),
    [
        ("cuda", "float32", "bfloat16"),
        ("cuda", None, "bfloat16"),
        ("cuda", "bfloat16", "bfloat16"),
        ("cuda", "float16", "float16"),
        ("mps", "float32", "float32"),
        ("mps", "bfloat16", "bfloat16"),
        ("cpu", "bfloat16", "float32"),
        ("cpu", None, "float32"),
    ],
)
def test_the_dtype_of_inference(device, stored, dtype):
    assert inference_dtype(device, stored) == dtype


def test_a_model_stored_in_float32_is_loaded_in_bfloat16_unless_told_otherwise(tiny_policy_dir):
    # The device without memory stands for a GPU.
    assert load_policy(str(tiny_policy_dir), device="meta").model.dtype == torch.bfloat16
    assert load_policy(str(tiny_policy_dir), device="meta", dtype="float32").model.dtype == torch.float32
    assert load_policy(str(tiny_policy_dir), device="cpu").model.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_a_merged_adapter_keeps_the_rotary_frequencies_of_its_base(half, tmp_path, dtype):
    build_tiny_adapter(half, tmp_path / "adapter")
    merged = load_policy(str(tmp_path / "adapter"), dtype=dtype, device="cpu").model
    assert {weight.dtype for weight in merged.parameters()} == {torch.bfloat16}
    base = dict(load_policy(str(half), dtype=dtype, device="cpu").model.named_buffers())
    for name, buffer in merged.named_buffers():
        torch.testing.assert_close(buffer, base[name], rtol=0, atol=0)


def test_answers_of_two_dtypes_are_not_mixed(tiny_policy_dir, data_dir, tmp_path):
    model = str(tiny_policy_dir)
    results = evaluate(model, data_dir, tmp_path / "run", max_new_tokens=2, limit=1, dtype="bfloat16")
    assert results["model_fingerprint"] == identify(model, dtype="bfloat16") == identify(model) + ":bfloat16"
    with pytest.raises(Exception, match="made with another model"):
        evaluate(model, data_dir, tmp_path / "run", max_new_tokens=2, limit=1)


def test_the_tiles_of_the_head():
    assert head_columns("cpu") == 512
    assert head_columns("cuda") == trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE == memory._TILE_PLAIN


def test_the_dry_run_counts_the_tile_of_the_device(monkeypatch):
    monkeypatch.setattr(memory, "activations", lambda *_, **__: 0.0)
    parameters = SimpleNamespace(total=1, adapters=0, largest=1, trained=1)
    shape = SimpleNamespace(hidden=8, vocabulary=50000, layers=1, keys=8, parameters=parameters, trains_head=False)

    def head(*, cpu, shared):
        steps = {"samples": 8, "accumulation": 1, "group": 4, "passes_per_generation": 1}
        run = memory.Run(rows=4, weights=4, compute=2, completion=2000, cpu=cpu, **steps)
        return memory.components(shape, SimpleNamespace(longest=9), run, shared=shared)["head"]

    hidden = 4.0 * 8000 * 8
    assert head(cpu=True, shared=True) - hidden == 4096 * 512 * 2
    assert head(cpu=False, shared=True) == head(cpu=False, shared=False) == 4096 * 32768 * 2 + hidden


@pytest.mark.parametrize(
    ("parameters", "load", "cores", "threads", "expected"),
    [
        (5_000_000, 0.0, 2, 2, 2),
        (5_000_000, 0.4, 2, 2, 2),
        (5_000_000, 0.6, 2, 2, 1),
        (5_000_000, 9.0, 2, 2, 1),
        (SMALL, 2.0, 2, 2, 1),
        (SMALL + 1, 2.0, 2, 2, 2),
        (2_000_000_000, 9.0, 2, 2, 2),
        (5_000_000, 3.0, 16, 8, 8),
        (5_000_000, 9.0, 16, 8, 1),
        (5_000_000, 9.0, 16, 1, 1),
        (5_000_000, 9.0, 1, 1, 1),
    ],
)
def test_small_models_get_one_thread_on_busy_cores(parameters, load, cores, threads, expected):
    assert choose_threads(parameters, load=load, cores=cores, threads=threads) == expected


@pytest.mark.parametrize(("percent", "variable", "expected"), [(90.0, "", 1), (90.0, "2", 2), (5.0, "", 2)])
def test_the_number_is_set_and_told(tiny_policy_dir, monkeypatch, capsys, percent, variable, expected):
    model = load_policy(str(tiny_policy_dir), device="cpu").model
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: percent)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    # A load average from work that ended decides nothing.
    monkeypatch.setattr(os, "getloadavg", lambda: (50.0, 50.0, 50.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        limit_threads(model)
        assert torch.get_num_threads() == expected
        limit_threads(model)
    finally:
        torch.set_num_threads(before)
    assert capsys.readouterr().err.count("1.8 of 2 cores") == (expected == 1)
