"""Per-row sampling: each completion is greedy, or sampled with its own temperature and seed.

Completions of a prompt share one row as long as their tokens are equal, and the row is split where they differ. A
confident policy generates mostly the same tokens in every sample. A sampled token depends only on the scores and random
numbers of its own completion, so a completion does not depend on the rest of the batch.

`sample_per_row` stores the KV caches of its prompts for cached-prefix decoding. An assistant prefill (truncated
reasoning, for example) is then appended to the cache, so that only the tokens of the assistant prefill are computed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache

from medvlm_r1.models.decoding.kv_cache import GenerateCall, as_custom_generate, prefill
from medvlm_r1.models.decoding.shared_generation import ActiveSequences, caches_all, decode_rows
from medvlm_r1.models.families import open_model


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSampling:
    """Sampling parameters of one completion."""

    temperature: float
    """Divisor of the logits; must be above 0."""
    seed: int
    """Seed of the completion's random numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptKV:
    """KV cache of one prompt, from which decoding can start without another prefill.

    Attributes:
        layers: Keys and values of each layer, (heads, length, width), without padding.
        next_position: Position id of the next token. It may be smaller than the length if the prompt has images.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    next_position: int


def sample_per_row(
    groups: Sequence[Sequence[RowSampling | None]],
    wanted: Collection[int] = (),
    stored: dict[int, PromptKV] | None = None,
) -> Callable[..., Tensor]:
    """Make a decoding function for `model.generate(custom_generate=...)`. The generation config must be greedy.

    Args:
        groups: Sampling parameters of each completion of each prompt; None for a greedy completion.
        wanted: Indices of the prompts whose KV caches are stored.
        stored: Dictionary to which these caches are added, by prompt index. Nothing is added if a layer caches only
            part of a prompt (sliding window).

    Returns:
        A function that returns token ids of shape (completions, prompt + longest completion), padded on the right. The
        completions are in the order of `groups`.
    """
    samplings = [sampling for group in groups for sampling in group]

    def decode(model: Any, input_ids: Tensor, call: GenerateCall) -> Tensor:
        assert not call.config.do_sample
        logits, step = prefill(model, input_ids, call)
        if stored is not None:
            stored.update(_prompt_kv(step, input_ids.shape[1], wanted))
        numbers = iter(range(len(samplings)))
        rows = ActiveSequences(
            model,
            input_ids,
            step,
            prompt=range(len(groups)),
            members=[[next(numbers) for _ in group] for group in groups],
            max_length=call.config.max_length,
            pad=call.config._pad_token_tensor,
        )
        sampler = _Sampler(samplings, call.config.max_length - input_ids.shape[1], input_ids.device)
        ends = set(call.config._eos_token_tensor.tolist())

        def advance(logits: Tensor) -> list[bool]:
            tokens = sampler.next(call.logits_processor(rows.tokens(), logits), rows.members)
            return [token in ends or rows.full for token in rows.append_by_member(tokens)]

        return decode_rows(model, rows, logits, advance)

    return as_custom_generate(decode)


def _prompt_kv(step: Mapping[str, Any], length: int, indices: Collection[int]) -> dict[int, PromptKV]:
    """KV caches of the prompts with these indices; empty if a layer does not cache the whole prompt."""
    layers = step["past_key_values"].layers
    if not indices or not caches_all(layers):
        return {}
    mask, positions = step.get("attention_mask"), step.get("position_ids")
    prompts = len(layers[0].keys)
    # The mask already includes the first completion token.
    lengths = [length] * prompts if mask is None else mask[:, :length].sum(dim=1).tolist()
    # (batch, 1), or (axes, batch, 1); all axes have the same position after the prompt.
    following = lengths if positions is None else positions.reshape(-1, prompts)[-1].tolist()
    return {
        index: PromptKV(
            layers=tuple(
                (layer.keys[index, :, -lengths[index] :].clone(), layer.values[index, :, -lengths[index] :].clone())
                for layer in layers
            ),
            next_position=following[index],
        )
        for index in indices
    }


class _Sampler:
    """Choose tokens from scores. The random numbers of a completion are generated in advance, one per token."""

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
        """The next token of each completion (member) of each row, from the scores (rows, vocabulary)."""
        sampled = [
            (row, index, number)
            for row, numbers in enumerate(members)
            for index, number in enumerate(numbers)
            if number in self._line
        ]
        ids = scores.argmax(dim=-1)
        if sampled:
            lines = torch.tensor([self._line[number] for _, _, number in sampled])
            rows = list(dict.fromkeys(row for row, _, _ in sampled))
            order = {row: index for index, row in enumerate(rows)}
            where = torch.tensor([order[row] for row, _, _ in sampled], device=self._device)
            temperature, uniform = self._temperature[lines].to(self._device), self._uniform[lines, self._step]
            cumulated = torch.softmax(scores[rows][where].double() / temperature[:, None], dim=-1).cumsum(dim=-1)
            # Take the first token whose cumulative probability exceeds the number, so probability 0 is never chosen.
            samples = torch.searchsorted(cumulated, (uniform.to(cumulated) * cumulated[:, -1])[:, None], right=True)
            ids = torch.cat([ids, samples.squeeze(1).clamp(max=cumulated.shape[1] - 1)])
        chosen: list[int] = ids.tolist()
        tokens = [[chosen[row]] * len(numbers) for row, numbers in enumerate(members)]
        for (row, index, _), token in zip(sampled, chosen[len(members) :], strict=True):
            tokens[row][index] = token
        self._step += 1
        return tokens


class CachedPrefixRows:
    """Rows that each start from a cached prompt and have their own assistant prefill.

    Args:
        model: A model that `models.families.supports` accepts.
        prompts: Caches of the prompts.
        owner: Index in `prompts` of each row's prompt.
        prefills: Token ids of each row's assistant prefill, at least one token each.

    Attributes:
        model: The transformers model, unwrapped from peft if it has LoRA adapters.
        ids: (rows, length) zeros for the prompts, then the prefills, padded on the right.
        step: Model inputs for the token after the prefills, including the cache.
    """

    def __init__(
        self, model: Any, prompts: Sequence[PromptKV], owner: Sequence[int], prefills: Sequence[Sequence[int]]
    ) -> None:
        self.model, family = open_model(model)
        device = prompts[0].layers[0][0].device
        lengths = [prompt.layers[0][0].shape[1] for prompt in prompts]
        longest, most = max(lengths), max(map(len, prefills))
        # Prompts are padded on the left, prefills on the right.
        real = [
            [0] * (longest - lengths[index]) + [1] * (lengths[index] + len(tokens)) + [0] * (most - len(tokens))
            for index, tokens in zip(owner, prefills, strict=True)
        ]
        ids = [[0] * longest + [*tokens] + [0] * (most - len(tokens)) for tokens in prefills]
        mask, self.ids = torch.tensor(real, device=device), torch.tensor(ids, device=device)
        starts = torch.tensor([[prompts[index].next_position] for index in owner], device=device)
        ends = torch.tensor([[len(tokens)] for tokens in prefills], device=device)
        axes = (3, -1, -1) if family.rope_3d else (-1, -1)
        cache = _stacked(prompts, owner, longest)
        states = self.model.base_model(
            input_ids=self.ids[:, longest:],
            attention_mask=mask,
            position_ids=(starts + torch.arange(most, device=device)).expand(*axes),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        self._last = states[torch.arange(len(ends), device=device), ends[:, 0] - 1]
        self.step = {
            "attention_mask": pad(mask, (0, 1), value=1),
            "position_ids": (starts + ends).expand(*axes),
            "past_key_values": cache,
            "use_cache": True,
        }

    def logits(self) -> Tensor:
        """Next-token logits of the rows, (rows, vocabulary), in the dtype of the LM head."""
        head = self.model.get_output_embeddings()
        result: Tensor = head(self._last.to(head.weight.device))
        return result


def decode_cached_prefix(
    rows: CachedPrefixRows, *, max_new_tokens: int, ends: Sequence[int], suppressed: Sequence[int]
) -> list[list[int]]:
    """Decode the rows greedily.

    Args:
        rows: Rows without generated tokens. They cannot be used again.
        max_new_tokens: Maximum number of tokens of a completion.
        ends: Ids of the end tokens.
        suppressed: Ids of the tokens that are never generated.

    Returns:
        The generated token ids of each row, including the end token if it came before the limit.
    """
    count, length = rows.ids.shape
    active = ActiveSequences(
        rows.model,
        rows.ids,
        rows.step,
        prompt=range(count),
        members=[[row] for row in range(count)],
        max_length=length + max_new_tokens,
        pad=0,
    )

    def advance(logits: Tensor) -> list[bool]:
        logits[:, list(suppressed)] = -torch.inf
        tokens = logits.argmax(dim=-1)
        active.append(tokens)
        return [token in ends or active.full for token in tokens.tolist()]

    generated = decode_rows(rows.model, active, rows.logits().float(), advance)[:, length:].tolist()
    stops = [next((i for i, token in enumerate(tokens, 1) if token in ends), len(tokens)) for tokens in generated]
    return [tokens[:stop] for tokens, stop in zip(generated, stops, strict=True)]


def _stacked(prompts: Sequence[PromptKV], owner: Sequence[int], longest: int) -> DynamicCache:
    """Build a cache that holds the prompt of each row, padded on the left."""
    cache = DynamicCache()
    for index, layers in enumerate(zip(*(prompt.layers for prompt in prompts), strict=True)):
        keys, values = (
            torch.stack([pad(states, (0, 0, longest - states.shape[1], 0)) for states in column])[list(owner)]
            for column in zip(*layers, strict=True)
        )
        cache.update(keys, values, index)
    return cache
