"""Audit backend of a model in this process, which shares work between the variants of an item.

An image is encoded once for all variants that show it. A prompt is prefilled once for all its completions
(`sample_per_row`). Variants with an assistant prefill continue from the prompt's stored KV cache (`CachedPrefixRows`).
The answers equal those of `LocalGenerator` and `letter_probabilities`, up to the order of floating-point sums.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

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
from medvlm_r1.models.generate import GenerationSettings, cut, end_tokens, generation_config, prompt_and_prefill
from medvlm_r1.models.load import Policy, vision_token_ids
from medvlm_r1.models.onednn_linear import fast_inference
from medvlm_r1.prompts.templates import opened_reasoning

# Rows of one pass over assistant prefills. More rows would need more padding.
_LETTER_ROWS = 64


@dataclass(slots=True, kw_only=True)
class LocalAuditBackend(AuditBackend):
    """A policy of a family in `medvlm_r1.models.families`; prompts and images are computed once."""

    policy: Policy
    template: str = "medvlm-r1"
    max_new_tokens: int = 512
    rows: int = 256
    """Most completions at once."""
    tokens: int = 65536
    """Most tokens of prompts and prefixes in one pass, which bounds the memory."""
    _store: Any = field(init=False)
    _states: dict[str, Any] = field(init=False, default_factory=dict)
    _items: set[str] = field(init=False, default_factory=set)
    _suppressed: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._store = _new_store()
        self._suppressed = vision_token_ids(self.policy.model, self.policy.processor)

    def iterate(self, variants: Sequence[Variant], done: Collection[int] = ()) -> Iterator[IndexedAnswers]:
        """See `AuditBackend`; yields batch by batch.

        For a batch that is done, only what later batches need is computed again: image features and KV caches.
        """
        import torch

        items = {variant.sample.id for variant in variants}
        if not items <= self._items:
            # New items. Cached features of earlier ones must not decide which images are encoded together.
            self._items, self._store, self._states = items, _new_store(), {}
        fresh: dict[str, Any] = {}
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
        """The batches, in the order in which the model computes them.

        The rows of a batch all continue from prompts with a stored KV cache or all do not, and all generate text or all
        score letters. Equal ones of the latter are adjacent and computed once.
        """
        for cached in (False, True):
            rows = [entry for entry in prepared if self._cached(entry) == cached]
            yield from _batched([entry for entry in rows if not entry.letters], self.rows, self.tokens)
            # The same prefill after the same prompt is computed once.
            equal: dict[tuple[str, tuple[int, ...]], list[_Prepared]] = {}
            for entry in rows:
                if entry.letters:
                    equal.setdefault((entry.key, entry.prefill), []).append(entry)
            letters = [entries[0] for entries in equal.values()]
            # Prefills of similar length together, because padding is computed too.
            letters = sorted(letters, key=lambda entry: len(entry.prefill)) if cached else letters
            for batch in _batched(letters, _LETTER_ROWS if cached else self.rows, self.tokens):
                yield [entry for first in batch for entry in equal[first.key, first.prefill]]

    def _answer(self, batch: list[_Prepared], fresh: dict[str, Any]) -> IndexedAnswers:
        cached = self._cached(batch[0])
        if not batch[0].letters:
            return self._continue_text(batch) if cached else self._generate(batch, fresh)
        firsts = [run[0] for run in _runs(batch)]
        return _scored(batch, self._continuation(firsts).logits() if cached else self._letter_logits(firsts))

    def _restore(self, batch: list[_Prepared], fresh: dict[str, Any]) -> None:
        """Recompute what later batches need of an answered batch."""
        if self._cached(batch[0]):
            return
        if any(_is_unchanged(entry.variant) for entry in batch):
            # The KV caches are those before the first token, so one token is enough.
            self._generate(batch, fresh, max_new_tokens=1)
        else:
            self._vision([run[0].prompt for run in _runs(batch)])

    def _cached(self, entry: _Prepared) -> bool:
        """Whether a prefill continues from a prompt with a stored KV cache."""
        return bool(entry.prefill) and entry.key in self._states

    def _prepare(self, variants: Sequence[Variant]) -> list[_Prepared]:
        """The variants with processed prompts: long prompts first, variants of one prompt together."""
        from medvlm_r1.models.sharing.batch import images_key, process_together

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
        # A prompt with a stored KV cache need not be processed again.
        whole = {key for key, begun in rows if not begun}
        needed = [key for key in contents if key not in self._states or key in whole]
        texts, images = [contents[key][0] for key in needed], [contents[key][1] for key in needed]
        processed = process_together(processor, texts, images, self.policy.model.device)
        prompts = dict(zip(needed, processed, strict=True))
        order = {key: number for number, key in enumerate(contents)}
        prepared = []
        for index, ((key, begun), variant) in enumerate(zip(rows, variants, strict=True)):
            letters = None
            if variant.letter_only:
                letters = letter_place(processor.tokenizer, begun, len(variant.sample.options))
                prefill = letters.context
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
                    letters=letters,
                    length=len(prompt.ids) if prompt else self._states[key].layers[0][0].shape[1],
                )
            )
        # Prompts of similar length together, because padding is computed, and attended to at every token.
        return sorted(prepared, key=lambda entry: (-entry.length, order[entry.key], entry.prefill))

    def _generate(
        self, batch: Sequence[_Prepared], fresh: dict[str, Any], max_new_tokens: int | None = None
    ) -> IndexedAnswers:
        """Complete the variants with one prefill per prompt; store the KV caches of the unchanged questions."""
        import torch

        from medvlm_r1.models.decoding.per_row_sampling import sample_per_row
        from medvlm_r1.models.sharing.forward import as_encoder_output

        model = self.policy.model
        groups = _runs(batch)
        ids = [[*group[0].prompt.ids, *group[0].prefill] for group in groups]
        width = max(map(len, ids))
        fields, features = self._vision([group[0].prompt for group in groups])
        for name, lists in fields.items():
            if isinstance(lists, list):
                # Token types: 0 (text) for padding and assistant tokens.
                types = [
                    [*[0] * (width - len(tokens)), *given, *[0] * (len(tokens) - len(given))]
                    for tokens, given in zip(ids, lists, strict=True)
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
        """`input_ids` and `attention_mask` with each row's tokens from its start."""
        import torch

        input_ids = torch.full((len(ids), width), int(self.policy.processor.tokenizer.pad_token_id))
        mask = torch.zeros_like(input_ids)
        for row, (tokens, start) in enumerate(zip(ids, starts, strict=True)):
            input_ids[row, start : start + len(tokens)] = torch.tensor(tokens)
            mask[row, start : start + len(tokens)] = 1
        device = self.policy.model.device
        return {"input_ids": input_ids.to(device), "attention_mask": mask.to(device)}

    def _decoded(self, batch: Sequence[_Prepared], rows: Sequence[list[int]]) -> IndexedAnswers:
        """The answers of rows of generated tokens."""
        tokenizer = self.policy.processor.tokenizer
        ends = end_tokens(self.policy.model, tokenizer)
        return [
            (
                entry.index,
                answer_from_generation(entry.variant, cut(row, ends, tokenizer, entry.opening), self.template),
            )
            for entry, row in zip(batch, rows, strict=True)
        ]

    def _continuation(self, batch: Sequence[_Prepared]) -> Any:
        from medvlm_r1.models.decoding.cached_prefix import CachedPrefixRows

        keys = list(dict.fromkeys(entry.key for entry in batch))
        return CachedPrefixRows(
            self.policy.model,
            [self._states[key] for key in keys],
            [keys.index(entry.key) for entry in batch],
            [entry.prefill for entry in batch],
        )

    def _continue_text(self, batch: Sequence[_Prepared]) -> IndexedAnswers:
        """Complete prefills after prompts with a stored KV cache."""
        from medvlm_r1.models.decoding.cached_prefix import decode_cached_prefix

        rows = decode_cached_prefix(
            self._continuation(batch),
            max_new_tokens=self.max_new_tokens,
            ends=end_tokens(self.policy.model, self.policy.processor.tokenizer),
            suppressed=self._suppressed,
        )
        return self._decoded(batch, rows)

    def _letter_logits(self, batch: Sequence[_Prepared]) -> Any:
        """Logits after prefills whose prompts are computed now, each once."""
        from medvlm_r1.models.sharing.forward import next_logits

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
        """The processor's outputs without the pixels, token types as lists; and the features of the images."""
        from medvlm_r1.models.sharing.batch import joined
        from medvlm_r1.models.sharing.forward import encode_images

        fields = joined(prompts, token_types=True)
        if fields.pop("pixel_values", None) is None:
            return fields, None
        model = self.policy.model
        missing = self._store.missing(prompts)
        entries = encode_images(model, joined(missing)) if len(missing) > 1 else []
        if len(entries) == sum(len(prompt.images) for prompt in missing):
            for prompt in missing:
                self._store.put(prompt, entries[: len(prompt.images)])
                entries = entries[len(prompt.images) :]
        return fields, self._store.get(prompts, lambda entry: encode_images(model, joined([entry])), model.device)


def _is_unchanged(variant: Variant) -> bool:
    """Whether a variant is the question as it is: variants of the second step continue from its prompt.

    The real answer may have come from an evaluation. The sampled answers, which have the same prompt, then remain.
    """
    return variant.name == REAL or variant.temperature > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A variant as input of the model.

    Attributes:
        index: Index in the call's variants.
        variant: The variant.
        key: Key of its prompt: text and images.
        prompt: The processed prompt; None where its KV cache is stored.
        prefill: Tokens of the assistant prefill.
        opening: Text with which the chat template begins the response; "" where the variant begins it.
        letters: The letters to score after the prefill; None where text is generated.
        length: Tokens of the prompt.
    """

    index: int
    variant: Variant
    key: str
    prompt: Any
    prefill: tuple[int, ...]
    opening: str
    letters: LetterPlace | None
    length: int


def _new_store() -> Any:
    from medvlm_r1.models.sharing.batch import FeatureStore

    return FeatureStore(256.0)


def _sampling(variant: Variant) -> Any:
    from medvlm_r1.models.decoding.per_row_sampling import RowSampling

    if variant.temperature == 0:
        return None
    # With the variant's seed alone, all items would share their random numbers.
    return RowSampling(temperature=variant.temperature, seed=(item_seed(variant.sample) + variant.seed) % 2**63)


def _scored(batch: Sequence[_Prepared], logits: Any) -> IndexedAnswers:
    """Scored choices from one row of logits for each run of equal variants."""
    import torch

    answers = []
    for run, row in zip(_runs(batch), logits, strict=True):
        assert run[0].letters is not None
        probabilities = torch.softmax(row[list(run[0].letters.candidates)].double(), dim=0).tolist()
        answers += [(entry.index, scored_choice(entry.variant, probabilities)) for entry in run]
    return answers


def _batched(prepared: Sequence[_Prepared], rows: int, tokens: int) -> Iterator[list[_Prepared]]:
    """Batches of at most this many rows, and tokens of prompts and prefills."""
    batch: list[_Prepared] = []
    used = 0
    for entry in prepared:
        size = entry.length + len(entry.prefill)
        if batch and (len(batch) == rows or used + size > tokens):
            yield batch
            batch, used = [], 0
        batch.append(entry)
        used += size
    if batch:
        yield batch


def _runs(batch: Sequence[_Prepared]) -> list[list[_Prepared]]:
    """Neighbors with the same prompt and prefill together."""
    return [list(run) for _, run in groupby(batch, key=lambda entry: (entry.key, entry.prefill))]
