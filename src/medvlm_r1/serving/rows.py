"""Completions under way as one batch that rows join and leave between steps (continuous batching).

`training.shared_generation` starts all rows of a batch together, each padded to the longest prompt. Here a row can
come at any time, so each keeps its own length: its cache begins at 0, the next key and value are written behind its
last, and a mask says how far it reaches. The encoding of prompts and images, positions and the forward are
transformers' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from medvlm_r1.errors import UserError
from medvlm_r1.policy.generate import GenerationInput, opened
from medvlm_r1.policy.load import Policy
from medvlm_r1.training.decoding import Decoding, as_custom_generate
from medvlm_r1.training.reading import read_prompts

# Tokens by which the room of a row grows: one copy now and then, in place of one per token.
_GROWTH = 128
# Inputs of a step that are made anew for each step, or that hold nothing a row depends on.
_KNOWN = {"input_ids", "position_ids", "attention_mask", "past_key_values", "cache", "use_cache", "logits_to_keep"}
_ZERO = ("token_type_ids",)


class NotByRows(Exception):
    """The model keeps something else than keys and values for each token; it is completed batch by batch instead."""


class Rows:
    """The batch.

    Attributes:
        logits: Of the next token of each row, float32 (rows, vocabulary).
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._layers: list[_Slots] = []
        self._cache: Any = None
        self._cache_name = ""
        device = policy.model.device
        self._lengths = torch.zeros(0, dtype=torch.long, device=device)
        self._positions: torch.Tensor | None = None
        self.logits = torch.zeros(0, 0, device=device)

    def __len__(self) -> int:
        return len(self._lengths)

    def join(self, items: Sequence[GenerationInput], copies: Sequence[int]) -> list[int]:
        """Run prompts once each and append their rows, copies of a prompt adjacent.

        Args:
            items: Conversations, all with images or all without.
            copies: Rows wanted of each.

        Returns:
            Tokens of each prompt.

        Raises:
            UserError: A prompt is longer than the model reads.
            NotByRows: The model cannot be run like this.
            ValueError: The processor refuses an image.
        """
        inputs = self._inputs(items)
        mask = inputs["attention_mask"].bool()
        lengths = mask.sum(dim=1)
        check_length(self._policy.model, int(lengths.max()))
        logits, step = self._prefill(inputs)
        rows = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(copies)).to(logits.device)
        # The cache's name up to transformers 5.23, and from 5.24 on.
        name = "past_key_values" if "past_key_values" in step else "cache"
        cache = step[name]
        if not self._layers:
            self._cache, self._cache_name = cache, name
            self._layers = [_Slots(layer) for layer in cache.layers]
            cached = [layer.source for layer in self._layers]
            self._cache.layers[:] = self._layers
        else:
            cached = list(cache.layers)
        first = len(self)
        self._lengths = torch.cat([self._lengths, lengths[rows].to(self._lengths.device)])
        for slots, layer in zip(self._layers, cached, strict=True):
            slots.take(layer, mask, rows, first)
        # (rows, 1), or (axes, rows, 1) for positions in several dimensions.
        position = step["position_ids"]
        position = position.index_select(position.ndim - 2, rows)
        before = self._positions
        self._positions = position if before is None else torch.cat([before, position], dim=position.ndim - 2)
        joined = logits[rows]
        self.logits = torch.cat([self.logits, joined]) if first else joined
        return [int(length) for length in lengths]

    def step(self, tokens: torch.Tensor) -> None:
        """Append a token to every row and compute what follows it.

        Args:
            tokens: Ids (rows,).
        """
        longest = int(self._lengths.max()) + 1
        within = torch.arange(longest, device=tokens.device) <= self._lengths[:, None]
        for slots in self._layers:
            slots.lengths, slots.longest = self._lengths, longest
        assert self._positions is not None
        inputs: dict[str, Any] = {
            "input_ids": tokens[:, None],
            "position_ids": self._positions,
            self._cache_name: self._cache,
            "use_cache": True,
            # For one query the mask is its row; in this form the model takes it as it is.
            "attention_mask": within[:, None, None, :],
        }
        self._positions = self._positions + 1
        self.logits = self._policy.model(**inputs, return_dict=True).logits[:, -1].float()
        self._lengths = self._lengths + 1

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, and let go of the others."""
        if not rows:
            self.clear()
            return
        chosen = torch.tensor(rows, device=self._lengths.device)
        self._lengths, self.logits = self._lengths[chosen], self.logits[chosen]
        if self._positions is not None:
            self._positions = self._positions.index_select(self._positions.ndim - 2, chosen)
        for slots in self._layers:
            slots.keep(chosen)

    def clear(self) -> None:
        """Let go of all rows and of their memory."""
        self._layers, self._cache, self._positions = [], None, None
        self._lengths = self._lengths[:0]
        self.logits = self.logits[:0]

    def _inputs(self, items: Sequence[GenerationInput]) -> Any:
        processor = self._policy.processor
        texts = [opened(processor, item) for item in items]
        images = [list(item.images) for item in items] if items[0].images else None
        inputs = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        return inputs.to(self._policy.model.device)

    def _prefill(self, inputs: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        """Logits after each prompt, and what the model is given for the token that follows."""
        from transformers import GenerationConfig

        found: dict[str, Any] = {}

        def run(model: Any, input_ids: torch.Tensor, given: Decoding) -> torch.Tensor:
            logits, inputs = read_prompts(model, input_ids, given)
            longer = torch.cat([input_ids, input_ids[:, -1:]], dim=1)
            found["step"] = model.prepare_inputs_for_generation(longer, next_sequence_length=1, **inputs)
            found["logits"] = logits
            return input_ids

        pad = self._policy.processor.tokenizer.pad_token_id
        config = GenerationConfig(max_new_tokens=1, do_sample=False, pad_token_id=pad)
        self._policy.model.generate(**inputs, generation_config=config, custom_generate=as_custom_generate(run))
        check_steps(found["step"], self._policy.model)
        return found["logits"], found["step"]


def check_length(model: Any, length: int) -> None:
    """Refuse a prompt that leaves no room for an answer.

    Raises:
        UserError: It does.
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and length >= most:
        raise UserError(f"The prompt has {length} tokens with its images; the model reads {most}. Make it shorter.")


def check_steps(step: dict[str, Any], model: Any) -> None:
    """Refuse a model whose step needs more than token, position, keys and values.

    Raises:
        NotByRows: It does.
    """
    others = [k for k, v in step.items() if torch.is_tensor(v) and k not in _KNOWN and not k.endswith(_ZERO)]
    cache = step.get("past_key_values", step.get("cache"))
    layers = {type(layer) for layer in getattr(cache, "layers", ())}
    attention = model.config.get_text_config()._attn_implementation
    if others or step.get("position_ids") is None or layers != {DynamicLayer} or attention != "sdpa":
        raise NotByRows


class _Slots(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values (rows, heads, length, width), each row from its own beginning."""

    def __init__(self, source: DynamicLayer) -> None:
        super().__init__()
        self.source = source
        self.dtype, self.device, self.is_initialized = source.keys.dtype, source.keys.device, True
        self._room = [source.keys[:0], source.values[:0]]
        self.lengths, self.longest = torch.zeros(0, dtype=torch.long), 0
        self._count = 0
        self._show()

    def take(self, layer: DynamicLayer, mask: torch.Tensor, rows: torch.Tensor, first: int) -> None:
        """Append rows: of each prompt what its mask (prompts, length), padded on the left, says is there."""
        length = mask.shape[1]
        self._count = first + len(rows)
        self.source = None
        self._make_room(self._count, length)
        starts = (length - mask.sum(dim=1)).tolist()
        for slot, prompt in enumerate(rows.tolist(), start=first):
            begin = starts[prompt]
            for room, states in zip(self._room, (layer.keys, layer.values), strict=True):
                room[slot, :, : length - begin] = states[prompt, :, begin:]
        self._show()

    def _make_room(self, count: int, length: int) -> None:
        have, _, within, _ = self._room[0].shape
        if count <= have and length <= within:
            return
        count = max(have, 1 << (count - 1).bit_length() if count > have else 0)
        length = max(within, length + _GROWTH if length > within else 0)
        for index, old in enumerate(self._room):
            # Zeros: a masked place weighs nothing, unless what lies there by chance is not a number.
            room = old.new_zeros((count, old.shape[1], length, old.shape[3]))
            room[:have, :, :within] = old
            self._room[index] = room

    def _show(self) -> None:
        self.keys, self.values = (room[: self._count, :, : self.longest] for room in self._room)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the step's key and value behind the last of each row."""
        self._make_room(self._count, self.longest)
        rows = torch.arange(self._count, device=self.lengths.device)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[rows, :, self.lengths] = states[:, :, 0]
        self._show()
        return self.keys, self.values

    def keep(self, chosen: torch.Tensor) -> None:
        """Move the chosen rows to the front, in their order."""
        self._count = len(chosen)
        moved = (chosen != torch.arange(self._count, device=chosen.device)).nonzero().squeeze(1)
        for room in self._room:
            room[moved] = room[chosen[moved]]
        self._show()
