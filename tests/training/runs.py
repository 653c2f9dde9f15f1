"""What tests read of a run, and a way to act in the midst of one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def rows(file: Path, *without: str) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, without some of their fields."""
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    return [{name: value for name, value in row.items() if name not in without} for row in found]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in a model folder."""
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    """Whether two model folders hold equal weights."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class At:
    """A progress display that does something after a step; by default Ctrl-C."""

    def __init__(self, step: int, act: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGINT)) -> None:
        self.calls: list[tuple[int, int, dict[str, float]]] = []
        self._step = step
        self._act = act

    def on_step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        self.calls.append((step, total, dict(logs)))
        # The report of a step comes before that of its figures; acting then leaves nothing to chance.
        if step == self._step and not logs:
            self._act()
