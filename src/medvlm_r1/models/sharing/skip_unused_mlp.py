"""The last layer's feed-forward, run on the tokens whose states are read and on no others.

In the last layer a prompt's tokens have to be keys and values; what their feed-forward would give goes nowhere but into
the head, which reads the tokens before completion tokens alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_PARTS = ("gate_proj", "up_proj", "down_proj")


@contextmanager
def feeding_forward(inner: Any, read: Tensor) -> Iterator[None]:
    """Let the last layer's feed-forward give 0 for tokens that are not read.

    Layers that are run again by checkpointing, sharded or hooked, and feed-forwards that are more than three products
    (experts, say) stay as they are.

    Args:
        inner: a transformers image-text-to-text model, whose language model sees rows of tokens.
        read: (n,) places in each row.
    """
    layers = getattr(inner.get_decoder(), "layers", None)
    layer = layers[-1] if layers else None
    module = getattr(layer, "mlp", None)
    run_again = getattr(layer, "gradient_checkpointing", False) and torch.is_grad_enabled()
    if module is None or run_again or not _plain(module):
        yield
        return
    places = torch.unique(read)
    forward, here = module.forward, threading.get_ident()

    def on_some(states: Tensor) -> Tensor:
        if threading.get_ident() != here:
            # A server may ask the model something else meanwhile.
            whole: Tensor = forward(states)
            return whole
        some: Tensor = forward(states.index_select(1, places.to(states.device)))
        return torch.zeros_like(states, dtype=some.dtype).index_copy(1, places.to(states.device), some)

    module.forward = on_some
    try:
        yield
    finally:
        del module.forward


def _plain(module: nn.Module) -> bool:
    parts = {name for name, _ in module.named_children() if name != "act_fn"}
    return parts == set(_PARTS) and "forward" not in vars(module)
