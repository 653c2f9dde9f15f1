"""Where everything lies in a packed row [prompt 1, its completions, prompt 2, its completions, ...]."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, slots=True)
class Layout:
    """Where prompts and completions lie in the packed row."""

    groups: tuple[tuple[int, tuple[int, ...]], ...]
    """For each prompt its tokens, and those of each of its completions; none is 0."""

    def segments(self) -> Iterator[tuple[int, int, int, int]]:
        """Group, number in the group (0 is the prompt), tokens and tokens before it in its own row, in packed order."""
        for group, (prompt, completions) in enumerate(self.groups):
            yield group, 0, prompt, 0
            for number, length in enumerate(completions, 1):
                yield group, number, length, prompt

    def sizes(self) -> list[int]:
        """Tokens of every segment, in packed order."""
        return [length for _, _, length, _ in self.segments()]

    def blocks(self) -> Iterator[tuple[slice, slice, list[slice]]]:
        """For each prompt the places of its tokens, of those of all its completions, and of those of each."""
        start = 0
        for prompt, completions in self.groups:
            first = end = start + prompt
            each = []
            for length in completions:
                each.append(slice(end, end + length))
                end += length
            yield slice(start, first), slice(first, end), each
            start = end


def dense_mask(
    layout: Layout, *, dtype: torch.dtype, device: torch.device, window: int | None = None, blocks: Tensor | None = None
) -> Tensor:
    """The mask written out, to be added to the attention scores.

    Args:
        layout: of the packed row of L tokens.
        dtype: of the scores.
        device: of the scores.
        window: a token sees this many tokens of its own row, itself among them; all before it when None.
        blocks: (L,), the number of the image a token belongs to, -1 for text; the tokens of one image see each other
            both ways.

    Returns:
        (1, 1, L, L): 0 where the query (row) sees the key (column), minus infinity elsewhere.
    """

    def per_token(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=device).repeat_interleave(torch.tensor(layout.sizes(), device=device))

    segments = list(layout.segments())
    group, number = per_token([s[0] for s in segments]), per_token([s[1] for s in segments])
    order = torch.cat([torch.arange(before, before + length) for _, _, length, before in segments]).to(device)
    distance = order[:, None] - order
    seen = distance >= 0
    if blocks is not None:
        seen |= (blocks[:, None] == blocks) & (blocks >= 0)
    if window is not None:
        seen &= distance < window
    seen &= (group[:, None] == group) & ((number == 0) | (number[:, None] == number))
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)[None, None]


class PrefixMask(torch.Tensor):
    """A mask of shape (1, 1, L, L) without storage, which SDPA answers by computing the allowed blocks alone.

    PyTorch's own `torch.nn.attention.bias.CausalBias` works the same way. The layers pass it on like any mask, also
    when gradient checkpointing runs them again, and the model's configuration stays untouched.
    """

    packing: Layout  # `layout` is taken by torch.Tensor
    _own: dict[tuple[int, int], Tensor]

    @staticmethod
    def __new__(cls, layout: Layout, device: torch.device) -> PrefixMask:
        """One number seen as (1, 1, length, length), so that the mask takes no memory."""
        length = sum(layout.sizes())
        return torch.Tensor._make_subclass(
            cls, torch.ones((), dtype=torch.bool, device=device).expand(1, 1, length, length)
        )

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.packing = layout
        self._own = {}

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            return _attend(*args, **(kwargs or {}))
        out = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        if isinstance(out, torch.Tensor):
            raise RuntimeError(f"{func} reads a PrefixMask, whose values are not stored; only SDPA can.")
        return out

    def own_part(self, length: int, before: int, like: Tensor) -> Tensor | None:
        """The mask of one completion over the keys [prompt, completion]; None when it hides nothing."""
        if length == 1:
            return None
        if (length, before) not in self._own:
            hidden = torch.full((length, before + length), -torch.inf, dtype=like.dtype, device=like.device)
            self._own[length, before] = hidden.triu_(before + 1)
        return self._own[length, before]


def _attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: PrefixMask, **options: Any) -> Tensor:
    """Attention over the allowed blocks; tensors (1, heads, L, width of a head)."""
    if joins(query, key, value) and not options.get("dropout_p") and not options.get("enable_gqa"):
        return joined_attention(query, key, value, attn_mask.packing, options.get("scale"))
    sizes = attn_mask.packing.sizes()
    # One split, not a slice for each segment: its backward writes every gradient once.
    parts = zip(attn_mask.packing.segments(), *(torch.split(t, sizes, dim=2) for t in (query, key, value)), strict=True)
    done = []
    prompt_key = prompt_value = query.new_empty(0)
    options.pop("is_causal", None)
    for (_, number, length, before), q, k, v in parts:
        if number == 0:
            prompt_key, prompt_value = k, v
            part = scaled_dot_product_attention(q, k, v, is_causal=True, **options)
        else:
            k, v = torch.cat((prompt_key, k), dim=2), torch.cat((prompt_value, v), dim=2)
            part = scaled_dot_product_attention(q, k, v, attn_mask=attn_mask.own_part(length, before, q), **options)
        # Heads inside tokens is the order the output projection reads; joined so, it needs no copy.
        done.append(part.transpose(1, 2))
    return torch.cat(done, dim=1).transpose(1, 2)


_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def joins(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether PyTorch's kernel that gives the log-sum-exp takes these, and joining adds no rounding."""
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.float64)
        and query.dtype == key.dtype == value.dtype
        and query.shape == key.shape == value.shape
        and not torch.is_autocast_enabled("cpu")
    )


def joined_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float | None = None) -> Tensor:
    """Attention over the blocks that `layout` allows.

    Args:
        query: (1, heads, L, width of a head), as `joins` takes it; the other two alike.
        key: beside it.
        value: beside it.
        layout: of the packed row of L tokens.
        scale: of the scores; one over the root of the width when None.

    Returns:
        (1, heads, L, width of a head), in memory with the heads inside the tokens.
    """
    result: Tensor = _Joined.apply(query, key, value, layout, scale)
    return result


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float | None) -> Tensor:
        query, key, value = (_plain(tensor) for tensor in (query, key, value))
        # Heads inside tokens is the order the output projection reads.
        out = query.new_empty(query.transpose(1, 2).shape).transpose(1, 2)
        lse = query.new_empty(query.shape[:3])

        def attend(rows: slice, seen: slice, *, causal: bool) -> tuple[Tensor, Tensor]:
            parts = query[:, :, rows], key[:, :, seen], value[:, :, seen]
            found: tuple[Tensor, Tensor] = _forward(*parts, 0.0, causal, scale=scale)
            return found

        for prompt, completions, each in layout.blocks():
            out[:, :, prompt], lse[:, :, prompt] = attend(prompt, prompt, causal=True)
            if not each:
                continue
            to_prompt, its_lse = attend(completions, prompt, causal=False)
            for own in each:
                place = slice(own.start - completions.start, own.stop - completions.start)
                to_own, own_lse = attend(own, own, causal=True)
                share = torch.sigmoid(its_lse[:, :, place] - own_lse)[..., None]
                out[:, :, own] = torch.lerp(to_own, to_prompt[:, :, place], share.to(to_own))
                lse[:, :, own] = torch.logaddexp(its_lse[:, :, place], own_lse)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        grad = _plain(grad)
        to_query, to_key, to_value = (torch.empty_like(tensor) for tensor in (query, key, value))

        def gradients(rows: slice, seen: slice, *, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            parts = (grad[:, :, rows], query[:, :, rows], key[:, :, seen], value[:, :, seen])
            found: tuple[Tensor, Tensor, Tensor] = _backward(
                *parts, out[:, :, rows], lse[:, :, rows], 0.0, causal, scale=ctx.scale
            )
            return found

        for prompt, completions, each in ctx.layout.blocks():
            to_query[:, :, prompt], of_key, of_value = gradients(prompt, prompt, causal=True)
            if each:
                to_query[:, :, completions], more_key, more_value = gradients(completions, prompt, causal=False)
                of_key, of_value = of_key.add_(more_key), of_value.add_(more_value)
            to_key[:, :, prompt], to_value[:, :, prompt] = of_key, of_value
            for own in each:
                of_query, to_key[:, :, own], to_value[:, :, own] = gradients(own, own, causal=True)
                to_query[:, :, own].add_(of_query)
        return to_query, to_key, to_value, None, None


def _plain(tensor: Tensor) -> Tensor:
    """The kernel reads the width of a head as neighbours."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
