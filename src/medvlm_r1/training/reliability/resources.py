"""What a training says when the machine has no more of something: memory, room on the disk, leave to write."""

from __future__ import annotations

import errno
import os
import re
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from medvlm_r1.disk import describe_os_error
from medvlm_r1.errors import UserError
from medvlm_r1.training import options
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.reliability.checkpoint import numbered

_MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator|can't allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE
)
# torch's writer says no more than that it could not.
_TORCH_WRITE = re.compile(r"PytorchStreamWriter|unexpected pos|basic_ios|iostream error")
_LITTLE = 1 << 20

# Names of functions on the way to the failure, the nearest first, and what runs there.
_PLACES = (
    (re.compile(r"get_image_features|encode_images|_image_features"), "pixels", "while images went through the tower"),
    (re.compile(r"^(generate|_generate.*|several_of_each)$"), "completions", "while completions were written"),
    (re.compile(r"^(training_step|backward|_compute_loss|compute_loss)$"), "batch", "in the update"),
)


@contextmanager
def explained(config: RunConfig) -> Iterator[None]:
    """Turn what the machine refuses into a `UserError` that says what to lower, free or mend.

    Args:
        config: of the run that is under way.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # The libraries in Rust tell of a full disk by errors of their own kinds.
        said = explain(error, config)
        if said is None:
            raise
        raise UserError(said) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there, of the machine or of a GPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _MEMORY.search(str(error)) is not None
    )


def explain(error: BaseException, config: RunConfig) -> str | None:
    """What a failure of the machine means for a run; None when it is of another kind."""
    if out_of_memory(error):
        return _memory(error, config)
    out = Path(config.out)
    said = describe_os_error(error)
    if said is None and _torch_found_no_room(error, out):
        said = describe_os_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    return f"{out}: {said}. {_standing(out)}" if said else None


def _torch_found_no_room(error: BaseException, out: Path) -> bool:
    return bool(_TORCH_WRITE.search(str(error))) and out.is_dir() and shutil.disk_usage(out).free < _LITTLE


def _standing(out: Path) -> str:
    checkpoints = numbered(out / "checkpoints")
    stands = f"goes on from {checkpoints[0][1].name}" if checkpoints else "starts again, no checkpoint was there yet"
    return f"The same command then {stands}."


def _memory(error: BaseException, config: RunConfig) -> str:
    given = {name: options.value(config.method, config.trainer, name) for name in _options_of(config)}
    place, where = _where(error)
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+|\d+ bytes)", str(error))
    asked = f" ({wanted.group(1)} more were asked for)" if wanted else ""
    levers = _levers(config, given)
    order = {
        "pixels": ("pixels", "batch", "completions", "rest"),
        "completions": ("completions", "batch", "pixels", "rest"),
        "batch": ("batch", "completions", "pixels", "rest"),
        "model": ("rest", "batch", "completions", "pixels"),
    }[place]
    told = "; ".join(levers[name] for name in order if levers.get(name))
    return (
        f"Out of memory {where}{asked}. Lower, the first in the list first: {told}. A changed configuration is another "
        "run: give it a new 'out' (it can begin from a checkpoint of this one, named as 'model'). "
        "`--dry-run` estimates the memory of a configuration before it runs."
    )


def _options_of(config: RunConfig) -> tuple[str, ...]:
    common = ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
    return (*common, "max_completion_length", "num_generations") if config.method == "grpo" else common


def _levers(config: RunConfig, given: dict[str, Any]) -> dict[str, str]:
    """What can be lowered, with the present values."""
    rows, steps = given["per_device_train_batch_size"], given["gradient_accumulation_steps"]
    levers = {
        "batch": f"batch: trainer.per_device_train_batch_size (now {rows}) with trainer.gradient_accumulation_steps "
        f"(now {steps}) raised alike",
        "pixels": f"pixels: max_pixels (now {config.max_pixels or 'the bound of the processor'})",
    }
    if config.method == "grpo":
        levers["completions"] = (
            f"completions: trainer.max_completion_length (now {given['max_completion_length']}) or "
            f"trainer.num_generations (now {given['num_generations']})"
        )
    rest = [] if given["gradient_checkpointing"] else ["trainer.gradient_checkpointing=true"]
    rest += [] if config.lora else ["adapters in place of full weights (lora: {r: 16})"]
    levers["rest"] = " or ".join(rest)
    return levers


def _where(error: BaseException) -> tuple[str, str]:
    """The part of the work a failure came from, by the functions it passed through."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for pattern, place, words in _PLACES:
            if pattern.search(frame.f_code.co_name):
                return place, words
    return "model", "while the model was loaded, moved or written"
