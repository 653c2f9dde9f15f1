"""Who steps when: plain TRL at its fastest micro-batch, and this project's trainer, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch

from benchmarks.child import Child, OutOfMemory
from benchmarks.presets import Preset
from benchmarks.side import OURS, TRL, Written, serve
from medvlm_r1.training.dry_run.memory import machine_memory

Figures = dict[str, Any]
"""What a step took: see `side.py`."""
_NEAR, AGAIN = 1.1, 2
"""Micro-batches of TRL within this factor of the fastest are timed for so many more steps."""
_SHARE = 0.9
"""Of the memory, what both sides may take together."""


class Side(Child):
    """A trainer in another process."""

    def __init__(self, preset: Preset, model: str, side: str, micro: int, steps: int, written: Written) -> None:
        super().__init__(serve, preset, model, side, micro, steps, written)
        self.answer()

    def step(self, keep: Path | None = None) -> Figures:
        """One step; with `keep`, counted instead of timed, its gradients written there."""
        self.tell(None if keep is None else str(keep))
        return self.answer()


class Turns:
    """Both sides take turns, so that a machine that grows slow is slow for both.

    Where their memory does not fit together, each has the machine to itself: its process is made for its turn, warms
    up with a step, and ends.

    Args:
        start: Makes the process of a side.
        together: Whether both fit.
    """

    def __init__(self, start: Callable[[str], Side], *, together: bool) -> None:
        self._start, self._together = start, together
        self._stack = ExitStack()
        self._sides: dict[str, Side] = {}

    def step(self, side: str) -> Figures:
        """A timed step of one side."""
        if self._together:
            return self._sides[side].step()
        with self._start(side) as alone:
            alone.step()  # warms up
            return alone.step()

    def __enter__(self) -> Self:
        if self._together:
            for side in (TRL, OURS):
                self._sides[side] = self._stack.enter_context(self._start(side))
                self._sides[side].step()  # warms up
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()


def fit_together(sizes: Sequence[float]) -> bool:
    """Whether processes of so many bytes fit into the memory of the GPU, or of the machine without one.

    Resident sizes count shared pages more than once, so this errs towards no.
    """
    on_gpu = torch.cuda.is_available()
    memory = float(torch.cuda.get_device_properties(0).total_memory) if on_gpu else machine_memory()
    return sum(sizes) < _SHARE * memory


def fastest_first(
    micro_batches: Sequence[int], attempt: Callable[[int, int], list[Figures]]
) -> dict[int, list[Figures]]:
    """Steps at each micro-batch, the one with the fastest median first.

    One step cannot tell those apart that are near the fastest, so they are tried again, in the other order: a machine
    that grows slow is not taken for a slow micro-batch. One that needs more memory than there is has no steps.

    Args:
        micro_batches: Rows of a forward pass.
        attempt: Takes steps with so many rows, so many of them timed, and gives their figures, `step` in seconds.

    Raises:
        OutOfMemory: None of them fits.
    """
    tried: dict[int, list[Figures]] = {}
    for micro in micro_batches:
        try:
            tried[micro] = attempt(micro, 1)
        except OutOfMemory:
            tried[micro] = []
    if not any(tried.values()):
        raise OutOfMemory(f"Plain TRL ran out of memory with {min(micro_batches)} rows. Take a smaller preset.")
    bound = _NEAR * min(map(seconds, tried.values()))
    near = [micro for micro, steps in tried.items() if seconds(steps) <= bound]
    if len(near) > 1:
        for micro in reversed(near):
            tried[micro] = tried[micro] + attempt(micro, AGAIN)
    return dict(sorted(tried.items(), key=lambda item: (item[0] not in near, seconds(item[1]))))


def seconds(steps: Sequence[Mapping[str, Any]]) -> float:
    """The median of a step; infinite where there is none."""
    return float(statistics.median(figures["step"] for figures in steps)) if steps else float("inf")
