"""What a model says after prompts it has read before: their keys and values are taken up, not computed again.

`drawn_of_each` keeps the states of its prompts; a turn that begins in another way (a reasoning cut short, a changed
sentence) goes on from there, and only its own tokens are run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from medvlm_r1.models.decoding.cache import InPlaceLayer
from medvlm_r1.models.decoding.per_row_sampling import PromptStates
from medvlm_r1.models.families import open_model


class Continuation:
    """Rows that each go on from a prompt with a turn of their own.

    Args:
        model: A model that `supports` accepts.
        prompts: The states of the prompts.
        owner: For each row the place of its prompt in `prompts`.
        turns: The tokens each turn begins with, one at least.
    """

    def __init__(
        self, model: Any, prompts: Sequence[PromptStates], owner: Sequence[int], turns: Sequence[Sequence[int]]
    ) -> None:
        self._model, family = open_model(model)
        self._device = prompts[0].layers[0][0].device
        self._axes = 3 if family.rope_3d else 1
        longest, most = max(p.layers[0][0].shape[1] for p in prompts), max(map(len, turns))
        self._rows = torch.arange(len(turns), device=self._device)
        self._lengths = torch.tensor([len(turn) for turn in turns], device=self._device)
        starts = torch.tensor([prompts[place].next_position for place in owner], device=self._device)
        steps = torch.arange(most, device=self._device)
        # Prompts stand at the right of their room, turns at the left of theirs.
        self._mask = torch.ones(len(turns), longest + most, dtype=torch.long, device=self._device)
        self._mask[:, longest:] = steps < self._lengths[:, None]
        ids = torch.zeros(len(turns), most, dtype=torch.long)
        for row, (place, turn) in enumerate(zip(owner, turns, strict=True)):
            self._mask[row, : longest - prompts[place].layers[0][0].shape[1]] = 0
            ids[row, : len(turn)] = torch.tensor(turn)
        self._cache = _stacked(prompts, owner, longest)
        self._next = starts + self._lengths
        states = self._run(ids.to(self._device), starts[:, None] + steps)
        self._last = states[self._rows, self._lengths - 1]

    def logits(self) -> Tensor:
        """Logits of the next token (rows under way, vocabulary), in the head's type."""
        head = self._model.get_output_embeddings()
        result: Tensor = head(self._last.to(head.weight.device))
        return result

    def append(self, tokens: Tensor, alive: Tensor) -> None:
        """Take up one more token for the rows where `alive` (rows under way,) holds; the others leave."""
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


def write_on(
    continuation: Continuation, *, max_new_tokens: int, ends: Sequence[int], suppressed: Sequence[int]
) -> list[list[int]]:
    """Greedy completions of the rows.

    Args:
        continuation: Rows that wrote nothing yet; used up.
        max_new_tokens: Longest completion.
        ends: Tokens that end one.
        suppressed: Tokens that are never written.

    Returns:
        For each row the tokens written, the end token as the last where it came before the limit.
    """
    under_way: list[int] | None = None
    written: list[list[int]] = []
    for _ in range(max_new_tokens):
        logits = continuation.logits().float()
        logits[:, list(suppressed)] = float("-inf")
        tokens = logits.argmax(dim=-1)
        if under_way is None:
            under_way, written = list(range(len(tokens))), [[] for _ in tokens]
        chosen = tokens.tolist()
        for row, token in zip(under_way, chosen, strict=True):
            written[row].append(token)
        going = [token not in ends for token in chosen]
        if not any(going) or max(map(len, written)) == max_new_tokens:
            break
        continuation.append(tokens, torch.tensor(going, device=tokens.device))
        under_way = [row for row, on in zip(under_way, going, strict=True) if on]
    return written


def _stacked(prompts: Sequence[PromptStates], owner: Sequence[int], longest: int) -> Any:
    """A cache with the states of each row's prompt, padded on the left."""
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
