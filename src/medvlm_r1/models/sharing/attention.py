"""Layout and attention of a packed row [prompt 1, its completions, prompt 2, its completions, ...]."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, slots=True)
class Layout:
    """Lengths of the prompts and completions in a packed row."""

    groups: tuple[tuple[int, tuple[int, ...]], ...]
    """For each prompt, its number of tokens and those of its completions; all are above 0."""

    def segments(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (group, index in group, length, number of prompt tokens before it) of each segment, in packed order.

        Index 0 is the prompt of the group; the others are its completions.
        """
        for group, (prompt, completions) in enumerate(self.groups):
            yield group, 0, prompt, 0
            for number, length in enumerate(completions, 1):
                yield group, number, length, prompt

    def sizes(self) -> list[int]:
        """Lengths of all segments, in packed order."""
        return [length for _, _, length, _ in self.segments()]


def dense_mask(
    layout: Layout, *, dtype: torch.dtype, device: torch.device, window: int | None = None, blocks: Tensor | None = None
) -> Tensor:
    """Dense attention mask of a packed row, which is added to the scores.

    Args:
        layout: Layout of the packed row of L tokens.
        dtype: Dtype of the scores.
        device: Device of the scores.
        window: Sliding window in tokens of [prompt, completion], including the token itself; None for no window.
        blocks: (L,) index of the image that each token belongs to, -1 for text. Tokens of an image attend to each
            other in both directions. None for causal attention within images.

    Returns:
        (1, 1, L, L): 0 where the query (row) attends to the key (column), minus infinity elsewhere.
    """

    def per_token(values: Sequence[int]) -> Tensor:
        # Computed on the CPU, because the length of the result depends on the values.
        return torch.tensor(values).repeat_interleave(torch.tensor(layout.sizes())).to(device)

    segments = list(layout.segments())
    group, number = per_token([s[0] for s in segments]), per_token([s[1] for s in segments])
    order = torch.cat([torch.arange(before, before + length) for _, _, length, before in segments]).to(device)
    distance = order[:, None] - order
    allowed = distance >= 0
    if blocks is not None:
        allowed |= (blocks[:, None] == blocks) & (blocks >= 0)
    if window is not None:
        allowed &= distance < window
    allowed &= (group[:, None] == group) & ((number == 0) | (number[:, None] == number))
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, -torch.inf)[None, None]


class PrefixMask(torch.Tensor):
    """Mask of shape (1, 1, L, L) that takes no memory and makes SDPA compute only the allowed blocks.

    It works like PyTorch's `torch.nn.attention.bias.CausalBias`. The layers pass it on like any other mask, even under
    gradient checkpointing. The configuration of the model does not change.
    """

    packing: Layout  # torch.Tensor has an attribute `layout`
    _stored: dict[tuple[int, int], Tensor]

    @staticmethod
    def __new__(cls, layout: Layout, device: torch.device) -> PrefixMask:
        """Make a tensor of shape (1, 1, L, L) by expanding a single value, so it takes no memory."""
        length = sum(layout.sizes())
        return torch.Tensor._make_subclass(
            cls, torch.ones((), dtype=torch.bool, device=device).expand(1, 1, length, length)
        )

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.packing = layout
        self._stored = {}

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

    def for_completion(self, length: int, before: int, like: Tensor) -> Tensor | None:
        """The `completion_mask` of these lengths, cached for all layers; None for one token, which sees every key."""
        if length == 1:
            return None
        if (length, before) not in self._stored:
            self._stored[length, before] = completion_mask(length, before, dtype=like.dtype, device=like.device)
        return self._stored[length, before]


def completion_mask(length: int, before: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Causal mask of a completion over the keys [prompt, completion]; the last query sees every key.

    Args:
        length: Number of tokens of the completion.
        before: Number of tokens of the prompt.
        dtype: Dtype of the scores.
        device: Device of the scores. On "cuda", the mask stores no values, and SDPA runs flash or memory-efficient
            kernels. On a CPU, SDPA would materialize such a mask in every layer. A dense mask, which is added to the
            scores, took 7 to 15 % less time there.

    Returns:
        Mask of shape (length, before + length).
    """
    if device.type == "cuda":
        return causal_lower_right(length, before + length)
    return torch.full((length, before + length), -torch.inf, dtype=dtype, device=device).triu_(before + 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: PrefixMask, **options: Any) -> Tensor:
    """Attention over the allowed blocks; tensors are (1, heads, L, head width)."""
    device = query.device.type
    if torch.is_autocast_enabled(device):
        # Cast once here. Autocast would cast the prompt's keys and values again for each completion.
        query, key, value = (states.to(torch.get_autocast_dtype(device)) for states in (query, key, value))
    sizes = attn_mask.packing.sizes()
    # One split instead of a slice per segment: its backward writes each gradient once.
    segments = zip(
        attn_mask.packing.segments(), *(torch.split(t, sizes, dim=2) for t in (query, key, value)), strict=True
    )
    outputs = []
    prompt_key = prompt_value = query.new_empty(0)
    options.pop("is_causal", None)
    for (_, number, length, before), q, k, v in segments:
        if number == 0:
            prompt_key, prompt_value = k, v
            output = scaled_dot_product_attention(q, k, v, is_causal=True, **options)
        else:
            k, v = torch.cat((prompt_key, k), dim=2), torch.cat((prompt_value, v), dim=2)
            output = scaled_dot_product_attention(
                q, k, v, attn_mask=attn_mask.for_completion(length, before, q), **options
            )
        # The output projection reads (tokens, heads), so this order avoids a copy.
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1).transpose(1, 2)
