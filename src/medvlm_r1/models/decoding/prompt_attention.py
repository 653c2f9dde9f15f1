"""Attention of new tokens to the prompt that several completions share, whose keys and values are read once for all.

A step of decoding is bound by what it reads. With a cache for each row, the keys and values of a prompt are read once
for every completion of it; here the completions' queries stand side by side and read them once (Hydragen,
arXiv 2402.05099), and each reads what it wrote itself. One softmax runs over both, so the result is that of plain
attention up to the order of sums. Scores are float32 whatever the type of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._pytree import tree_map
from transformers.cache_utils import DynamicLayer

from medvlm_r1.models.decoding.cache import InPlaceLayer


class Siblings:
    """Which rows belong to which prompt, as places in a table (prompts, most rows of one).

    Attributes:
        prompts: (prompts,) numbers of those that have rows, rising.
        owner: (rows,) the place of each row's prompt among them.
        most: Rows of the prompt that has most.
    """

    def __init__(self, prompt_of_row: Tensor) -> None:
        self.regroup(prompt_of_row)

    def regroup(self, prompt_of_row: Tensor) -> None:
        """Rows have gone or changed places: `prompt_of_row` (rows,) int64."""
        self.prompts, self.owner = torch.unique(prompt_of_row, return_inverse=True)
        owner, counts = self.owner, self.owner.bincount()
        self.most = int(counts.max())
        order = owner.argsort(stable=True)
        first = (counts.cumsum(0) - counts)[owner[order]]
        self._slot = torch.empty_like(order)
        self._slot[order] = owner[order] * self.most + torch.arange(len(order), device=order.device) - first
        places = torch.arange(len(self.prompts) * self.most, device=order.device)
        self._as_they_stand = torch.equal(self._slot, places)

    def side_by_side(self, rows: Tensor) -> Tensor:
        """From (rows, heads, n, width) to (prompts, heads, most * n, width), zeros where there is no row."""
        if not self._as_they_stand:
            table = rows.new_zeros(len(self.prompts) * self.most, *rows.shape[1:])
            rows = table.index_copy_(0, self._slot, rows)
        table = rows.view(len(self.prompts), self.most, *rows.shape[1:])
        return table.transpose(1, 2).flatten(2, 3)

    def by_row(self, table: Tensor) -> Tensor:
        """The way back."""
        prompts, heads, _, width = table.shape
        rows = table.view(prompts, heads, self.most, -1, width).transpose(1, 2).flatten(0, 1)
        return rows if self._as_they_stand else rows[self._slot]


# What can be told without a look at the values; anything else would see those of the stand-in.
_LOOKS = {
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")),
    *(getattr(torch.Tensor, name) for name in ("size", "dim", "numel", "__len__", "is_floating_point")),
}


class SharedStates(torch.Tensor):
    """Keys or values (rows, heads, prompt + own, width) of which the prompt's are stored once; SDPA reads them so.

    Anything else that reads them is given the whole tensor.
    """

    prompt: Tensor  # (prompts, heads, P, width)
    own: Tensor  # (rows, heads, T, width)
    siblings: Siblings

    @staticmethod
    def __new__(cls, prompt: Tensor, own: Tensor, siblings: Siblings) -> SharedStates:
        """One number seen in the shape of the whole, so that it takes no memory."""
        rows, heads, length, width = own.shape
        shape = (rows, heads, prompt.shape[2] + length, width)
        return torch.Tensor._make_subclass(cls, own.new_zeros(()).expand(shape))

    def __init__(self, prompt: Tensor, own: Tensor, siblings: Siblings) -> None:
        self.prompt, self.own, self.siblings = prompt, own, siblings

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and all(isinstance(one, cls) for one in args[1:3]):
            return _attend(*args, **kwargs)
        if func in _LOOKS:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        args, kwargs = tree_map(lambda one: one.whole() if isinstance(one, cls) else one, (args, kwargs))
        return func(*args, **kwargs)

    def whole(self) -> Tensor:
        """(rows, heads, prompt + own, width)."""
        with torch._C.DisableTorchFunctionSubclass():
            return torch.cat([self.prompt[self.siblings.owner], self.own], dim=2)


class SharedLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values: the prompts' once, and those of the rows in a layer of their own.

    Args:
        prompts: of the prompts, (prompts, heads, P, width), each with one row at least.
        siblings: which row belongs to which prompt; shared by the layers.
    """

    def __init__(self, prompts: DynamicLayer, siblings: Siblings) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = prompts.keys.dtype, prompts.keys.device, True
        self._prompts, self._siblings, self._kept = (prompts.keys, prompts.values), siblings, siblings.prompts
        begun = DynamicLayer()
        begun.keys, begun.values = prompts.keys[:, :, :0], prompts.values[:, :, :0]
        self._own = InPlaceLayer(begun, siblings.owner)
        self.keys, self.values = self._joined(self._own.keys, self._own.values)

    def _joined(self, keys: Tensor, values: Tensor) -> tuple[SharedStates, SharedStates]:
        if len(self._kept) > len(self._siblings.prompts):
            # A prompt whose rows have all ended need not be read on.
            still = torch.isin(self._kept, self._siblings.prompts)
            self._prompts, self._kept = (self._prompts[0][still], self._prompts[1][still]), self._siblings.prompts
        key, value = (
            SharedStates(prompt, own, self._siblings) for prompt, own in zip(self._prompts, (keys, values), strict=True)
        )
        return key, value

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take up the keys and values of new tokens; all are given back."""
        self.keys, self.values = self._joined(*self._own.update(key_states, value_states, *args, **kwargs))
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; `siblings` has been told."""
        self._own.batch_select_indices(indices)
        self.keys, self.values = self._joined(self._own.keys, self._own.values)


def _attend(
    query: Tensor,
    key: SharedStates,
    value: SharedStates,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention of one new token a row; `query` is (rows, heads, 1, width), or its heads by key head."""
    assert dropout_p == 0
    assert not is_causal
    # Autocast would turn the products back into a shorter type.
    with torch.autocast(query.device.type, enabled=False):
        siblings, (rows, heads, _, width) = key.siblings, key.shape
        queries = query.reshape(rows, heads, -1, width).float() * (width**-0.5 if scale is None else scale)
        asked = siblings.side_by_side(queries)
        to_prompt = siblings.by_row(asked @ key.prompt.float().transpose(2, 3))
        scores = torch.cat([to_prompt, queries @ key.own.float().transpose(2, 3)], dim=-1)
        if attn_mask is not None:
            blocked = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if blocked else scores + attn_mask.float()
        shares = scores.softmax(dim=-1)
        to_prompt, to_own = torch.split(shares, [key.prompt.shape[2], key.own.shape[2]], dim=-1)
        found = siblings.by_row(siblings.side_by_side(to_prompt) @ value.prompt.float()) + to_own @ value.own.float()
    return found.to(query.dtype).reshape(query.shape)
