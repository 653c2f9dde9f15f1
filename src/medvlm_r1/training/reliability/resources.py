"""`UserError` messages for resource failures: out of memory, full disk, missing write permission."""

from __future__ import annotations

import errno
import os
import re
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from medvlm_r1.disk import describe_os_error
from medvlm_r1.errors import UserError
from medvlm_r1.training import options
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.reliability.checkpoint import numbered

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
