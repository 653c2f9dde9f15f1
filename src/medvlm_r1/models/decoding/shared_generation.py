"""Generation that runs each prompt once.

transformers' `generate` repeats a prompt with its images for every completion asked of it, and keeps computing rows
that have ended until the last one has. Here the prompt goes through the model once, its key/value cache is copied to
its completions, and a row leaves the batch as it ends. Everything else stays with `generate`: `several_of_each` makes
the decoding function it accepts as `custom_generate`, so generation settings, logits processors, stopping criteria,
position ids and the encoding of images are transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from medvlm_r1.models.decoding.cache import InPlaceLayer
from medvlm_r1.models.decoding.loop import Decoding, as_custom_generate
from medvlm_r1.models.decoding.prefill import read_prompts
from medvlm_r1.models.decoding.prompt_attention import SharedLayer, Siblings

# Settings whose processors look at each row alone, so that rows can be multiplied and dropped.
_ROW_BY_ROW = """
    max_new_tokens do_sample pad_token_id bos_token_id eos_token_id temperature top_p top_k top_h min_p typical_p
    epsilon_cutoff eta_cutoff repetition_penalty no_repeat_ngram_size suppress_tokens begin_suppress_tokens
    bad_words_ids sequence_bias min_length min_new_tokens forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty renormalize_logits
""".split()  # noqa: SIM905 (twenty-five lines of one word each say no more)


# Other settings that change nothing at these values, and those that no token depends on.
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
    # What transformers itself takes for unset.
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
    """The first generation setting that needs transformers' own loop (beams, guidance, ...), or None.

    Args:
        settings: by name, as in a `generation_config.json`; None is unset.
    """
    given = {name: value for name, value in settings.items() if value is not None and not name.startswith("_")}
    return next((name for name, value in given.items() if not _row_by_row(name, value)), None)


def _row_by_row(name: str, value: Any) -> bool:
    return name in _ROW_BY_ROW or name in _UNUSED or (name in _WITHOUT_EFFECT and value == _WITHOUT_EFFECT[name])


def several_of_each(sizes: Sequence[int]) -> Callable[..., torch.Tensor]:
    """A decoding function for `model.generate(..., custom_generate=...)`.

    Greedy decoding gives the tokens `generate` gives. Sampling draws from the same distributions; the draws themselves
    are the same when every prompt is completed once and no row ends before another.

    Args:
        sizes: completions wanted of each prompt of the batch.

    Returns:
        A function that returns token ids (sum of `sizes`, prompt + longest completion): rows of a prompt are adjacent,
        and padded on the right.
    """

    def decode(model: Any, input_ids: torch.Tensor, given: Decoding) -> torch.Tensor:
        if len(input_ids) != len(sizes):
            raise ValueError(f"wanted {len(sizes)} prompts, one for each number of completions, got {len(input_ids)}")
        logits, inputs = read_prompts(model, input_ids, given)
        rows = Rows(model, input_ids, sizes, inputs, given.config)
        rows.begin(model, given.config)
        logits = logits[rows.prompt]
        penalties = [(one, one.prompt_ignore_length) for one in given.logits_processor if _per_prompt(one)]
        while True:
            for processor, lengths in penalties:
                processor.prompt_ignore_length = lengths[rows.prompt]
            scores = given.logits_processor(rows.seen(), logits)
            if given.config.do_sample:
                tokens = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
            else:
                tokens = scores.argmax(dim=-1)
            rows.append(tokens)
            if not rows.go_on(given.stopping_criteria):
                return rows.everything()
            logits = model(**rows.step(), return_dict=True).logits[:, -1].float()

    return as_custom_generate(decode)


def _per_prompt(processor: Any) -> bool:
    return getattr(processor, "prompt_ignore_length", None) is not None and torch.is_tensor(
        processor.prompt_ignore_length
    )


class Rows:
    """The completions under way, in any order: the place of an ended row is taken by the last one."""

    def __init__(self, model: Any, input_ids: torch.Tensor, sizes: Sequence[int], inputs: Any, config: Any) -> None:
        device = input_ids.device
        self.prompt = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(device)
        self._place = torch.arange(len(self.prompt), device=device)
        self._length = input_ids.shape[1]
        self._ids = input_ids.new_full((len(self.prompt), config.max_length), int(config._pad_token_tensor))
        self._ids[:, : self._length] = input_ids[self.prompt]
        self._done = self._ids.clone()

        # What the model is given for the token after the prompt; for later ones only the parts below change.
        token = input_ids.new_zeros((len(input_ids), 1))
        self._step = model.prepare_inputs_for_generation(
            torch.cat([input_ids, token], dim=1), next_sequence_length=1, **inputs
        )
        # The cache's name up to transformers 5.23, and from 5.24 on.
        self._cache = self._step["past_key_values" if "past_key_values" in self._step else "cache"]
        self._full = all(type(layer) is DynamicLayer for layer in self._cache.layers)
        self._siblings: Siblings | None = None

    def begin(self, model: Any, config: Any) -> None:
        """Copy the prompts' cache to their rows."""
        layers = self._cache.layers
        if self._reads_prompts_once(model):
            self._siblings = Siblings(self.prompt)
            for index, layer in enumerate(layers):
                layers[index] = SharedLayer(layer, self._siblings)
        for index, layer in enumerate(layers):
            if type(layer) is DynamicLayer:
                layers[index] = InPlaceLayer(layer, self.prompt, len(self._ids))
            elif self._siblings is None:
                layer.batch_select_indices(self.prompt)
        self._mask: torch.Tensor | None = self._attention_mask(model, config.max_length)
        self._select(self.prompt)
        # Positions are those of the first completion token; each step moves them on by one.
        self._first_position = self._step.get("position_ids")
        self._prompt_length = self._length

    def _reads_prompts_once(self, model: Any) -> bool:
        """Whether attention goes by `prompt_attention`; on a GPU its small steps would cost more than they save."""
        attention = model.config.get_text_config()._attn_implementation
        several = len(self.prompt) >= 2 * len(torch.unique(self.prompt))
        return self._full and several and attention == "sdpa" and self.prompt.device.type == "cpu"

    def _attention_mask(self, model: Any, length: int) -> torch.Tensor | None:
        """Which positions count, for prompts (U, length) of unequal length; None when all do."""
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

    def seen(self) -> torch.Tensor:
        """Token ids of the rows under way, prompt included (rows, length)."""
        return self._ids[: len(self._place), : self._length]

    def append(self, tokens: torch.Tensor) -> None:
        """Write the next token of each row, (rows,)."""
        self._ids[: len(self._place), self._length] = tokens
        self._length += 1

    def step(self) -> dict[str, Any]:
        """The model's inputs for the token appended last."""
        step = dict(self._step)
        step["input_ids"] = self._ids[: len(self._place), self._length - 1 : self._length]
        if self._first_position is not None:
            step["position_ids"] = step["position_ids"] + (self._length - 1 - self._prompt_length)
        if self._mask is not None:
            mask = self._mask[:, : self._length]
            # The mask of one query is its row of the padding mask; saying so spares the model from working it out.
            step["attention_mask"] = mask[:, None, None, :].bool() if self._four else mask
        return step

    def go_on(self, stopping_criteria: Any) -> bool:
        """Take out the rows that have ended; False, and nothing taken out, when all have."""
        ended = stopping_criteria(self.seen(), None)
        if bool(ended.all()):
            return False
        if bool(ended.any()):
            self.drop(ended)
        return True

    def drop(self, ended: torch.Tensor) -> None:
        """Take the ended rows out."""
        over = ended.nonzero().squeeze(1)
        self._finish(over)
        alive = (~ended).nonzero().squeeze(1)
        count = len(alive)
        keep = torch.arange(count, device=alive.device)
        keep[over[over < count]] = alive[alive >= count]
        moved = (keep != torch.arange(count, device=keep.device)).nonzero().squeeze(1)
        self._ids[moved, : self._length] = self._ids[keep[moved], : self._length]
        self._place, self.prompt = self._place[keep], self.prompt[keep]
        if self._siblings is not None:
            self._siblings.regroup(self.prompt)
        self._cache.batch_select_indices(keep)
        self._select(keep)

    def everything(self) -> torch.Tensor:
        """All rows in their first order, prompt included; ends the generation."""
        self._finish(torch.arange(len(self._place), device=self._place.device))
        return self._done[:, : self._length]

    def _finish(self, rows: torch.Tensor) -> None:
        self._done[self._place[rows], : self._length] = self._ids[rows, : self._length]
