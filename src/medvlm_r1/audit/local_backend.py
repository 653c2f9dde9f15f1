"""Audit backend for a local model, which shares computation between the variants of an item.

An image is encoded once for all variants that show it. A prompt is prefilled once for all its completions
(`sample_per_row`). Variants with an assistant prefill continue from the stored KV cache of their prompt
(`CachedPrefixRows`). The answers equal those of `LocalGenerator` and `letter_probabilities`, except for rounding,
because floating-point sums are computed in another order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from medvlm_r1.audit.variant import (
    REAL,
    AuditBackend,
    IndexedAnswers,
    Variant,
    answer_from_generation,
    item_seed,
    scored_choice,
)
from medvlm_r1.models.choice_logprobs import LetterPlace, letter_place
from medvlm_r1.models.decoding.per_row_sampling import (
    CachedPrefixRows,
    PromptKV,
    RowSampling,
    decode_cached_prefix,
    sample_per_row,
)
from medvlm_r1.models.generate import GenerationSettings, cut, end_tokens, generation_config, prompt_and_prefill
from medvlm_r1.models.load import Policy, vision_token_ids
from medvlm_r1.models.onednn_linear import fast_inference
from medvlm_r1.models.sharing.batch import FeatureStore, images_key, joined, process_together
from medvlm_r1.models.sharing.forward import as_encoder_output, encode_images, next_logits
from medvlm_r1.prompts.templates import opened_reasoning

# Most rows in a pass that scores letters from stored KV caches. More rows would need more padding.
_LETTER_ROWS = 64
_FEATURE_MEGABYTES = 256.0


class LocalAuditBackend(AuditBackend):
    """Audit backend for a policy of a family in `medvlm_r1.models.families`.

    Each prompt is prefilled once, and each image is encoded once.

    Args:
        policy: The policy.
        template: Name of the prompt template.
        max_new_tokens: Token limit; longer completions are cut off.
        rows: Largest number of completions in a batch.
        tokens: Largest number of prompt and prefix tokens in a batch, which limits memory use.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        template: str = "medvlm-r1",
        max_new_tokens: int = 512,
        rows: int = 256,
        tokens: int = 65536,
    ) -> None:
        self.policy, self.template, self.max_new_tokens = policy, template, max_new_tokens
        self._rows, self._tokens = rows, tokens
        self._features: Any = FeatureStore(_FEATURE_MEGABYTES)
        self._states: dict[str, PromptKV] = {}
        self._items: set[str] = set()
        self._suppressed = vision_token_ids(policy.model, policy.processor)

    def iterate(self, variants: Sequence[Variant], done: Collection[int] = ()) -> Iterator[IndexedAnswers]:
        """Answer the variants, and yield the answers batch by batch; see `AuditBackend.iterate`.

        If all answers of a batch are in `done`, only the data that later batches need are computed again: image
        features and KV caches.
        """
        items = {variant.sample.id for variant in variants}
        if not items <= self._items:
            # For new items, discard the cached features: they would affect which images are encoded together.
            self._items, self._features, self._states = items, FeatureStore(_FEATURE_MEGABYTES), {}
        fresh: dict[str, PromptKV] = {}
        with ExitStack() as stack:
            with torch.inference_mode():
                stack.enter_context(fast_inference(self.policy.model))
                batches = list(self._batches(self._prepare(variants)))
            for batch in batches:
                with torch.inference_mode():
                    if all(entry.index in done for entry in batch):
                        self._restore(batch, fresh)
                        continue
                    answers = self._answer(batch, fresh)
                yield answers
        self._states |= fresh

    def _batches(self, prepared: Sequence[_Prepared]) -> Iterator[list[_Prepared]]:
        """Yield the batches in the order in which the model computes them.

        In a batch, either all rows or none continue from a stored KV cache, and either all generate text or all score
        letters. Letter-scoring rows with the same prompt and prefill are adjacent and computed once.
        """
        for cached in (False, True):
            rows = [entry for entry in prepared if self._cached(entry) == cached]
            yield from _batched([[entry] for entry in rows if not entry.scored_at], self._rows, self._tokens)
            scored = _runs([entry for entry in rows if entry.scored_at])
            if cached:
                # Group prefills of similar length, because padding is computed too.
                scored.sort(key=lambda run: len(run[0].prefill))
            yield from _batched(scored, _LETTER_ROWS if cached else self._rows, self._tokens)

    def _answer(self, batch: list[_Prepared], fresh: dict[str, Any]) -> IndexedAnswers:
        cached = self._cached(batch[0])
        if not batch[0].scored_at:
            return self._continue_text(batch) if cached else self._generate(batch, fresh)
        firsts = [run[0] for run in _runs(batch)]
        return _scored(batch, self._continuation(firsts).logits() if cached else self._letter_logits(firsts))

    def _restore(self, batch: list[_Prepared], fresh: dict[str, Any]) -> None:
        """Recompute the data of an answered batch that later batches need."""
        if self._cached(batch[0]):
            return
        if any(_is_unchanged(entry.variant) for entry in batch):
            # Only the KV caches of the prompts are needed, so generating one token is enough.
            self._generate(batch, fresh, max_new_tokens=1)
        else:
            self._vision([run[0].prompt for run in _runs(batch)])

    def _cached(self, entry: _Prepared) -> bool:
        """Whether the variant has a prefill and the KV cache of its prompt is stored."""
        return bool(entry.prefill) and entry.key in self._states

    def _prepare(self, variants: Sequence[Variant]) -> list[_Prepared]:
        """Process the prompts of the variants. Long prompts come first; variants with the same prompt are adjacent."""
        processor = self.policy.processor
        names: dict[int, str] = {}
        rows: list[tuple[str, str]] = []
        contents: dict[str, tuple[str, Sequence[Any]]] = {}
        for variant in variants:
            text, begun = prompt_and_prefill(processor, variant.generation_input(self.template))
            for image in variant.images:
                if id(image) not in names:
                    names[id(image)] = images_key([image])
            key = "".join([text, *(names[id(image)] for image in variant.images)])
            rows.append((key, begun))
            contents.setdefault(key, (text, variant.images))
        # A prompt with a stored KV cache is processed again only for variants without a prefill.
        whole = {key for key, begun in rows if not begun}
        needed = [key for key in contents if key not in self._states or key in whole]
        texts, images = [contents[key][0] for key in needed], [contents[key][1] for key in needed]
        processed = process_together(processor, texts, images, self.policy.model.device)
        prompts = dict(zip(needed, processed, strict=True))
        order = {key: number for number, key in enumerate(contents)}
        prepared = []
        for index, ((key, begun), variant) in enumerate(zip(rows, variants, strict=True)):
            scored_at = None
            if variant.letter_only:
                scored_at = letter_place(processor.tokenizer, begun, len(variant.sample.options))
                prefill = scored_at.context
            else:
                prefill = tuple(processor.tokenizer(begun, add_special_tokens=False)["input_ids"]) if begun else ()
            prompt = prompts.get(key)
            prepared.append(
                _Prepared(
                    index=index,
                    variant=variant,
                    key=key,
                    prompt=prompt,
                    prefill=prefill,
                    opening="" if variant.prefix else opened_reasoning(contents[key][0]),
                    scored_at=scored_at,
                    length=len(prompt.ids) if prompt else self._states[key].layers[0][0].shape[1],
                )
            )
        # Group prompts of similar length, because padding is computed too, and attended to at every token.
        return sorted(prepared, key=lambda entry: (-entry.length, order[entry.key], entry.prefill))

    def _generate(
        self, batch: Sequence[_Prepared], fresh: dict[str, Any], max_new_tokens: int | None = None
    ) -> IndexedAnswers:
        """Complete the variants with one prefill per prompt. Store the original questions' KV caches in `fresh`."""
        model = self.policy.model
        groups = _runs(batch)
        ids = [[*group[0].prompt.ids, *group[0].prefill] for group in groups]
        width = max(map(len, ids))
        fields, features = self._vision([group[0].prompt for group in groups])
        for name, lists in fields.items():
            if isinstance(lists, list):
                # Token types: 0 (text) for padding and assistant tokens.
                types = [
                    [*[0] * (width - len(tokens)), *prompt, *[0] * (len(tokens) - len(prompt))]
                    for tokens, prompt in zip(ids, lists, strict=True)
                ]
                fields[name] = torch.tensor(types, device=model.device)
        if features:
            fields["mm_encoder_outputs"] = {"image": as_encoder_output(model, features)}
        states: dict[int, Any] = {}
        unchanged = {row for row, group in enumerate(groups) if any(_is_unchanged(entry.variant) for entry in group)}
        settings = GenerationSettings(max_new_tokens=max_new_tokens or self.max_new_tokens)
        output = model.generate(
            **self._padded(ids, [width - len(tokens) for tokens in ids], width),
            generation_config=generation_config(self.policy, settings, self._suppressed),
            custom_generate=sample_per_row(
                [[_sampling(entry.variant) for entry in group] for group in groups], unchanged, states
            ),
            **fields,
        )
        fresh.update({groups[row][0].key: state for row, state in states.items()})
        return self._decoded(batch, output[:, width:].tolist())

    def _padded(self, ids: Sequence[Sequence[int]], starts: Sequence[int], width: int) -> dict[str, Any]:
        """Build `input_ids` and `attention_mask`, with the tokens of each row from its start position."""
        input_ids = torch.full((len(ids), width), int(self.policy.processor.tokenizer.pad_token_id))
        mask = torch.zeros_like(input_ids)
        for row, (tokens, start) in enumerate(zip(ids, starts, strict=True)):
            input_ids[row, start : start + len(tokens)] = torch.tensor(tokens)
            mask[row, start : start + len(tokens)] = 1
        device = self.policy.model.device
        return {"input_ids": input_ids.to(device), "attention_mask": mask.to(device)}

    def _decoded(self, batch: Sequence[_Prepared], rows: Sequence[list[int]]) -> IndexedAnswers:
        """Convert rows of generated tokens to answers."""
        tokenizer = self.policy.processor.tokenizer
        ends = end_tokens(self.policy.model, tokenizer)
        return [
            (
                entry.index,
                answer_from_generation(entry.variant, cut(row, ends, tokenizer, entry.opening), self.template),
            )
            for entry, row in zip(batch, rows, strict=True)
        ]

    def _continuation(self, batch: Sequence[_Prepared]) -> CachedPrefixRows:
        keys = list(dict.fromkeys(entry.key for entry in batch))
        return CachedPrefixRows(
            self.policy.model,
            [self._states[key] for key in keys],
            [keys.index(entry.key) for entry in batch],
            [entry.prefill for entry in batch],
        )

    def _continue_text(self, batch: Sequence[_Prepared]) -> IndexedAnswers:
        """Generate completions after prefills whose prompts have a stored KV cache."""
        rows = decode_cached_prefix(
            self._continuation(batch),
            max_new_tokens=self.max_new_tokens,
            ends=end_tokens(self.policy.model, self.policy.processor.tokenizer),
            suppressed=self._suppressed,
        )
        return self._decoded(batch, rows)

    def _letter_logits(self, batch: Sequence[_Prepared]) -> Any:
        """Compute the logits after prefills whose prompts have no stored KV cache. Each prompt is computed once."""
        groups = [list(group) for _, group in groupby(batch, key=lambda entry: entry.key)]
        lengths = [len(entry.prompt.ids) for entry in batch]
        longest, longest_prefill = max(lengths), max(len(entry.prefill) for entry in batch)
        fields, features = self._vision([group[0].prompt for group in groups])
        return next_logits(
            self.policy.model,
            **self._padded(
                [[*entry.prompt.ids, *entry.prefill] for entry in batch],
                [longest - length for length in lengths],
                longest + longest_prefill,
            ),
            logits_to_keep=longest_prefill,
            group_sizes=[len(group) for group in groups],
            vision=fields,
            image_features=features,
        )

    def _vision(self, prompts: Sequence[Any]) -> tuple[dict[str, Any], Any]:
        """The processor's outputs without the pixels (token types as lists), and the image features."""
        fields = joined(prompts, token_types=True)
        if fields.pop("pixel_values", None) is None:
            return fields, None
        model = self.policy.model
        missing = self._features.missing(prompts)
        entries = encode_images(model, joined(missing)) if len(missing) > 1 else []
        if len(entries) == sum(len(prompt.images) for prompt in missing):
            for prompt in missing:
                self._features.put(prompt, entries[: len(prompt.images)])
                entries = entries[len(prompt.images) :]
        return fields, self._features.get(prompts, lambda entry: encode_images(model, joined([entry])), model.device)


def _is_unchanged(variant: Variant) -> bool:
    """Whether a variant has the prompt of the original question, from which variants of `Probe.then` continue.

    The answer `REAL` may have come from an evaluation. The sampled variants have the same prompt and then provide its
    KV cache.
    """
    return variant.name == REAL or variant.temperature > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A variant prepared as input of the model.

    Attributes:
        index: Index of the variant in the call.
        variant: The variant.
        key: Key of its prompt, made from the text and the images.
        prompt: The processed prompt; None if it is not needed because its KV cache is stored.
        prefill: Token ids of the assistant prefill.
        opening: Text with which the chat template opens the response; "" if the variant has a prefix.
        scored_at: Where the letters are scored after the prefill; None if text is generated.
        length: Number of tokens in the prompt.
    """

    index: int
    variant: Variant
    key: str
    prompt: Any
    prefill: tuple[int, ...]
    opening: str
    scored_at: LetterPlace | None
    length: int


def _sampling(variant: Variant) -> RowSampling | None:
    if variant.temperature == 0:
        return None
    # With the variant's seed alone, all items would use the same random numbers.
    return RowSampling(temperature=variant.temperature, seed=(item_seed(variant.sample) + variant.seed) % 2**63)


def _scored(batch: Sequence[_Prepared], logits: Any) -> IndexedAnswers:
    """Convert logits to scored choices, with one row of logits for each run of equal variants."""
    answers = []
    for run, row in zip(_runs(batch), logits, strict=True):
        assert run[0].scored_at is not None
        probabilities = torch.softmax(row[list(run[0].scored_at.candidates)].double(), dim=0).tolist()
        answers += [(entry.index, scored_choice(entry.variant, probabilities)) for entry in run]
    return answers


def _batched(runs: Sequence[list[_Prepared]], rows: int, tokens: int) -> Iterator[list[_Prepared]]:
    """Join runs of equal variants to batches of at most `rows` runs and `tokens` tokens in prompts and prefills."""
    batch: list[list[_Prepared]] = []
    used = 0
    for run in runs:
        size = run[0].length + len(run[0].prefill)
        if batch and (len(batch) == rows or used + size > tokens):
            yield [entry for joined_run in batch for entry in joined_run]
            batch, used = [], 0
        batch.append(run)
        used += size
    if batch:
        yield [entry for joined_run in batch for entry in joined_run]


def _runs(batch: Sequence[_Prepared]) -> list[list[_Prepared]]:
    """Group adjacent variants that have the same prompt and prefill."""
    return [list(run) for _, run in groupby(batch, key=lambda entry: (entry.key, entry.prefill))]
