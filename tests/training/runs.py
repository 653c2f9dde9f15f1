"""What tests read of a run, and a way to act in the midst of one."""

import json
import os
import signal

import torch
from safetensors.torch import load_file


def rows(file, *without):
    """The rows of a JSON-lines file, without some of their fields."""
    parsed = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    return [{name: value for name, value in row.items() if name not in without} for row in parsed]


def weights(folder):
    """The weights in a model folder."""
    return load_file(folder / "model.safetensors")


def same_weights(folder, other):
    """Whether two model folders hold equal weights."""
    a, b = weights(folder), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class At:
    """A progress display that does something after a step; by default Ctrl-C."""

    def __init__(self, step, act=lambda: os.kill(os.getpid(), signal.SIGINT)):
        self.calls = []
        self._step = step
        self._act = act

    def on_step(self, step, total, logs):
        self.calls.append((step, total, dict(logs)))
        # The report of a step comes before that of its figures; acting then leaves nothing to chance.
        if step == self._step and not logs:
            self._act()
