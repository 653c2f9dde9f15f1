"""Ctrl-C and SIGTERM during a training: finish the step, save a checkpoint, stop. A second Ctrl-C quits at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self

import torch
from transformers import TrainerCallback

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop(TrainerCallback):  # type: ignore[misc]
    """Context manager around a training, and callback in it.

    Attributes:
        stopped_at: The step whose checkpoint was saved on request, None when the training ran to its end.
    """

    def __init__(self) -> None:
        self.stopped_at: int | None = None
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Python allows handlers in the main thread alone; elsewhere the caller handles signals.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt("Quit at once; the last checkpoint stands.")
        self._asked = True
        print("\nStopping after this step with a checkpoint; once more to quit at once.", file=sys.stderr, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask the trainer to log, save and stop when a signal came; all processes together."""
        asked = self._asked
        if args.world_size > 1:
            flag = torch.tensor(int(asked), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            asked = bool(flag.item())
        if asked and state.global_step < state.max_steps:
            self.stopped_at = state.global_step
            control.should_log = control.should_save = control.should_training_stop = True
