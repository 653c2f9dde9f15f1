"""Shared-prompt generation under transformers' `generate`.

`generate` repeats a prompt with its images for each of its completions, and computes finished rows until the last one
ends. Here each prompt is prefilled once, its completions share its KV cache, and finished rows leave the batch.
`n_per_prompt` makes the decoding function that `generate` takes as `custom_generate`, so generation settings, logits
processors, stopping criteria, position ids and image encoding stay those of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from medvlm_r1.models.decoding.kv_cache import GroupIndex, InPlaceLayer, SharedLayer
from medvlm_r1.models.decoding.prefill import GenerateCall, as_custom_generate, prefill

# Settings whose processors read each row alone, so that rows can be repeated and dropped.
_ROW_BY_ROW = """
    max_new_tokens do_sample pad_token_id bos_token_id eos_token_id temperature top_p top_k top_h min_p typical_p
    epsilon_cutoff eta_cutoff repetition_penalty no_repeat_ngram_size suppress_tokens begin_suppress_tokens
    bad_words_ids sequence_bias min_length min_new_tokens forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty renormalize_logits
""".split()  # noqa: SIM905 (shorter than a list)


# Further settings that have no effect at these values.
_WITHOUT_EFFECT = {
    "use_cache": True,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "early_stopping": False,
    "length_penalty": 1.0,
    "diversity_penalty": 0.0,
    "guidance_scale": 1.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "low_memory": False,
    "token_healing": False,
    "is_assistant": False,
    # transformers treats this value as unset.
    "cache_implementation": "hybrid",
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
}
_UNUSED = """
    max_length transformers_version num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
    assistant_lookbehind target_lookbehind disable_compile
""".split()  # noqa: SIM905


def refuses(settings: dict[str, Any]) -> str | None:
    """The first generation setting that only transformers' own loop supports (beams, guidance, ...), or None.

    Args:
        settings: Values by name, as in a `generation_config.json`; None is unset.
    """
    given = {name: value for name, value in settings.items() if value is not None and not name.startswith("_")}
    return next((name for name, value in given.items() if not _row_by_row(name, value)), None)


def _row_by_row(name: str, value: Any) -> bool:
    return name in _ROW_BY_ROW or name in _UNUSED or (name in _WITHOUT_EFFECT and value == _WITHOUT_EFFECT[name])


def n_per_prompt(sizes: Sequence[int], greedy: int = 0) -> Callable[..., torch.Tensor]:
    """Make a decoding function for `model.generate(..., custom_generate=...)` with several completions per prompt.

    Greedy decoding gives the same tokens as `generate`. Sampling draws from the same distributions. The draws are the
    same if every prompt has one completion and no row ends before another.

    Args:
        sizes: Number of completions of each prompt of the batch.
        greedy: Number of prompts at the end whose completions are greedy though the others are sampled. They do not
            change the draws of the others.

    Returns:
        A function that returns token ids (sum of `sizes`, prompt + longest completion). Rows of a prompt are adjacent,
        and padded on the right.
    """

    def decode(model: Any, input_ids: torch.Tensor, call: GenerateCall) -> torch.Tensor:
        if len(input_ids) != len(sizes):
            raise ValueError(f"wanted {len(sizes)} prompts, one for each number of completions, got {len(input_ids)}")
        logits, inputs = prefill(model, input_ids, call)
        rows = ActiveSequences(model, input_ids, sizes, inputs, call.config)
        rows.sampled = sum(sizes[: len(sizes) - greedy])
        rows.begin(model, call.config)
        penalties = [(part, part.prompt_ignore_length) for part in call.logits_processor if _per_prompt(part)]

        def advance(logits: torch.Tensor) -> None:
            for processor, lengths in penalties:
                processor.prompt_ignore_length = lengths[rows.prompt]
            scores = call.logits_processor(rows.tokens(), logits)
            tokens = scores[rows.sampled :].argmax(dim=-1) if call.config.do_sample else scores.argmax(dim=-1)
            if call.config.do_sample and rows.sampled:
                probabilities = torch.softmax(scores[: rows.sampled], dim=-1)
                tokens = torch.cat([torch.multinomial(probabilities, num_samples=1).squeeze(1), tokens])
            rows.append(tokens)

        return decode_rows(model, rows, logits[rows.prompt], call, advance)

    return as_custom_generate(decode)


def decode_rows(
    model: Any,
    rows: ActiveSequences,
    logits: torch.Tensor,
    call: GenerateCall,
    advance: Callable[[torch.Tensor], None],
) -> torch.Tensor:
    """The decoding loop: append a token to every active row and drop finished rows, until none is left.

    Args:
        model: Model that `generate` was called on.
        rows: Active rows, after prefill.
        logits: Next-token logits of the rows, (rows, vocabulary).
        call: Arguments of `generate`.
        advance: Chooses the next tokens from logits and appends them to the rows.

    Returns:
        Token ids of all rows, (rows, prompt + longest completion).
    """
    while True:
        advance(logits)
        if not rows.drop_finished(call.stopping_criteria):
            return rows.finish()
        logits = model(**rows.step(), return_dict=True).logits[:, -1].float()


def _per_prompt(processor: Any) -> bool:
    return getattr(processor, "prompt_ignore_length", None) is not None and torch.is_tensor(
        processor.prompt_ignore_length
    )


class ActiveSequences:
    """Rows that are being decoded, in any order: the last row moves into the slot of a finished one.

    Attributes:
        prompt: Index of the prompt of each row.
        sampled: Number of rows at the front that rows behind them never move into.
    """

    def __init__(self, model: Any, input_ids: torch.Tensor, sizes: Sequence[int], inputs: Any, config: Any) -> None:
        device = input_ids.device
        self.prompt = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(device)
        self.sampled = len(self.prompt)
        self._slot = torch.arange(len(self.prompt), device=device)
        self._length = input_ids.shape[1]
        self._ids = input_ids.new_full((len(self.prompt), config.max_length), int(config._pad_token_tensor))
        self._ids[:, : self._length] = input_ids[self.prompt]
        self._done = self._ids.clone()

        # Inputs of the model for the token after the prompt; `step` updates them for later tokens.
        token = input_ids.new_zeros((len(input_ids), 1))
        self._step = model.prepare_inputs_for_generation(
            torch.cat([input_ids, token], dim=1), next_sequence_length=1, **inputs
        )
        # Named `cache` from transformers 5.24 on.
        self._cache = self._step["past_key_values" if "past_key_values" in self._step else "cache"]
        self._full = all(type(layer) is DynamicLayer for layer in self._cache.layers)
        self._groups: GroupIndex | None = None

    def begin(self, model: Any, config: Any) -> None:
        """Give every row the cache of its prompt."""
        layers = self._cache.layers
        if self._shares_prompts(model):
            self._groups = GroupIndex(self.prompt)
            for index, layer in enumerate(layers):
                layers[index] = SharedLayer(layer, self._groups)
        for index, layer in enumerate(layers):
            if type(layer) is DynamicLayer:
                layers[index] = InPlaceLayer(layer, self.prompt, len(self._ids))
            elif self._groups is None:
                layer.batch_select_indices(self.prompt)
        self._mask: torch.Tensor | None = self._attention_mask(model, config.max_length)
        self._select(self.prompt)
        # Positions of the first completion token; every step adds one.
        self._first_position = self._step.get("position_ids")
        self._prompt_length = self._length

    def _shares_prompts(self, model: Any) -> bool:
        """Whether rows share the KV cache of their prompt; on a GPU the small steps would cost more than they save."""
        attention = model.config.get_text_config()._attn_implementation
        several = len(self.prompt) >= 2 * len(torch.unique(self.prompt))
        return self._full and several and attention == "sdpa" and self.prompt.device.type == "cpu"

    def _attention_mask(self, model: Any, length: int) -> torch.Tensor | None:
        """Mask of the real tokens for prompts of unequal length, (prompts, length); None without padding."""
        mask = self._step.pop("attention_mask", None)
        self._four = self._full and model.config.get_text_config()._attn_implementation == "sdpa"
        if mask is None or bool(mask.all()):
            return None
        longer: torch.Tensor = mask.new_ones((len(mask), length))
        longer[:, : mask.shape[1]] = mask
        return longer

    def _select(self, rows: torch.Tensor) -> None:
        for name, value in self._step.items():
            if torch.is_tensor(value) and value.ndim > 1:
                # (batch, 1), or (axes, batch, 1) for positions in several dimensions.
                self._step[name] = value.index_select(value.ndim - 2, rows)
        if self._mask is not None:
            self._mask = self._mask[rows]

    def tokens(self) -> torch.Tensor:
        """Token ids of the active rows, prompt included, (rows, length)."""
        return self._ids[: len(self._slot), : self._length]

    def append(self, tokens: torch.Tensor) -> None:
        """Append the next token of each row, (rows,)."""
        self._ids[: len(self._slot), self._length] = tokens
        self._length += 1

    def step(self) -> dict[str, Any]:
        """Inputs of the model for the last token."""
        step = dict(self._step)
        step["input_ids"] = self._ids[: len(self._slot), self._length - 1 : self._length]
        if self._first_position is not None:
            step["position_ids"] = step["position_ids"] + (self._length - 1 - self._prompt_length)
        if self._mask is not None:
            mask = self._mask[:, : self._length]
            # A single query needs only its row of the padding mask, which the model would have to derive.
            step["attention_mask"] = mask[:, None, None, :].bool() if self._four else mask
        return step

    def drop_finished(self, stopping_criteria: Any) -> bool:
        """Drop finished rows. If all are finished, drop none and return False."""
        ended = stopping_criteria(self.tokens(), None)
        if bool(ended.all()):
            return False
        if bool(ended.any()):
            self.drop(ended)
        return True

    def drop(self, ended: torch.Tensor) -> None:
        """Drop the rows where `ended` is True."""
        self._record(ended.nonzero().squeeze(1))
        front, back = _without(ended[: self.sampled]), _without(ended[self.sampled :])
        keep = torch.cat([front, back + self.sampled])
        self.sampled = len(front)
        moved = (keep != torch.arange(len(keep), device=keep.device)).nonzero().squeeze(1)
        self._ids[moved, : self._length] = self._ids[keep[moved], : self._length]
        self._slot, self.prompt = self._slot[keep], self.prompt[keep]
        if self._groups is not None:
            self._groups.regroup(self.prompt)
        self._cache.batch_select_indices(keep)
        self._select(keep)

    def finish(self) -> torch.Tensor:
        """End the generation: all rows in their original order, prompt included."""
        self._record(torch.arange(len(self._slot), device=self._slot.device))
        return self._done[:, : self._length]

    def _record(self, rows: torch.Tensor) -> None:
        self._done[self._slot[rows], : self._length] = self._ids[rows, : self._length]


def _without(ended: torch.Tensor) -> torch.Tensor:
    """Rows that are left, in their new order: the last ones move into the slots of those that have ended."""
    alive = (~ended).nonzero().squeeze(1)
    keep = torch.arange(len(alive), device=alive.device)
    slots = ended[: len(alive)].nonzero().squeeze(1)
    keep[slots] = alive[alive >= len(alive)]
    return keep
