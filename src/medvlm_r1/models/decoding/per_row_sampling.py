"""Per-row sampling: every completion is greedy, or sampled with a temperature and seed of its own.

Completions of a prompt that are equal so far share one row, which is computed once and branches where they differ. A
confident policy produces much the same tokens in every sample. A sampled token depends on the scores and on the random
numbers of its own completion only, so a completion does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvlm_r1.models.decoding.prefill import GenerateCall, as_custom_generate, prefill
from medvlm_r1.models.decoding.shared_generation import ActiveSequences, decode_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSampling:
    """Sampling parameters of one completion."""

    temperature: float
    """Divides the logits; above 0."""
    seed: int
    """Seed of its random numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptKV:
    """KV cache of one prompt, from which decoding can start without another prefill.

    Attributes:
        layers: Keys and values of each layer, (heads, length, width), without padding.
        next_position: Position of the next token; with images it is smaller than the length.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    next_position: int


def sample_per_row(
    groups: Sequence[Sequence[RowSampling | None]],
    wanted: Collection[int] = (),
    stored: dict[int, PromptKV] | None = None,
) -> Callable[..., Tensor]:
    """Make a decoding function for `model.generate(..., custom_generate=...)` with greedy settings.

    Args:
        groups: Sampling parameters of each completion of each prompt; None for a greedy one.
        wanted: Indices of the prompts whose KV cache is stored.
        stored: Receives these caches by index; stays empty if a layer caches only a part of a prompt (sliding window).

    Returns:
        A function that returns token ids (completions, prompt + longest completion), in the order of the groups, padded
        on the right.
    """
    samplings = [sampling for group in groups for sampling in group]

    def decode(model: Any, input_ids: Tensor, call: GenerateCall) -> Tensor:
        assert not call.config.do_sample
        logits, inputs = prefill(model, input_ids, call)
        rows = _BranchingSequences(model, input_ids, [len(group) for group in groups], inputs, call.config)
        if stored is not None:
            stored.update(rows.prompt_kv(wanted))
        rows.begin(model, call.config)
        sampler = _Sampler(samplings, call.config.max_length - input_ids.shape[1], input_ids.device)

        def advance(logits: Tensor) -> None:
            rows.write(sampler.next(call.logits_processor(rows.tokens(), logits), rows.members))

        return decode_rows(model, rows, logits, call, advance)

    return as_custom_generate(decode)


class _Sampler:
    """Chooses tokens from scores; the random numbers of a completion are drawn in advance, one per token."""

    def __init__(self, samplings: Sequence[RowSampling | None], length: int, device: Any) -> None:
        sampled = [(number, sampling) for number, sampling in enumerate(samplings) if sampling is not None]
        self._line = {number: line for line, (number, _) in enumerate(sampled)}
        generators = [torch.Generator().manual_seed(sampling.seed) for _, sampling in sampled]
        numbers = [torch.rand(length, generator=generator, dtype=torch.float64) for generator in generators]
        self._uniform = torch.stack(numbers) if numbers else torch.empty(0, length)
        self._temperature = torch.tensor([sampling.temperature for _, sampling in sampled], dtype=torch.float64)
        self._device = device
        self._step = 0

    def next(self, scores: Tensor, members: Sequence[Sequence[int]]) -> list[list[int]]:
        """The next token of each member of each row, from the scores (rows, vocabulary)."""
        greedy: list[int] = scores.argmax(dim=-1).tolist()
        tokens = [[greedy[row]] * len(numbers) for row, numbers in enumerate(members)]
        sampled = [
            (row, index, number)
            for row, numbers in enumerate(members)
            for index, number in enumerate(numbers)
            if number in self._line
        ]
        if sampled:
            rows = list(dict.fromkeys(row for row, _, _ in sampled))
            order = {row: index for index, row in enumerate(rows)}
            where = torch.tensor([order[row] for row, _, _ in sampled], device=self._device)
            lines = torch.tensor([self._line[number] for _, _, number in sampled])
            temperature, uniform = self._temperature[lines].to(self._device), self._uniform[lines, self._step]
            cumulated = torch.softmax(scores[rows][where].double() / temperature[:, None], dim=-1).cumsum(dim=-1)
            # The first token whose cumulated probability exceeds the number, so one of probability 0 is never chosen.
            ids = torch.searchsorted(cumulated, (uniform.to(cumulated) * cumulated[:, -1])[:, None], right=True)
            last = cumulated.shape[1] - 1
            for (row, index, _), token in zip(sampled, ids.squeeze(1).clamp(max=last).tolist(), strict=True):
                tokens[row][index] = token
        self._step += 1
        return tokens


class _BranchingSequences(ActiveSequences):
    """Rows that each hold several completions until these differ."""

    members: list[list[int]]

    def prompt_kv(self, indices: Collection[int]) -> dict[int, PromptKV]:
        """KV caches of the prompts with these indices; empty if a layer does not cache the whole prompt."""
        mask, positions = self._step.get("attention_mask"), self._step.get("position_ids")
        states = {}
        for row in indices if self._full else ():
            # The mask already includes the first completion token.
            real = self._length if mask is None else int(mask[row, : self._length].sum())
            # (batch, 1), or (axes, batch, 1); the axes agree after the prompt.
            position = real if positions is None else int(positions.reshape(-1, *positions.shape[-2:])[-1, row, -1])
            layers = [(layer.keys[row, :, -real:], layer.values[row, :, -real:]) for layer in self._cache.layers]
            states[row] = PromptKV(
                layers=tuple((keys.clone(), values.clone()) for keys, values in layers), next_position=position
            )
        return states

    def begin(self, model: Any, config: Any) -> None:
        """Start with one row per prompt, which holds all its completions."""
        owner: list[int] = self.prompt.tolist()
        firsts = [owner.index(prompt) for prompt in range(owner[-1] + 1)]
        self.members = [[n for n, prompt in enumerate(owner) if prompt == row] for row in range(len(firsts))]
        self._ids[: len(firsts)] = self._ids[firsts]
        self.prompt = torch.arange(len(firsts), device=self.prompt.device)
        self._slot = self.prompt.clone()
        super().begin(model, config)

    def write(self, tokens: Sequence[Sequence[int]]) -> None:
        """Append the token of each member; a row branches where the tokens of its members differ."""
        copied: list[int] = []
        chosen: list[int] = []
        branches: list[tuple[list[int], int]] = []
        for row, (numbers, next_tokens) in enumerate(zip(self.members, tokens, strict=True)):
            first, *others = dict.fromkeys(next_tokens)
            chosen.append(first)
            for other in others:
                copied.append(row)
                members = [n for n, token in zip(numbers, next_tokens, strict=True) if token == other]
                branches.append((members, other))
            self.members[row] = [n for n, token in zip(numbers, next_tokens, strict=True) if token == first]
        if copied:
            device = self.prompt.device
            count = len(self.members)
            rows = torch.cat([torch.arange(count, device=device), torch.tensor(copied, device=device)])
            self._ids[count : len(rows), : self._length] = self._ids[copied, : self._length]
            self.prompt = self.prompt[rows]
            self._slot = torch.arange(len(rows), device=device)
            self._cache.batch_select_indices(rows)
            self._select(rows)
            self.members += [numbers for numbers, _ in branches]
            chosen += [token for _, token in branches]
        self.append(torch.tensor(chosen, device=self.prompt.device))

    def drop(self, ended: Tensor) -> None:
        """Drop the rows where `ended` is True."""
        self._slot = torch.arange(len(self.members), device=self.prompt.device)
        super().drop(ended)
        self.members = [self.members[row] for row in self._slot.tolist()]

    def _record(self, rows: Tensor) -> None:
        for row in rows.tolist():
            self._done[self.members[row], : self._length] = self._ids[row, : self._length]
