"""Replay of given completions, so that both sides generate the same tokens.

The scores of every token are computed, and then replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

Completions = Callable[[Sequence[int]], list[list[int]]]
"""Function that maps the token ids of a prompt to the completions of its group, each with its end token."""


class Replay(LogitsProcessor):  # type: ignore[misc]
    """Restrict each row to its given completion.

    Rows may be reordered and dropped between steps, and rows with equal beginnings may be exchanged. Rows are therefore
    identified by a hash of their tokens.

    Args:
        completions: The completions of each prompt.
        pad: The padding token's id.
        ends: The end tokens' ids.
    """

    def __init__(self, completions: Completions, pad: int, ends: Sequence[int]) -> None:
        self._completions, self._pad = completions, pad
        self._ends = torch.tensor([pad, *ends])
        self._written = torch.empty(0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary): 0 for the token of the given completion, minus infinity for all others."""
        if not self._written.numel():
            self._begin(input_ids)
        done = input_ids.shape[1] - self._prompt
        last = input_ids[:, -1]
        alive = torch.ones_like(last, dtype=torch.bool) if done == 0 else ~torch.isin(last, self._ends.to(last))
        expected = (self._lengths > done).nonzero().squeeze(1)
        rows = alive.nonzero().squeeze(1)
        if len(rows) != len(expected):
            raise RuntimeError(f"{len(rows)} rows under way where {len(expected)} completions are written.")
        here = (input_ids[rows] * self._weights[: input_ids.shape[1]]).sum(1)
        there = self._hashes[expected, done]
        (here, by_row), (there, by_text) = here.sort(stable=True), there.sort(stable=True)
        if not torch.equal(here, there):
            raise RuntimeError("A row holds what no completion begins with.")
        token = torch.full_like(last, self._pad)
        token[rows[by_row]] = self._written[expected[by_text], done]
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)

    def _begin(self, ids: Tensor) -> None:
        self._prompt = ids.shape[1]
        taken: dict[tuple[int, ...], int] = {}
        chosen = []
        for row in ids.tolist():
            begin = next((i for i, token in enumerate(row) if token != self._pad), 0)
            key = tuple(row[begin:])
            group = self._completions(key)
            chosen.append(group[taken.get(key, 0) % len(group)])
            taken[key] = taken.get(key, 0) + 1
        self._lengths = torch.tensor([len(text) for text in chosen], device=ids.device)
        longest = int(self._lengths.max())
        padded = [text + [self._pad] * (longest - len(text)) for text in chosen]
        self._written = torch.tensor(padded, device=ids.device)
        generator = torch.Generator().manual_seed(0)
        weights = torch.randint(-(2**62), 2**62, (self._prompt + longest + 1,), generator=generator)
        self._weights = weights.to(ids.device)
        sums = (torch.cat([ids, self._written], dim=1) * self._weights[:-1]).cumsum(1)
        # Column t: the prompt and t tokens of the completion.
        self._hashes = sums[:, self._prompt - 1 :]


def replaying(model: Any, completions: Completions) -> None:
    """Make every `generate` call of the model return the given completions."""
    plain = model._get_logits_processor

    def with_replay(*args: Any, **kwargs: Any) -> Any:
        config = model.generation_config
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        processors = plain(*args, **kwargs)
        processors.append(Replay(completions, config.pad_token_id, ends))
        return processors

    model._get_logits_processor = with_replay
