"""Shared-prompt generation under transformers' `generate`.

By default, `generate` repeats a prompt and its images for each completion, and keeps computing finished rows until the
last row ends. Here each prompt is prefilled once, its completions share its KV cache, and finished rows leave the
batch. `n_per_prompt` makes the decoding function that `generate` takes as `custom_generate`. So transformers still
handles generation settings, logits processors, stopping criteria, position ids and image encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from medvlm_r1.models.decoding.kv_cache import (
    GenerateCall,
    GroupIndex,
    InPlaceLayer,
    RowSelection,
    SharedLayer,
    as_custom_generate,
    prefill,
)
from medvlm_r1.models.generate import KNOWN_SETTINGS


def refuses(settings: dict[str, Any]) -> str | None:
    """Name of the first generation setting that only transformers' own loop supports (beams, guidance, ...), or None.

    Args:
        settings: Values by name, as in a `generation_config.json`; None means unset.
    """
    given = {name: value for name, value in settings.items() if value is not None and not name.startswith("_")}
    return next((name for name, value in given.items() if not _row_by_row(name, value)), None)


def _row_by_row(name: str, value: Any) -> bool:
    known = KNOWN_SETTINGS["row_by_row"].split() + KNOWN_SETTINGS["unused"].split()
    effects = KNOWN_SETTINGS["without_effect"]
    return name in known or (name in effects and value == effects[name])


def n_per_prompt(sizes: Sequence[int], greedy: int = 0) -> Callable[..., Tensor]:
    """Make a decoding function for `model.generate(custom_generate=...)`, with several completions per prompt.

    Greedy decoding gives the same tokens as the default loop of `generate`. Sampling uses the same distributions. With
    the same seed, it gives the same tokens if every prompt has one completion and all rows end at the same step.

    Args:
        sizes: Number of completions of each prompt in the batch.
        greedy: Number of prompts at the end of the batch whose completions are greedy even if the others are sampled.
            These prompts do not change the samples of the others.

    Returns:
        A function that returns token ids of shape (sum of `sizes`, prompt + longest completion), padded on the right.
        Rows of a prompt are adjacent.
    """

    def decode(model: Any, input_ids: Tensor, call: GenerateCall) -> Tensor:
        if len(input_ids) != len(sizes):
            raise ValueError(f"wanted {len(sizes)} prompts, one for each number of completions, got {len(input_ids)}")
        logits, step = prefill(model, input_ids, call)
        prompt = [number for number, size in enumerate(sizes) for _ in range(size)]
        rows = ActiveSequences(
            model,
            input_ids,
            step,
            prompt=prompt,
            members=[[number] for number in range(len(prompt))],
            max_length=call.config.max_length,
            pad=call.config._pad_token_tensor,
        )
        rows.sampled = sum(sizes[: len(sizes) - greedy])
        penalties = [(each, each.prompt_ignore_length) for each in call.logits_processor if _per_prompt(each)]

        def advance(logits: Tensor) -> list[bool]:
            for processor, lengths in penalties:
                processor.prompt_ignore_length = lengths[rows.prompt]
            scores = call.logits_processor(rows.tokens(), logits)
            sampled = rows.sampled if call.config.do_sample else 0
            tokens = scores[sampled:].argmax(dim=-1)
            if sampled:
                probabilities = torch.softmax(scores[:sampled], dim=-1)
                tokens = torch.cat([torch.multinomial(probabilities, num_samples=1).squeeze(1), tokens])
            rows.append(tokens)
            ended: list[bool] = call.stopping_criteria(rows.tokens(), None).tolist()
            return ended

        return decode_rows(model, rows, logits[prompt], advance)

    return as_custom_generate(decode)


def decode_rows(
    model: Any, rows: ActiveSequences, logits: Tensor, advance: Callable[[Tensor], Sequence[bool]]
) -> Tensor:
    """The decoding loop: append a token to every active row and drop finished rows, until all rows have finished.

    Args:
        model: Model whose forward takes the inputs that `ActiveSequences.step` returns.
        rows: Active rows, after prefill.
        logits: Next-token logits of the rows, (rows, vocabulary).
        advance: Function that chooses the next tokens from logits, appends them, and returns for each row whether it
            has ended. It is the only part of a step that waits for the device.

    Returns:
        Token ids of all completions, (completions, prompt + longest completion).
    """
    while True:
        ended = advance(logits)
        if all(ended):
            return rows.finish()
        if any(ended):
            rows.drop(ended)
        logits = model(**rows.step(), return_dict=True).logits[:, -1].float()


def _per_prompt(processor: Any) -> bool:
    return torch.is_tensor(getattr(processor, "prompt_ignore_length", None))


class ActiveSequences:
    """Rows that are being decoded. Their order changes, because the last row replaces a finished row.

    Args:
        model: The model.
        input_ids: Prompt ids (prompts, length), padded on the left.
        step: Model inputs for the token after the prompts, including the cache.
        prompt: Index of each row's prompt.
        members: Indices of each row's completions. Completions share a row as long as their tokens are equal.
        max_length: Maximum number of tokens of a row, including the prompt.
        pad: Id of the padding token.

    Attributes:
        sampled: Number of rows in the front block (the sampled rows of `n_per_prompt`). Other rows never move into it.
    """

    def __init__(
        self,
        model: Any,
        input_ids: Tensor,
        step: Mapping[str, Any],
        *,
        prompt: Sequence[int],
        members: Sequence[list[int]],
        max_length: int,
        pad: int | Tensor,
    ) -> None:
        self.prompt, self.members = list(prompt), list(members)
        self.sampled = len(self.prompt)
        self._device, self._length = input_ids.device, input_ids.shape[1]
        self._prompt_length, self._max_length = self._length, max_length
        owner = torch.tensor(self.prompt, device=self._device)
        completions = sum(map(len, members))
        self._ids = input_ids.new_full((completions, max_length), int(pad))
        self._done = self._ids.clone()
        self._ids[: len(owner), : self._length] = input_ids[owner]
        # Model inputs for the first completion token; `step` updates them for later tokens.
        self._step = dict(step)
        mask = self._step.pop("attention_mask", None)
        self._layers: list[Any] = self._step["past_key_values"].layers
        self._simple = model.config.get_text_config()._attn_implementation == "sdpa" and caches_all(self._layers)
        # On a GPU, the many small operations of a shared cache would cost more time than they save.
        shares = self._simple and self._device.type == "cpu" and len(owner) >= 2 * len(set(self.prompt))
        self._groups = GroupIndex(self.prompt, self._device) if shares else None
        for index, layer in enumerate(self._layers):
            if self._groups is not None:
                self._layers[index] = SharedLayer(layer, self._groups)
            elif type(layer) is DynamicLayer:
                self._layers[index] = InPlaceLayer(layer, owner, completions)
            else:
                layer.batch_select_indices(owner)
        self._mask: Tensor | None = None
        if mask is not None and not bool(mask.all()):
            # Prompts of unequal length are padded, so the mask is needed.
            self._mask = torch.nn.functional.pad(mask, (0, max_length - mask.shape[1]), value=1)
        self._select(owner)

    @property
    def full(self) -> bool:
        """Whether the rows have reached their maximum length."""
        return self._length == self._max_length

    def tokens(self) -> Tensor:
        """Token ids of the active rows, including the prompt, (rows, length)."""
        return self._ids[: len(self.members), : self._length]

    def append(self, tokens: Tensor) -> None:
        """Append the next token of each row. `tokens` has shape (rows,)."""
        self._ids[: len(self.members), self._length] = tokens
        self._length += 1

    def append_by_member(self, tokens: Sequence[Sequence[int]]) -> list[int]:
        """Append the next token of each completion. A row is split where the tokens of its completions differ.

        Args:
            tokens: For each row, the next token of each of its completions, in the order of `members`.

        Returns:
            The new last token of each row, including the rows that were split off.
        """
        stay: list[tuple[int, list[int]]] = []
        branches: list[tuple[int, list[int]]] = []
        sources = list(range(len(self.members)))
        for row, (numbers, next_tokens) in enumerate(zip(self.members, tokens, strict=True)):
            by_token: dict[int, list[int]] = {}
            for number, token in zip(numbers, next_tokens, strict=True):
                by_token.setdefault(token, []).append(number)
            first, *others = by_token.items()
            stay.append(first)
            branches += others
            sources += [row] * len(others)
        if branches:
            self._rearrange(sources)
        chosen = [token for token, _ in (*stay, *branches)]
        self.members = [numbers for _, numbers in (*stay, *branches)]
        self.append(torch.tensor(chosen, device=self._device))
        return chosen

    def step(self) -> dict[str, Any]:
        """Model inputs for the last token of each row."""
        step = {**self._step, "input_ids": self._ids[: len(self.members), self._length - 1 : self._length]}
        if "position_ids" in step:
            step["position_ids"] = step["position_ids"] + (self._length - 1 - self._prompt_length)
        if self._mask is not None:
            mask = self._mask[:, : self._length]
            # A single query needs only one row of the mask, so the model does not have to build the full mask.
            step["attention_mask"] = mask[:, None, None, :].bool() if self._simple else mask
        return step

    def drop(self, ended: Sequence[bool]) -> None:
        """Drop the rows that have ended."""
        self._record([row for row, over in enumerate(ended) if over])
        front, back = _without(ended[: self.sampled]), _without(ended[self.sampled :])
        rows = [*front, *(row + self.sampled for row in back)]
        self.sampled = len(front)
        self.members = [self.members[row] for row in rows]
        self._rearrange(rows)

    def finish(self) -> Tensor:
        """End the generation. Return all completions in their original order, including their prompts."""
        self._record(range(len(self.members)))
        return self._done[:, : self._length]

    def _rearrange(self, rows: Sequence[int]) -> None:
        """Fill each slot with the given row, by moving or copying it."""
        selection = RowSelection(rows, self._device)
        self._ids[selection.slots, : self._length] = self._ids[selection.sources, : self._length]
        self.prompt = [self.prompt[row] for row in rows]
        if self._groups is not None:
            self._groups.regroup(self.prompt)
        for layer in self._layers:
            if isinstance(layer, InPlaceLayer | SharedLayer):
                layer.select(selection)
            else:
                layer.batch_select_indices(selection.rows)
        self._select(selection.rows)

    def _select(self, rows: Tensor) -> None:
        for name, value in self._step.items():
            if torch.is_tensor(value) and value.ndim > 1:
                # (batch, 1), or (axes, batch, 1) for positions in several dimensions.
                self._step[name] = value.index_select(value.ndim - 2, rows)
        if self._mask is not None:
            self._mask = self._mask[rows]

    def _record(self, rows: Sequence[int]) -> None:
        pairs = [(row, number) for row in rows for number in self.members[row]]
        self._done[[number for _, number in pairs], : self._length] = self._ids[[r for r, _ in pairs], : self._length]


def _without(ended: Sequence[bool]) -> list[int]:
    """Rows that have not ended, in their new order: the last rows replace those that have ended."""
    alive = [row for row, over in enumerate(ended) if not over]
    last = iter([row for row in alive if row >= len(alive)])
    return [next(last) if ended[slot] else slot for slot in range(len(alive))]


def caches_all(layers: Sequence[Any]) -> bool:
    """Whether every layer of a cache stores all tokens (no sliding window)."""
    return all(type(layer) is DynamicLayer for layer in layers)
