"""Matrix products of a model that only answers, on a CPU in float32, by oneDNN with its weights laid out beforehand.

PyTorch gives float32 products to MKL, and lays a weight out anew at each. A few rows at a time, as decoding has them,
oneDNN with a layout made once took a third to a half of the time (AMD EPYC); sums are of the same precision, in another
order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Of copies with the other layout. Weights past it are laid out at each product, which is still the faster way.
_MOST_BYTES = 1 << 30


@contextmanager
def answering(model: Any, *, most_rows: int | None = None) -> Iterator[None]:
    """Let the linear layers of a model use oneDNN while it generates; its weights must not change meanwhile.

    Layers on other devices, of other types, sharded or replaced (a quantised one, say) stay as they are, and so does
    everything while gradients are wanted. Inside itself it does nothing more.

    Args:
        model: Any module.
        most_rows: Products of more rows stay with MKL. oneDNN keeps something of every shape it has met, which a server
            that reads prompts of all lengths would pay for in memory.
    """
    changed: list[nn.Linear] = []
    try:
        if torch.backends.mkldnn.is_available() and not torch.is_grad_enabled():  # type: ignore[no-untyped-call]
            room = _MOST_BYTES
            known: dict[int, Tensor] = {}
            for module in model.modules():
                if not _takes(module):
                    continue
                weight = module.weight.detach()
                laid_out = known.get(weight.data_ptr(), weight)
                if laid_out is weight and room >= weight.nbytes:
                    room -= weight.nbytes
                    laid_out = known[weight.data_ptr()] = torch.ops.mkldnn._reorder_linear_weight(weight, None)
                module.forward = _product(module, laid_out, most_rows)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def _takes(module: nn.Module) -> bool:
    if type(module) is not nn.Linear or "forward" in vars(module) or module._forward_pre_hooks:
        return False
    weight = module.weight
    plain = type(weight) is nn.Parameter and type(weight.data) is Tensor
    return plain and weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() > 0


def _product(module: nn.Linear, weight: Tensor, most_rows: int | None) -> Callable[[Tensor], Tensor]:
    plain, bias = type(module).forward, None if module.bias is None else module.bias.detach()

    def fits(rows: Tensor) -> bool:
        few = most_rows is None or rows.numel() <= most_rows * rows.shape[-1]
        return few and rows.dtype == torch.float32 and rows.ndim > 1 and rows.numel() > 0

    def forward(rows: Tensor) -> Tensor:
        # Under autocast a product is of another type than its rows.
        if torch.is_grad_enabled() or not fits(rows) or torch.is_autocast_enabled("cpu"):
            return plain(module, rows)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return result

    return forward
