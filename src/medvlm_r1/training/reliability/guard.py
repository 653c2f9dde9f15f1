"""Graceful stop on Ctrl-C and SIGTERM, resource failures as `UserError`, and the NaN guard.

The NaN guard aborts training on a NaN or Inf loss, gradient or weight before it is applied or saved.

Without this guard, transformers replaces such a loss in its logs with the mean of earlier ones
(`logging_nan_inf_filter`) and still takes the optimizer step. From then on every weight is NaN, including those in
checkpoints.
"""

import errno
import math
import os
import re
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback

from medvlm_r1.disk import describe_os_error
from medvlm_r1.errors import UserError
from medvlm_r1.rewards.completion import completion_text
from medvlm_r1.stopping import Preempted
from medvlm_r1.training import options
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.reliability.checkpoint import AtomicCheckpoints, between_generations, numbered

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


SAMPLE_ID = "sample_id"
_MAX_IDS = 8
# torch's message when it samples from NaN or Inf logits.
_NO_DISTRIBUTION = "probability tensor contains either"


class NonFinite(UserError):
    """Raised if a loss, gradient, weight or logit is NaN or Inf, or if a reward is infinite."""


class NanGuard(Trainer):  # type: ignore[misc]
    """Mixin that raises `NonFinite` on a NaN or Inf loss, gradient or weight.

    List it before a transformers `Trainer` in the base classes. An infinite reward also raises
    `NonFinite`. With fp16, gradients are not checked, because the loss scaler provokes infinite gradients to find its
    scale and skips those steps itself.
    """

    _sample_ids: tuple[str, ...] = ()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Compute the loss of a micro-batch and accumulate its gradients.

        Raises:
            NonFinite: The loss is NaN or Inf, the logits used for sampling are NaN or Inf, or a reward is infinite.
        """
        self._sample_ids = _ids(inputs)
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except RuntimeError as error:
            if _NO_DISTRIBUTION not in str(error):
                raise
            raise NonFinite(_report(self, "the distribution of the next token", "NaN or Inf")) from error
        # Rewards are checked here, because TRL replaces the advantages of an infinite reward with 0.
        for name, rewards in getattr(self, "_logs", {}).get("rewards", {}).items():
            if any(map(math.isinf, rewards)):
                raise NonFinite(_report(self, f"a reward {name}", next(filter(math.isinf, rewards))))
        if not torch.isfinite(loss).all():
            raise NonFinite(_report(self, "the loss", loss.item()))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # DeepSpeed reports NaN and Inf as -1.
        if norm is not None and self.accelerator.scaler is None and not 0 <= float(norm) < math.inf:
            raise NonFinite(_report(self, "the norm of the gradient", float(norm)))
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        refuse_unless_finite(self)
        super()._save_checkpoint(model, trial)

    def _prepare_inputs(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping) and SAMPLE_ID in inputs:
            inputs = {name: value for name, value in inputs.items() if name != SAMPLE_ID}
        return super()._prepare_inputs(inputs)


class ReliableTrainerMixin(NanGuard, AtomicCheckpoints):
    """Mixin with the NaN guard, atomic checkpoints and exact restore of weights.

    List it before a TRL trainer in the base classes.
    """


class NamedBatches:
    """Collator that adds the sample ids to each batch, for error messages. `NanGuard` removes them again."""

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate a batch and add its sample ids."""
        ids = [row[SAMPLE_ID] for row in rows]
        return {**self._collate(rows), SAMPLE_ID: ids}


def refuse_unless_finite(trainer: Any) -> None:
    """Check that every weight is finite before the model is saved. Each process checks the shards it holds.

    Raises:
        NonFinite: A weight is NaN or Inf on some process. The message names the weight and the step.
    """
    named = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    names = gather_object([name for name, weight in named if not torch.isfinite(local_shard(weight)).all()])
    if names:
        raise NonFinite(_report(trainer, f"the weight {names[0]}", "not finite"))


def local_shard(weight: Any) -> torch.Tensor:
    """The part of a weight that this process holds: its ZeRO-3 (`ds_tensor`) or FSDP2 shard, or the whole weight."""
    shard: torch.Tensor = getattr(weight, "ds_tensor", weight)
    return shard.to_local() if isinstance(shard, DTensor) else shard


def _ids(inputs: Any) -> tuple[str, ...]:
    """Distinct sample ids of a batch, which is a list of rows (GRPO) or the output of `NamedBatches` (SFT)."""
    if isinstance(inputs, Mapping):
        ids = inputs.get(SAMPLE_ID, ())
    else:
        ids = [row[SAMPLE_ID] for row in inputs if SAMPLE_ID in row]
    return tuple(dict.fromkeys(ids))


def _report(trainer: Any, what: str, value: Any) -> str:
    args, state = trainer.args, trainer.state
    ids = trainer._sample_ids
    # DeepSpeed takes the optimizer step within the backward pass, so it may already be applied.
    reach = "saved" if trainer.is_deepspeed_enabled else "applied"
    more = f" and {len(ids) - _MAX_IDS} more" if len(ids) > _MAX_IDS else ""
    good = next((str(path) for _, path in numbered(Path(args.output_dir))), None)
    last = f"{good} is good, and a new run can start from it as 'model'" if good else "there is no checkpoint yet"
    lines = [
        f"After step {state.global_step} of {state.max_steps}, {what} is {value}. The batch: "
        f"{', '.join(ids[:_MAX_IDS]) or 'unknown'}{more}. It was not {reach}: {last}.",
        "Try in a new 'out' (the same command would fail again): a lower trainer.learning_rate "
        f"(now {args.learning_rate:g}), trainer.max_grad_norm (now {args.max_grad_norm:g}; 0 is none) or "
        f"trainer.warmup_steps{', bf16 instead of fp16' if args.fp16 else ''}; finite rewards; and a check "
        "of these samples (`medvlm-r1 data check`).",
    ]
    sample = last_completion(trainer)
    return " ".join(lines) + (f" {sample}" if sample else "")


def last_completion(trainer: Any, limit: int = 160) -> str | None:
    """One-line summary of the last completion, with its sample id and rewards; None if there is none (as in SFT)."""
    logs = getattr(trainer, "_logs", None)
    if not logs or not logs["completion"]:
        return None
    text = " ".join(completion_text(logs["completion"][-1]).split())
    text = text if len(text) <= limit else text[:limit] + "..."
    rewards = ", ".join(f"{name} {values[-1]:g}" for name, values in logs["rewards"].items() if values)
    names = logs["extra"].get(SAMPLE_ID)
    return f"A sample ({names[-1] if names else 'unknown'}; {rewards}): {text!r}."


_MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator|can't allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE
)
# Errors of torch's file writer, which do not contain the cause.
_TORCH_WRITE = re.compile(r"PytorchStreamWriter|unexpected pos|basic_ios|iostream error")
_LITTLE = 1 << 20

# Function names in a traceback, the phase they belong to, and its description in the message.
_PHASES = (
    (re.compile(r"get_image_features|encode_images|_image_features"), "pixels", "while images went through the tower"),
    (re.compile(r"^(generate|_generate.*|n_per_prompt)$"), "completions", "while completions were written"),
    (re.compile(r"^(training_step|backward|_compute_loss|compute_loss)$"), "batch", "in the update"),
)


@contextmanager
def explained(config: RunConfig) -> Iterator[None]:
    """Convert resource failures in this context to a `UserError` that says what to reduce, free or repair.

    Args:
        config: Configuration of the current run.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Libraries written in Rust report a full disk with their own exception types.
        message = explain(error, config)
        if message is None:
            raise
        raise UserError(message) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether the exception is a failed memory allocation, in main memory or on a GPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _MEMORY.search(str(error)) is not None
    )


def explain(error: BaseException, config: RunConfig) -> str | None:
    """Message for a resource failure; None for other errors."""
    if out_of_memory(error):
        return _memory(error, config)
    out = Path(config.out)
    if _TORCH_WRITE.search(str(error)) and out.is_dir() and shutil.disk_usage(out).free < _LITTLE:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    message = describe_os_error(error)
    if message is None:
        return None
    checkpoints = numbered(out / "checkpoints")
    effect = f"resumes from {checkpoints[0][1].name}" if checkpoints else "starts again, as there is no checkpoint yet"
    return f"{out}: {message}. The same command then {effect}."


def _memory(error: BaseException, config: RunConfig) -> str:
    phase, where = _where(error)
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+|\d+ bytes)", str(error))
    amount = f" ({wanted.group(1)} more were asked for)" if wanted else ""
    levers = _levers(config)
    advice = "; ".join(filter(None, [levers.pop(phase, ""), *levers.values()]))
    return (
        f"Out of memory {where}{amount}. Lower, the first in the list first: {advice}. "
        "A changed configuration is another run: give it a new 'out' (it can start from a checkpoint of this one, "
        "named as 'model'). `--dry-run` estimates the memory of a configuration before it runs."
    )


def _levers(config: RunConfig) -> dict[str, str]:
    """Settings that reduce memory use, with their current values, by topic."""

    def now(name: str) -> str:
        return f"trainer.{name} (now {options.value(config.method, config.trainer, name)})"

    levers = {
        "batch": f"batch: {now('per_device_train_batch_size')} with {now('gradient_accumulation_steps')} raised alike"
    }
    if config.method == "grpo":
        levers["completions"] = f"completions: {now('max_completion_length')} or {now('num_generations')}"
    levers["pixels"] = f"pixels: max_pixels (now {config.max_pixels or 'the bound of the processor'})"
    checkpointing = options.value(config.method, config.trainer, "gradient_checkpointing")
    rest = [] if checkpointing else ["trainer.gradient_checkpointing=true"]
    rest += [] if config.lora else ["adapters instead of full weights (lora: {r: 16})"]
    return levers | {"model": " or ".join(rest)}


def _where(error: BaseException) -> tuple[str, str]:
    """Phase in which a failure happened and its description, from the function names in the traceback."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for pattern, phase, words in _PHASES:
            if pattern.search(frame.f_code.co_name):
                return phase, words
    return "model", "while the model was loaded, moved or written"
