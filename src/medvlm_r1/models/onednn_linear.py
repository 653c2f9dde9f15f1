"""Pre-packed oneDNN linear layers for float32 CPU inference.

PyTorch computes float32 products with MKL, which packs the weights again at every call. For the few rows of a decoding
step, oneDNN with weights packed once took a third to a half of MKL's time (AMD EPYC). Sums have the same precision but
another order.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Limit for the packed copies. Weights beyond it are packed for every product, which is still faster than MKL.
_MOST_BYTES = 1 << 30
# Threads that use the same model must not replace a layer's `forward` at the same time.
_LOCK = threading.Lock()


@contextmanager
def fast_inference(model: Any) -> Iterator[None]:
    """Run the linear layers of a model with oneDNN. The weights must not change inside the context.

    This applies to float32 layers on the CPU. Sharded or replaced (for example quantized) layers are left unchanged.
    If gradients are enabled, nothing is changed. Contexts may be nested.
    """
    changed: list[nn.Linear] = []
    try:
        with _LOCK:
            changed = _replace_forward(model)
        yield
    finally:
        with _LOCK:
            for module in changed:
                del module.forward


def _replace_forward(model: Any) -> list[nn.Linear]:
    """Replace `forward` of the layers that oneDNN can compute; return them."""
    changed: list[nn.Linear] = []
    if not torch.backends.mkldnn.is_available() or torch.is_grad_enabled():  # type: ignore[no-untyped-call]
        return changed
    room = _MOST_BYTES
    known: dict[int, Tensor] = {}
    for module in filter(_takes, model.modules()):
        weight = module.weight.detach()
        packed = known.get(weight.data_ptr(), weight)
        if packed is weight and room >= weight.nbytes:
            room -= weight.nbytes
            packed = known[weight.data_ptr()] = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        module.forward = _product(module, packed)
        changed.append(module)
    return changed


def _takes(module: nn.Module) -> bool:
    if type(module) is not nn.Linear or "forward" in vars(module) or module._forward_pre_hooks:
        return False
    weight = module.weight
    plain = type(weight) is nn.Parameter and type(weight.data) is Tensor
    return plain and weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() > 0


def _product(module: nn.Linear, weight: Tensor) -> Callable[[Tensor], Tensor]:
    plain, bias = type(module).forward, None if module.bias is None else module.bias.detach()

    def forward(rows: Tensor) -> Tensor:
        supported = rows.dtype == torch.float32 and rows.ndim > 1 and rows.numel() > 0
        # Under autocast, the result has another dtype than the rows.
        if torch.is_grad_enabled() or not supported or torch.is_autocast_enabled("cpu"):
            return plain(module, rows)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return result

    return forward
