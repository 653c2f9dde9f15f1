"""Cached-prefix decoding: decode from the stored KV cache of a prompt instead of another prefill.

`sample_per_row` stores the caches of its prompts. An assistant prefill (a truncated reasoning, a changed sentence) is
then appended to the cache, so that only its own tokens are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from medvlm_r1.models.decoding.kv_cache import InPlaceLayer
from medvlm_r1.models.decoding.per_row_sampling import PromptKV
from medvlm_r1.models.families import open_model


class CachedPrefixRows:
    """Rows that each start from a cached prompt and an assistant prefill of their own.

    Args:
        model: A model that `models.families.supports` accepts.
        prompts: Caches of the prompts.
        owner: For each row the index of its prompt in `prompts`.
        prefills: Tokens of each assistant prefill, at least one.
    """

    def __init__(
        self, model: Any, prompts: Sequence[PromptKV], owner: Sequence[int], prefills: Sequence[Sequence[int]]
    ) -> None:
        self._model, family = open_model(model)
        self._device = prompts[0].layers[0][0].device
        self._axes = 3 if family.rope_3d else 1
        longest, most = max(p.layers[0][0].shape[1] for p in prompts), max(map(len, prefills))
        self._rows = torch.arange(len(prefills), device=self._device)
        self._lengths = torch.tensor([len(tokens) for tokens in prefills], device=self._device)
        starts = torch.tensor([prompts[index].next_position for index in owner], device=self._device)
        steps = torch.arange(most, device=self._device)
        # Prompts are padded on the left, prefills on the right.
        self._mask = torch.ones(len(prefills), longest + most, dtype=torch.long, device=self._device)
        self._mask[:, longest:] = steps < self._lengths[:, None]
        ids = torch.zeros(len(prefills), most, dtype=torch.long)
        for row, (index, tokens) in enumerate(zip(owner, prefills, strict=True)):
            self._mask[row, : longest - prompts[index].layers[0][0].shape[1]] = 0
            ids[row, : len(tokens)] = torch.tensor(tokens)
        self._cache = _stacked(prompts, owner, longest)
        self._next = starts + self._lengths
        states = self._run(ids.to(self._device), starts[:, None] + steps)
        self._last = states[self._rows, self._lengths - 1]

    def logits(self) -> Tensor:
        """Next-token logits of the active rows, (rows, vocabulary), in the dtype of the head."""
        head = self._model.get_output_embeddings()
        result: Tensor = head(self._last.to(head.weight.device))
        return result

    def append(self, tokens: Tensor, alive: Tensor) -> None:
        """Append a token to the rows where `alive`, (rows,), is True; drop the others."""
        if not bool(alive.all()):
            keep = alive.nonzero().squeeze(1)
            for layer in self._cache.layers:
                layer.batch_select_indices(keep)
            self._mask, self._next, tokens = self._mask[keep], self._next[keep], tokens[keep]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._last = self._run(tokens[:, None], self._next[:, None])[:, -1]
        self._next = self._next + 1

    def _run(self, ids: Tensor, positions: Tensor) -> Tensor:
        states: Tensor = self._model.base_model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions.expand(3, -1, -1) if self._axes == 3 else positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return states


def decode_cached_prefix(
    rows: CachedPrefixRows, *, max_new_tokens: int, ends: Sequence[int], suppressed: Sequence[int]
) -> list[list[int]]:
    """Decode the rows greedily.

    Args:
        rows: Rows without generated tokens; consumed.
        max_new_tokens: Length limit of a completion.
        ends: End tokens.
        suppressed: Tokens that are never generated.

    Returns:
        The generated tokens of each row, including the end token if it came before the limit.
    """
    active: list[int] | None = None
    generated: list[list[int]] = []
    for _ in range(max_new_tokens):
        logits = rows.logits().float()
        logits[:, list(suppressed)] = float("-inf")
        tokens = logits.argmax(dim=-1)
        if active is None:
            active, generated = list(range(len(tokens))), [[] for _ in tokens]
        chosen = tokens.tolist()
        for row, token in zip(active, chosen, strict=True):
            generated[row].append(token)
        alive = [token not in ends for token in chosen]
        if not any(alive) or max(map(len, generated)) == max_new_tokens:
            break
        rows.append(tokens, torch.tensor(alive, device=tokens.device))
        active = [row for row, unfinished in zip(active, alive, strict=True) if unfinished]
    return generated


def _stacked(prompts: Sequence[PromptKV], owner: Sequence[int], longest: int) -> Any:
    """A cache with the prompt of each row, padded on the left."""
    cache = DynamicCache()
    rows = torch.tensor(list(owner), device=prompts[0].layers[0][0].device)
    for layers in zip(*(prompt.layers for prompt in prompts), strict=True):
        padded = DynamicLayer()
        keys, values = (
            torch.stack([torch.nn.functional.pad(states, (0, 0, longest - states.shape[1], 0)) for states in part])
            for part in zip(*layers, strict=True)
        )
        padded.keys, padded.values, padded.dtype, padded.device = keys, values, keys.dtype, keys.device
        padded.is_initialized = True
        cache.layers.append(InPlaceLayer(padded, rows))
    return cache
