"""Counts the work of a step: tokens and images through the model, and floating-point operations."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


class Counter:
    """Tokens through the language model and images through the tower, in generation and elsewhere.

    Args:
        models: Qwen2-VL models: the policy, and the reference if it is one of its own.
    """

    def __init__(self, *models: Any) -> None:
        self.phase = "update"
        self.tokens = {"generation": 0, "update": 0}
        self.images = {"generation": 0, "update": 0}
        self._handles = [
            part.register_forward_pre_hook(hook, with_kwargs=True)
            for model in models
            for part, hook in ((model.model.language_model, self._language), (model.model.visual, self._tower))
        ]

    def _language(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows, length = kwargs["inputs_embeds"].shape[:2]
        self.tokens[self.phase] += rows * length

    def _tower(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        grid = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        self.images[self.phase] += len(grid)

    def remove(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()


def _attention(query: Any, key: Any, value: Any, *args: Any, products: int, causal: bool) -> int:
    batch, heads, queries, width = query
    return int(products * 2 * batch * heads * queries * key[2] * width * (0.5 if causal else 1))


def _forward(query: Any, key: Any, value: Any, dropout: float = 0, causal: bool = False, **_: Any) -> int:
    return _attention(query, key, value, products=2, causal=causal)


def _backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **_: Any) -> int:
    # Scores once more, then the gradients of values, scores, queries and keys.
    return _attention(query, key, value, products=5, causal=bool(rest[3]))


def _linear(rows: Any, weight: Any, *args: Any, **_: Any) -> int:
    return int(2 * prod(rows) * weight[0])


def operations() -> FlopCounterMode:
    """A context that counts the floating-point operations of matrix products, a multiplication and an addition as two.

    PyTorch's counter, which does not know its attention on CPUs nor oneDNN's products; these are added, a causal
    attention as half.
    """
    names = "_scaled_dot_product_flash_attention_for_cpu"
    known: dict[Any, Callable[..., int]] = {
        getattr(aten, names): _forward,
        getattr(aten, f"{names}_backward"): _backward,
        torch.ops.mkldnn._linear_pointwise: _linear,
    }
    return FlopCounterMode(display=False, custom_mapping=known)


def matrix_peak(dtype: torch.dtype, device: torch.device, size: int = 2048, tries: int = 5) -> float:
    """Floating-point operations a second of the fastest of a few large matrix products."""
    import time

    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(tries + 1):
        begun = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best
