"""Support for weights that are sharded over processes (FSDP2, ZeRO-3).

Sharded weights are gathered by collective operations in hooks of the modules. So every process has to run the same
modules in the same order, through the wrapped model, even if the processes have different rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch.distributed.fsdp import FSDPModule


def is_sharded(trainer: Any) -> bool:
    """Whether the weights of a trainer are sharded over processes."""
    return bool(trainer.is_fsdp_enabled or trainer._dist.is_zero3)


@contextmanager
def gathered(model: Any, *, reshards: bool) -> Iterator[None]:
    """Gather all weights of an FSDP2 model, so that processes may run different calls. Other models are unchanged.

    TRL does the same for ZeRO-3 (`ds3_gather_for_generation`), but lets FSDP2 gather its weights layer by layer.

    Args:
        model: The model with its wrappers.
        reshards: The run's `reshard_after_forward` setting, which is restored at the end.
    """
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if modules:
        # The first forward pass of the root module does this, but generation may call inner modules earlier.
        modules[0]._get_fsdp_state()._lazy_init()
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(reshards, recurse=False)
            module.reshard()


def forget_unused_renames(model: Any) -> None:
    """Keep only the tensor renames that loading has applied, so that saving restores the base model's tensor names.

    When transformers 5.23 loads a model under ZeRO-3, it keeps unused renames and later saves names such as
    `model.model.layers`. Its usual loading removes them.
    """
    conversions = getattr(model, "_weight_conversions", None)
    if conversions:
        model._weight_conversions = [conversion for conversion in conversions if conversion.was_used()]


def most_of_all(accelerator: Any, count: int) -> int:
    """The largest `count` over all processes. This is a collective operation."""
    return int(accelerator.gather(torch.tensor([count], device=accelerator.device)).max())


def blank_messages() -> list[dict[str, Any]]:
    """Chat messages with a small gray image, for a process whose rows have no image."""
    image = Image.new("RGB", (56, 56), (128, 128, 128))
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "-"}]}]
