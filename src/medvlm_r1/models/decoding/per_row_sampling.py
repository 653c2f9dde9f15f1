"""Generation of rows that are drawn each in its own way: greedy, or sampled by a random state of its own.

Completions of one prompt that have said the same so far are one row: it is computed once, and parted where they part.
A policy that is sure of itself says much the same in every sample. A drawn token depends on the scores and on the
row's own random numbers alone, so a completion is the same whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvlm_r1.models.decoding.loop import Decoding, as_custom_generate
from medvlm_r1.models.decoding.prefill import read_prompts
from medvlm_r1.models.decoding.shared_generation import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How a completion is sampled."""

    temperature: float
    """Divides the logits; above 0."""
    seed: int
    """Of its random numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStates:
    """What a language model keeps of a prompt it has read, so that it need not read it again.

    Attributes:
        layers: keys and values of each layer, (heads, length, width), without padding.
        next_position: the position of the token that follows; an image makes it smaller than the length.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    next_position: int


def drawn_of_each(
    groups: Sequence[Sequence[Draw | None]],
    wanted: Collection[int] = (),
    kept: dict[int, PromptStates] | None = None,
) -> Callable[..., Tensor]:
    """A decoding function for `model.generate(..., custom_generate=...)` with greedy settings.

    Args:
        groups: how each completion of each prompt is drawn, None for greedily.
        wanted: places of the prompts whose states are to be kept.
        kept: filled with them, by place; stays empty where a layer does not keep all of a prompt (sliding windows).

    Returns:
        A function that returns token ids (completions, prompt + longest completion), in the order of the groups, padded
        on the right.
    """
    draws = [draw for group in groups for draw in group]

    def decode(model: Any, input_ids: Tensor, given: Decoding) -> Tensor:
        assert not given.config.do_sample
        logits, inputs = read_prompts(model, input_ids, given)
        rows = _PartingRows(model, input_ids, [len(group) for group in groups], inputs, given.config)
        if kept is not None:
            kept.update(rows.prompt_states(wanted))
        rows.begin(model, given.config)
        numbers = _Numbers(draws, given.config.max_length - input_ids.shape[1], input_ids.device)
        while True:
            rows.write(numbers.next(given.logits_processor(rows.seen(), logits), rows.members))
            if not rows.go_on(given.stopping_criteria):
                return rows.everything()
            logits = model(**rows.step(), return_dict=True).logits[:, -1].float()

    return as_custom_generate(decode)


class _Numbers:
    """The random numbers of the sampled completions, one for each token, drawn beforehand."""

    def __init__(self, draws: Sequence[Draw | None], length: int, device: Any) -> None:
        drawn = [(number, draw) for number, draw in enumerate(draws) if draw is not None]
        self._line = {number: line for line, (number, _) in enumerate(drawn)}
        generators = [torch.Generator().manual_seed(draw.seed) for _, draw in drawn]
        numbers = [torch.rand(length, generator=one, dtype=torch.float64) for one in generators]
        self._uniform = torch.stack(numbers) if numbers else torch.empty(0, length)
        self._heat = torch.tensor([draw.temperature for _, draw in drawn], dtype=torch.float64)
        self._device = device
        self._step = 0

    def next(self, scores: Tensor, members: Sequence[Sequence[int]]) -> list[list[int]]:
        """The next token of each member of each row, from the scores (rows, vocabulary)."""
        greedy: list[int] = scores.argmax(dim=-1).tolist()
        tokens = [[greedy[row]] * len(numbers) for row, numbers in enumerate(members)]
        drawn = [
            (row, place, number)
            for row, numbers in enumerate(members)
            for place, number in enumerate(numbers)
            if number in self._line
        ]
        if drawn:
            rows = list(dict.fromkeys(row for row, _, _ in drawn))
            order = {row: place for place, row in enumerate(rows)}
            where = torch.tensor([order[row] for row, _, _ in drawn], device=self._device)
            lines = torch.tensor([self._line[number] for _, _, number in drawn])
            heat, uniform = self._heat[lines].to(self._device), self._uniform[lines, self._step]
            shares = torch.softmax(scores[rows][where].double() / heat[:, None], dim=-1).cumsum(dim=-1)
            # The first token whose cumulated share lies above the number: one without a share is never it.
            found = torch.searchsorted(shares, (uniform.to(shares) * shares[:, -1])[:, None], right=True)
            last = shares.shape[1] - 1
            for (row, place, _), token in zip(drawn, found.squeeze(1).clamp(max=last).tolist(), strict=True):
                tokens[row][place] = token
        self._step += 1
        return tokens


class _PartingRows(Rows):
    """Rows that stand for several completions until these differ."""

    members: list[list[int]]

    def prompt_states(self, places: Collection[int]) -> dict[int, PromptStates]:
        """The states of the prompts at these places; none where a layer does not keep all of a prompt."""
        mask, positions = self._step.get("attention_mask"), self._step.get("position_ids")
        states = {}
        for row in places if self._full else ():
            # The mask has a place for the first completion token already.
            real = self._length if mask is None else int(mask[row, : self._length].sum())
            # (batch, 1), or (axes, batch, 1); the axes agree after the prompt.
            after = real if positions is None else int(positions.reshape(-1, *positions.shape[-2:])[-1, row, -1])
            layers = [(layer.keys[row, :, -real:], layer.values[row, :, -real:]) for layer in self._cache.layers]
            states[row] = PromptStates(
                layers=tuple((keys.clone(), values.clone()) for keys, values in layers), next_position=after
            )
        return states

    def begin(self, model: Any, config: Any) -> None:
        """One row for each prompt, with all its completions."""
        owner: list[int] = self.prompt.tolist()
        firsts = [owner.index(prompt) for prompt in range(owner[-1] + 1)]
        self.members = [[n for n, prompt in enumerate(owner) if prompt == row] for row in range(len(firsts))]
        self._ids[: len(firsts)] = self._ids[firsts]
        self.prompt = torch.arange(len(firsts), device=self.prompt.device)
        self._place = self.prompt.clone()
        super().begin(model, config)

    def write(self, tokens: Sequence[Sequence[int]]) -> None:
        """Append each member's token; members of a row whose tokens differ part."""
        copied: list[int] = []
        chosen: list[int] = []
        parted: list[tuple[list[int], int]] = []
        for row, (numbers, said) in enumerate(zip(self.members, tokens, strict=True)):
            first, *others = dict.fromkeys(said)
            chosen.append(first)
            for other in others:
                copied.append(row)
                parted.append(([n for n, token in zip(numbers, said, strict=True) if token == other], other))
            self.members[row] = [n for n, token in zip(numbers, said, strict=True) if token == first]
        if copied:
            device = self.prompt.device
            count = len(self.members)
            rows = torch.cat([torch.arange(count, device=device), torch.tensor(copied, device=device)])
            self._ids[count : len(rows), : self._length] = self._ids[copied, : self._length]
            self.prompt = self.prompt[rows]
            self._place = torch.arange(len(rows), device=device)
            self._cache.batch_select_indices(rows)
            self._select(rows)
            self.members += [numbers for numbers, _ in parted]
            chosen += [token for _, token in parted]
        self.append(torch.tensor(chosen, device=self.prompt.device))

    def drop(self, ended: Tensor) -> None:
        """Take the ended rows out."""
        self._place = torch.arange(len(self.members), device=self.prompt.device)
        super().drop(ended)
        # What stands where now.
        self.members = [self.members[row] for row in self._place.tolist()]

    def _finish(self, rows: Tensor) -> None:
        for row in rows.tolist():
            self._done[self.members[row], : self._length] = self._ids[row, : self._length]
