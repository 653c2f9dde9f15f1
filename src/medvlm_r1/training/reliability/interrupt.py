"""Graceful stop on Ctrl-C and SIGTERM: finish the step, save a checkpoint, exit. A second Ctrl-C quits at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from transformers import TrainerCallback

from medvlm_r1.stopping import Preempted
from medvlm_r1.training.reliability.checkpoint import between_generations

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop(TrainerCallback):  # type: ignore[misc]
    """Context manager around a training run, which is also a callback of its trainer.

    A signal during training stops the run after the current step and any further steps that use the same completions.
    Before and after training, a signal stops the process at once.

    Attributes:
        stopped_at: Step after which a signal stopped the run with a checkpoint; None if the run was not stopped.
    """

    def __init__(self) -> None:
        self.stopped_at: int | None = None
        self._signal = 0
        self._stepping = False
        self._trainer: Any = None
        self._before: dict[signal.Signals, Any] = {}

    def attach(self, trainer: Any) -> None:
        """Set the trainer, which is created after the context is entered."""
        self._trainer = trainer

    def __enter__(self) -> Self:
        # Python allows signal handlers in the main thread only; elsewhere the caller handles signals.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if isinstance(error, KeyboardInterrupt) and self._signal == signal.SIGTERM:
            raise Preempted(str(error) or "Stopped between the steps; the same command resumes.") from error

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self._stepping:
            self._signal = number
            # Not a UserError, because libraries catch every Exception.
            raise KeyboardInterrupt
        if self._signal:
            # A launcher may forward SIGTERM twice; a second Ctrl-C is deliberate.
            if number == signal.SIGINT:
                self._signal = number
                raise KeyboardInterrupt("Quit at once; the last checkpoint is intact.")
            return
        self._signal = number
        # Not `print`, which is not reentrant.
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _STOPPING)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start deferring signals to the end of a step."""
        self._stepping = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop deferring signals. From now on they stop the process at once."""
        self._stepping = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save a checkpoint and stop all processes if any of them received a signal."""
        if args.world_size > 1:
            signals = torch.tensor(self._signal, device=args.device)
            torch.distributed.all_reduce(signals, op=torch.distributed.ReduceOp.MAX)
            self._signal = int(signals.item())
        if self._signal and state.global_step < state.max_steps and between_generations(self._trainer):
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True


_STOPPING = b"\nStopping after this step with a checkpoint; Ctrl-C once more to quit at once.\n"
