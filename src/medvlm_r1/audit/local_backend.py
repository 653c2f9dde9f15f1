"""Audit backend of a model in this process, which shares work between the variants of an item.

An image is encoded once for all variants that show it. A prompt is prefilled once for all its completions
(`sample_per_row`). Variants with an assistant prefill continue from the prompt's stored KV cache (`CachedPrefixRows`).
The answers equal those of `LocalGenerator` and `letter_probabilities`, up to the order of floating-point sums.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from medvlm_r1.audit.backends import StreamingAuditBackend, answer_from_generation, variant_input
from medvlm_r1.audit.variant import REAL, Variant, VariantAnswer, item_seed, scored_choice
from medvlm_r1.models.choice_logprobs import LetterPlace, letter_place
from medvlm_r1.models.generate import GenerationSettings, cut, end_tokens, generation_config, prompt_and_prefill
from medvlm_r1.models.load import Policy, vision_token_ids
from medvlm_r1.prompts.templates import opened_reasoning

# Rows of one pass over assistant prefills. More rows would need more padding.
_LETTER_ROWS = 64


@dataclass(slots=True, kw_only=True)
class LocalAuditBackend(StreamingAuditBackend):
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

    @property
    def local(self) -> bool:
        """Always true."""
        return True

    def iterate(
        self, variants: Sequence[Variant], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, VariantAnswer]]]:
        """See `StreamingAuditBackend`; yields batch by batch.

        For a batch that is done, only what later batches need is computed again: image features and KV caches.
        """
        import torch

        items = {variant.sample.id for variant in variants}
        if not items <= self._items:
            # New items. Cached features of earlier ones must not decide which images are encoded together.
            self._items, self._store, self._states = items, _new_store(), {}
        fresh: dict[str, Any] = {}
        with torch.inference_mode():
            batches = list(self._batches(self._prepare(variants)))
        for batch in batches:
            again = all(entry.index in done for entry in batch.rows)
            with torch.inference_mode():
                answers = self._restore(batch, fresh) if again else self._answer(batch, fresh)
            if answers:
                yield answers
        self._states |= fresh

    def _batches(self, prepared: Sequence[_Prepared]) -> Iterator[_Batch]:
        """The batches, in the order in which the model computes them."""
        for known in (False, True):
            part = [entry for entry in prepared if self._known(entry) == known]
            for some in _parts([entry for entry in part if not entry.letters], self.rows, self.tokens):
                yield _Batch(known=known, rows=some)
            # The same prefill after the same prompt is computed once.
            same: dict[tuple[str, tuple[int, ...]], list[_Prepared]] = {}
            for entry in part:
                if entry.letters:
                    same.setdefault((entry.key, entry.turn), []).append(entry)
            letters = [ones[0] for ones in same.values()]
            # Prefills of similar length together, because padding is computed too.
            letters = sorted(letters, key=lambda entry: len(entry.turn)) if known else letters
            for some in _parts(letters, _LETTER_ROWS if known else self.rows, self.tokens):
                yield _Batch(known=known, rows=[entry for first in some for entry in same[first.key, first.turn]])

    def _answer(self, batch: _Batch, fresh: dict[str, Any]) -> list[tuple[int, VariantAnswer]]:
        if not batch.rows[0].letters:
            return list(self._continue_text(batch.rows) if batch.known else self._generate(batch.rows, fresh))
        firsts = [run[0] for run in _runs(batch.rows, lambda entry: (entry.key, entry.turn))]
        return list(
            _scored(batch.rows, self._continuation(firsts).logits() if batch.known else self._letter_logits(firsts))
        )

    def _restore(self, batch: _Batch, fresh: dict[str, Any]) -> list[tuple[int, VariantAnswer]]:
        """Recompute what later batches need of an answered batch."""
        if not batch.known and any(_as_it_is(entry.variant) for entry in batch.rows):
            # The KV caches are those before the first token, so one token is enough.
            list(self._generate(batch.rows, fresh, max_new_tokens=1))
        elif not batch.known:
            self._vision([run[0].prompt for run in _runs(batch.rows, lambda entry: (entry.key, entry.turn))])
        return []

    def _known(self, entry: _Prepared) -> bool:
        """Whether a prefill continues from a prompt with a stored KV cache."""
        return bool(entry.turn) and entry.key in self._states

    def _prepare(self, variants: Sequence[Variant]) -> list[_Prepared]:
        """The variants with processed prompts: long prompts first, variants of one prompt together."""
        from medvlm_r1.models.sharing.batch import images_key, process_together

        processor = self.policy.processor
        names: dict[int, str] = {}
        keys = []
        turns = []
        contents: dict[str, tuple[str, Sequence[Any]]] = {}
        for variant in variants:
            text, begun = prompt_and_prefill(processor, variant_input(variant, self.template))
            turns.append(begun)
            for image in variant.images:
                if id(image) not in names:
                    names[id(image)] = images_key([image])
            keys.append("".join([text, *(names[id(image)] for image in variant.images)]))
            contents.setdefault(keys[-1], (text, variant.images))
        # A prompt with a stored KV cache need not be processed again.
        whole = {key for key, begun in zip(keys, turns, strict=True) if not begun}
        needed = [key for key in contents if key not in self._states or key in whole]
        texts, images = [contents[key][0] for key in needed], [contents[key][1] for key in needed]
        made = process_together(processor, texts, images, self.policy.model.device)
        prompts = dict(zip(needed, made, strict=True))
        order = {key: number for number, key in enumerate(contents)}
        prepared = []
        for index, (key, variant, begun) in enumerate(zip(keys, variants, turns, strict=True)):
            turn: tuple[int, ...] = ()
            letters = None
            if variant.letter_only:
                letters = letter_place(processor.tokenizer, begun, len(variant.sample.options))
                turn = letters.context
            elif begun:
                turn = tuple(processor.tokenizer(begun, add_special_tokens=False)["input_ids"])
            prompt = prompts.get(key)
            length = len(prompt.ids) if prompt else self._states[key].layers[0][0].shape[1]
            prepared.append(
                _Prepared(
                    index=index,
                    variant=variant,
                    key=key,
                    prompt=prompt,
                    turn=turn,
                    opening="" if variant.prefix else opened_reasoning(contents[key][0]),
                    letters=letters,
                    length=length,
                )
            )
        # Prompts of similar length together, because padding is computed, and attended to at every token.
        return sorted(prepared, key=lambda entry: (-entry.length, order[entry.key], entry.turn))

    def _generate(
        self, prepared: Sequence[_Prepared], fresh: dict[str, Any], max_new_tokens: int | None = None
    ) -> Iterator[tuple[int, VariantAnswer]]:
        """Complete the variants with one prefill per prompt; keep the KV caches of the questions as they are."""
        import torch

        from medvlm_r1.models.decoding.per_row_sampling import sample_per_row

        model, tokenizer = self.policy.model, self.policy.processor.tokenizer
        groups = _runs(prepared, lambda entry: (entry.key, entry.turn))
        ids = [[*group[0].prompt.ids, *group[0].turn] for group in groups]
        longest = max(map(len, ids))
        input_ids = torch.full((len(ids), longest), int(tokenizer.pad_token_id))
        mask = torch.zeros_like(input_ids)
        for row, tokens in enumerate(ids):
            input_ids[row, longest - len(tokens) :] = torch.tensor(tokens)
            mask[row, longest - len(tokens) :] = 1
        fields, features = self._vision([group[0].prompt for group in groups])
        for name, lists in list(fields.items()):
            if isinstance(lists, list):
                # Token types: 0 (text) for padding and assistant tokens.
                kinds = [
                    [*[0] * (longest - len(tokens)), *given, *[0] * (len(tokens) - len(given))]
                    for tokens, given in zip(ids, lists, strict=True)
                ]
                fields[name] = torch.tensor(kinds, device=model.device)
        if features:
            from medvlm_r1.models.sharing.forward import as_encoder_output

            fields["mm_encoder_outputs"] = {"image": as_encoder_output(model, features)}
        kept: dict[int, Any] = {}
        wanted = {row for row, group in enumerate(groups) if any(_as_it_is(entry.variant) for entry in group)}
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=generation_config(
                self.policy, GenerationSettings(max_new_tokens=max_new_tokens or self.max_new_tokens), self._suppressed
            ),
            custom_generate=sample_per_row(
                [[_draw(entry.variant) for entry in group] for group in groups], wanted, kept
            ),
            **fields,
        )
        fresh.update({groups[row][0].key: states for row, states in kept.items()})
        ends = end_tokens(model, tokenizer)
        for entry, row in zip(prepared, output[:, longest:].tolist(), strict=True):
            yield (
                entry.index,
                answer_from_generation(entry.variant, cut(row, ends, tokenizer, entry.opening), self.template),
            )

    def _continuation(self, prepared: Sequence[_Prepared]) -> Any:
        from medvlm_r1.models.decoding.cached_prefix import CachedPrefixRows

        keys = list(dict.fromkeys(entry.key for entry in prepared))
        return CachedPrefixRows(
            self.policy.model,
            [self._states[key] for key in keys],
            [keys.index(entry.key) for entry in prepared],
            [entry.turn for entry in prepared],
        )

    def _continue_text(self, prepared: Sequence[_Prepared]) -> Iterator[tuple[int, VariantAnswer]]:
        """Complete prefills after prompts with a stored KV cache."""
        from medvlm_r1.models.decoding.cached_prefix import decode_cached_prefix

        tokenizer = self.policy.processor.tokenizer
        ends = end_tokens(self.policy.model, tokenizer)
        rows = decode_cached_prefix(
            self._continuation(prepared), max_new_tokens=self.max_new_tokens, ends=ends, suppressed=self._suppressed
        )
        for entry, row in zip(prepared, rows, strict=True):
            yield (
                entry.index,
                answer_from_generation(entry.variant, cut(row, ends, tokenizer, entry.opening), self.template),
            )

    def _letter_logits(self, prepared: Sequence[_Prepared]) -> Any:
        """Logits after prefills whose prompts are computed now, each once."""
        import torch

        from medvlm_r1.models.sharing.forward import next_logits

        groups = _runs(prepared, lambda entry: entry.key)
        longest = max(len(group[0].prompt.ids) for group in groups)
        kept = max(len(entry.turn) for entry in prepared)
        ids = torch.full((len(prepared), longest + kept), int(self.policy.processor.tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for row, entry in enumerate(prepared):
            tokens = [*entry.prompt.ids, *entry.turn]
            start = longest - len(entry.prompt.ids)
            ids[row, start : start + len(tokens)] = torch.tensor(tokens)
            mask[row, start : start + len(tokens)] = 1
        fields, features = self._vision([group[0].prompt for group in groups])
        return next_logits(
            self.policy.model,
            input_ids=ids.to(self.policy.model.device),
            attention_mask=mask.to(self.policy.model.device),
            logits_to_keep=kept,
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


def _as_it_is(variant: Variant) -> bool:
    """Whether a variant asks the question as it is: variants of the second step continue from its prompt.

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
        turn: Tokens of the assistant prefill.
        opening: Text with which the chat template begins the response; "" where the variant begins it.
        letters: The letters to score after the prefill; None where text is generated.
        length: Tokens of the prompt.
    """

    index: int
    variant: Variant
    key: str
    prompt: Any
    turn: tuple[int, ...]
    opening: str
    letters: LetterPlace | None
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Variants that the model computes at once.

    Attributes:
        known: Whether they continue from prompts with a stored KV cache.
        rows: Either all generate text or all score letters. Equal ones of the latter are adjacent and computed once.
    """

    known: bool
    rows: list[_Prepared]


def _new_store() -> Any:
    from medvlm_r1.models.sharing.batch import FeatureStore

    return FeatureStore(256.0)


def _draw(variant: Variant) -> Any:
    from medvlm_r1.models.decoding.per_row_sampling import RowSampling

    if variant.temperature == 0:
        return None
    # With the variant's seed alone, all items would share their random numbers.
    return RowSampling(temperature=variant.temperature, seed=(item_seed(variant.sample) + variant.seed) % 2**63)


def _scored(prepared: Sequence[_Prepared], logits: Any) -> Iterator[tuple[int, VariantAnswer]]:
    """Scored choices from one row of logits for each run of equal variants."""
    import torch

    for run, row in zip(_runs(prepared, lambda entry: (entry.key, entry.turn)), logits, strict=True):
        assert run[0].letters is not None
        shares = torch.softmax(row[list(run[0].letters.candidates)].double(), dim=0).tolist()
        for entry in run:
            yield entry.index, scored_choice(entry.variant, shares)


def _parts(prepared: Sequence[_Prepared], rows: int, tokens: int) -> Iterator[list[_Prepared]]:
    """Parts of at most this many rows, and tokens of prompts and prefills."""
    part: list[_Prepared] = []
    used = 0
    for entry in prepared:
        size = entry.length + len(entry.turn)
        if part and (len(part) == rows or used + size > tokens):
            yield part
            part, used = [], 0
        part.append(entry)
        used += size
    if part:
        yield part


def _runs(prepared: Sequence[_Prepared], key: Any) -> list[list[_Prepared]]:
    """Neighbours of one key together."""
    return [list(run) for _, run in groupby(prepared, key=key)]
