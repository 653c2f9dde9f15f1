"""The number of threads follows from the model's size, the load and the cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from medvlm_r1.models.device import SMALL, choose_threads, limit_threads
from medvlm_r1.models.load import load_policy


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
def test_small_models_get_one_thread_on_busy_cores(
    parameters: int, load: float, cores: int, threads: int, expected: int
) -> None:
    assert choose_threads(parameters, load=load, cores=cores, threads=threads) == expected


@pytest.mark.parametrize(("load", "variable", "expected"), [(50.0, "", 1), (50.0, "2", 2), (0.0, "", 2)])
def test_the_number_is_set_and_told(
    tiny_policy_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    load: float,
    variable: str,
    expected: int,
) -> None:
    model = load_policy(str(tiny_policy_dir), device="cpu").model
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        limit_threads(model)
        assert torch.get_num_threads() == expected
        limit_threads(model)
    finally:
        torch.set_num_threads(before)
    assert capsys.readouterr().err.count("load 50.0 on 2 cores") == (expected == 1)
