"""KV caches for decoding that are written in place and store a shared prompt only once.

The speed of a decoding step is limited by memory bandwidth. With one cache per row, the keys and values of a prompt are
read once per completion. Here they are read once for all completions of the prompt (Hydragen, arXiv 2402.05099). The
keys and values of later tokens are read per row. One softmax covers both, so the result equals plain attention up to
the order of sums. Scores are float32 for every model dtype.

`prefill` runs the prompts of a `generate` call once: on a CPU in chunks of about 4096 tokens, because the activations
of more tokens do not fit the CPU cache. 256 prompts of 133 tokens took 1.75 s at once, and 1.25 s in chunks of 32 (5
layers, width 192, two cores).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._pytree import tree_map
from transformers.cache_utils import DynamicLayer

from medvlm_r1.models.onednn_linear import fast_inference

# Number of tokens by which a cache grows, so that it is not copied for every token.
_GROWTH = 128


class RowSelection:
    """The rows that are kept and their new slots, computed once for all layers.

    Attributes:
        rows: (n,) the old row that each new slot receives. A row may occur several times and is then copied.
        slots: (m,) new slots whose old row has another index.
        sources: (m,) the old rows that these slots receive.
    """

    def __init__(self, rows: Sequence[int], device: torch.device) -> None:
        moved = [slot for slot, row in enumerate(rows) if slot != row]
        self.rows, self.slots, self.sources = (
            torch.tensor(list(indices), device=device, dtype=torch.long)
            for indices in (rows, moved, [rows[slot] for slot in moved])
        )

    def __len__(self) -> int:
        return len(self.rows)


class InPlaceLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer, (rows, heads, length, width), written in place into preallocated memory.

    Args:
        prompts: Keys and values of the prompts.
        prompt_of_row: (rows,) index of each row's prompt.
        most_rows: Number of rows to allocate memory for, if larger than the initial number.
    """

    def __init__(self, prompts: DynamicLayer, prompt_of_row: Tensor, most_rows: int = 0) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = prompts.keys.dtype, prompts.keys.device, True
        self._rows, self._length = len(prompt_of_row), prompts.keys.shape[-2]
        most = max(self._rows, most_rows)
        self._room = [self._grown(states[prompt_of_row], most) for states in (prompts.keys, prompts.values)]
        self._show()

    def _grown(self, states: Tensor, most_rows: int) -> Tensor:
        _, heads, length, width = states.shape
        room = states.new_empty((most_rows, heads, length + _GROWTH, width))
        room[: self._rows, :, :length] = states[: self._rows]
        return room

    def _show(self) -> None:
        self.keys, self.values = (room[: self._rows, :, : self._length] for room in self._room)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens; return those of all tokens."""
        end = self._length + key_states.shape[-2]
        if end > self._room[0].shape[-2]:
            self._room = [self._grown(room, len(room)) for room in self._room]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[: self._rows, :, self._length : end] = states
        self._length = end
        self._show()
        return self.keys, self.values

    def select(self, selection: RowSelection) -> None:
        """Keep these rows, in this order. Their number must not exceed the allocated rows."""
        self._rows = len(selection)
        for room in self._room:
            room[selection.slots, :, : self._length] = room[selection.sources, :, : self._length]
        self._show()


class GroupIndex:
    """Group index: the rows of each prompt, as slots in a table of shape (prompts, rows of the largest group).

    Attributes:
        prompts: Original indices of the prompts that have rows, in ascending order.
        remaining: (prompts,) index that each of them had in `prompts` before the last `regroup`.
        owner: (rows,) index of each row's prompt in `prompts`.
        most: Number of rows in the largest group.
    """

    def __init__(self, prompt_of_row: Sequence[int], device: torch.device) -> None:
        self._device = device
        self.prompts = sorted(set(prompt_of_row))
        self.regroup(prompt_of_row)

    def regroup(self, prompt_of_row: Sequence[int]) -> None:
        """Rebuild the index after rows were dropped or moved."""
        groups: dict[int, list[int]] = {prompt: [] for prompt in sorted(set(prompt_of_row))}
        for row, prompt in enumerate(prompt_of_row):
            groups[prompt].append(row)
        before = {prompt: index for index, prompt in enumerate(self.prompts)}
        self.prompts, self.most = list(groups), max(map(len, groups.values()))
        slots = [0] * len(prompt_of_row)
        for index, rows in enumerate(groups.values()):
            for number, row in enumerate(rows):
                slots[row] = index * self.most + number
        self._in_order = slots == list(range(len(groups) * self.most))
        self.remaining, self._slot, self.owner = (
            torch.tensor(values, device=self._device)
            for values in ([before[prompt] for prompt in groups], slots, [slot // self.most for slot in slots])
        )

    def by_prompt(self, rows: Tensor) -> Tensor:
        """Rearrange (rows, heads, n, width) to (prompts, heads, most * n, width); empty slots are zero."""
        if not self._in_order:
            table = rows.new_zeros(len(self.prompts) * self.most, *rows.shape[1:])
            rows = table.index_copy_(0, self._slot, rows)
        table = rows.view(len(self.prompts), self.most, *rows.shape[1:])
        return table.transpose(1, 2).flatten(2, 3)

    def by_row(self, table: Tensor) -> Tensor:
        """Rearrange (prompts, heads, most * n, width) back to (rows, heads, n, width)."""
        prompts, heads, _, width = table.shape
        rows = table.view(prompts, heads, self.most, -1, width).transpose(1, 2).flatten(0, 1)
        return rows if self._in_order else rows[self._slot]


# Attributes and methods of a tensor that do not read its values.
_METADATA = {
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")),
    *(getattr(torch.Tensor, name) for name in ("size", "dim", "numel", "__len__", "is_floating_point")),
}


class SharedKV(torch.Tensor):
    """Keys or values of shape (rows, heads, prompt + own, width); those of a shared prompt are stored once.

    `own` is the number of tokens after the prompt. SDPA reads this form directly. Every other function gets the full
    tensor.
    """

    prompt: Tensor  # (prompts, heads, P, width)
    own: Tensor  # (rows, heads, T, width)
    groups: GroupIndex

    @staticmethod
    def __new__(cls, prompt: Tensor, own: Tensor, groups: GroupIndex) -> SharedKV:
        """Make a tensor of the full shape by expanding a single number, so it takes no memory."""
        rows, heads, length, width = own.shape
        shape = (rows, heads, prompt.shape[2] + length, width)
        return torch.Tensor._make_subclass(cls, own.new_zeros(()).expand(shape))

    def __init__(self, prompt: Tensor, own: Tensor, groups: GroupIndex) -> None:
        self.prompt, self.own, self.groups = prompt, own, groups

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and all(isinstance(states, cls) for states in args[1:3]):
            return _attend(*args, **kwargs)
        if func in _METADATA:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        args, kwargs = tree_map(lambda value: value.whole() if isinstance(value, cls) else value, (args, kwargs))
        return func(*args, **kwargs)

    def whole(self) -> Tensor:
        """The full tensor, in which each row has its own copy of the prompt."""
        with torch._C.DisableTorchFunctionSubclass():
            return torch.cat([self.prompt[self.groups.owner], self.own], dim=2)


class SharedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer. Prompts are stored once; an `InPlaceLayer` stores the later tokens of each row.

    Args:
        prompts: Keys and values of the prompts, (prompts, heads, P, width). Each prompt has at least one row.
        groups: The rows of each prompt; shared by all layers.
    """

    def __init__(self, prompts: DynamicLayer, groups: GroupIndex) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = prompts.keys.dtype, prompts.keys.device, True
        self._prompts, self._groups = (prompts.keys, prompts.values), groups
        begun = DynamicLayer()
        begun.keys, begun.values = prompts.keys[:, :, :0], prompts.values[:, :, :0]
        self._own = InPlaceLayer(begun, groups.owner)
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (
            SharedKV(prompt, own, self._groups)
            for prompt, own in zip(self._prompts, (self._own.keys, self._own.values), strict=True)
        )

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens; return those of all tokens."""
        self._own.update(key_states, value_states)
        self._show()
        return self.keys, self.values

    def select(self, selection: RowSelection) -> None:
        """Keep these rows, and drop prompts without rows. Call `GroupIndex.regroup` first."""
        self._own.select(selection)
        if len(self._groups.remaining) < len(self._prompts[0]):
            keys, values = self._prompts
            self._prompts = keys[self._groups.remaining], values[self._groups.remaining]
        self._show()


def _attend(
    query: Tensor,
    key: SharedKV,
    value: SharedKV,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention of one new token per row. `query` is (rows, heads, 1, width), or has its heads grouped by key head."""
    assert dropout_p == 0
    assert not is_causal
    # Autocast would compute the products in lower precision.
    with torch.autocast(query.device.type, enabled=False):
        groups, (rows, heads, _, width) = key.groups, key.shape
        queries = query.reshape(rows, heads, -1, width).float() * (width**-0.5 if scale is None else scale)
        to_prompt = groups.by_row(groups.by_prompt(queries) @ key.prompt.float().transpose(2, 3))
        scores = torch.cat([to_prompt, queries @ key.own.float().transpose(2, 3)], dim=-1)
        if attn_mask is not None:
            blocked = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if blocked else scores + attn_mask.float()
        shares = scores.softmax(dim=-1)
        to_prompt, to_own = torch.split(shares, [key.prompt.shape[2], key.own.shape[2]], dim=-1)
        out = groups.by_row(groups.by_prompt(to_prompt) @ value.prompt.float()) + to_own @ value.own.float()
    return out.to(query.dtype).reshape(query.shape)


_TOKENS = 4096
_BY_ROW = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "position_ids")


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """Arguments that `generate` passes to a decoding function, besides the model and the prompts.

    Attributes:
        inputs: Further model inputs, including the cache.
        logits_processor: Function that changes the next-token scores, (rows, vocabulary).
        stopping_criteria: Function that reports for each row whether it has ended.
        config: Generation settings.
    """

    inputs: dict[str, Any]
    logits_processor: Any
    stopping_criteria: Any
    config: Any


def as_custom_generate(decode: Callable[[Any, Tensor, GenerateCall], Tensor]) -> Callable[..., Tensor]:
    """Wrap a decoding function for `generate(custom_generate=...)`.

    Args:
        decode: Function of the model, the prompt ids (rows, length) and the call; it returns the ids that `generate`
            returns. It runs without gradients. `synced_gpus` and `streamer` are not supported.
    """

    @torch.no_grad()
    def custom_generate(
        model: Any,
        input_ids: Tensor,
        *,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **inputs: Any,
    ) -> Tensor:
        assert not synced_gpus
        assert streamer is None
        with fast_inference(model):
            return decode(
                model, input_ids, GenerateCall(inputs, logits_processor, stopping_criteria, generation_config)
            )

    return custom_generate


@contextmanager
def replaced_generate(owner: Any, generate: Callable[..., Any]) -> Iterator[None]:
    """Replace the method `generate` of a model or an engine within this context.

    TRL passes only tensors to it, so this is the only way to give it more.
    """
    owner.generate = generate
    try:
        yield
    finally:
        del owner.generate


def prefill(model: Any, input_ids: Tensor, call: GenerateCall) -> tuple[Tensor, dict[str, Any]]:
    """Run the prompts once; return their next-token logits and KV cache.

    Args:
        model: The model on which `generate` was called.
        input_ids: Prompt ids (prompts, length), padded on the left.
        call: Arguments of `generate`.

    Returns:
        Logits (prompts, vocabulary) of the token after each prompt, and the model inputs for that token, including the
        cache.
    """
    first = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **call.inputs)
    rows = len(input_ids)
    if input_ids.device.type == "cpu":
        rows = max(1, _TOKENS // input_ids.shape[1])
    chunks = [first] if len(input_ids) <= rows or not _divides(first) else list(_chunks(model, first, rows))
    outputs = [model(**chunk, return_dict=True) for chunk in chunks]
    output = outputs[0]
    if len(outputs) > 1:
        _join([output.past_key_values for output in outputs])
    # From here on, the first output's cache holds all prompts.
    inputs = model._update_model_kwargs_for_generation(output, call.inputs)
    longer = torch.nn.functional.pad(input_ids, (0, 1))
    step = model.prepare_inputs_for_generation(longer, next_sequence_length=1, **inputs)
    return torch.cat([output.logits[:, -1] for output in outputs]).float(), step


def _divides(first: Mapping[str, Any]) -> bool:
    """Whether every input can be split by prompt."""
    return all(
        name in (*_BY_ROW, "past_key_values")
        or value is None
        or isinstance(value, bool | int)
        # The type that `as_encoder_output` returns; the vision towers of transformers return other types.
        or (name == "mm_encoder_outputs" and set(value) == {"image"} and type(value["image"]) is SimpleNamespace)
        for name, value in first.items()
    )


def _chunks(model: Any, first: Mapping[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    ids = first["input_ids"]
    tokens = torch.nn.functional.pad((ids == model.config.image_token_id).sum(dim=1).cumsum(0), (1, 0)).tolist()
    for start in range(0, len(ids), rows):
        stop = min(start + rows, len(ids))
        chunk = {}
        for name, value in first.items():
            if name in _BY_ROW and value is not None:
                # Positions may have axes in front: (axes, prompts, length).
                value = value[..., start:stop, :]
            elif name == "past_key_values":
                value = copy.deepcopy(value)  # still empty
            elif name == "mm_encoder_outputs" and value is not None:
                value = {"image": _features(value["image"], tokens[start], tokens[stop])}
            chunk[name] = value
        yield chunk


def _features(output: Any, start: int, stop: int) -> SimpleNamespace:
    """The features of a range of image tokens, in the form of `as_encoder_output`."""
    pooled = output.pooler_output
    joined = torch.is_tensor(pooled)
    levels = [level[start:stop] for level in ([pooled] if joined else pooled)]
    deepstack = [[level[start:stop] for level in levels] for levels in output.deepstack_features]
    return SimpleNamespace(pooler_output=levels[0] if joined else levels, deepstack_features=deepstack)


def _join(caches: list[Any]) -> None:
    """Concatenate the keys and values of all caches into the first cache."""
    for layer, *others in zip(*(cache.layers for cache in caches), strict=True):
        layer.keys = torch.cat([layer.keys, *(other.keys for other in others)])
        layer.values = torch.cat([layer.values, *(other.values for other in others)])
