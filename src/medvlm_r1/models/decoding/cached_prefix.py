"""Cached-prefix decoding: decode from the stored KV cache of a prompt instead of running the prompt again.

`sample_per_row` stores the caches of its prompts. An assistant prefill (truncated reasoning, for example) is then
appended to the cache, so that only the tokens of the assistant prefill are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache

from medvlm_r1.models.decoding.per_row_sampling import PromptKV
from medvlm_r1.models.decoding.shared_generation import ActiveSequences, decode_rows
from medvlm_r1.models.families import open_model


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
