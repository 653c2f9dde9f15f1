"""Answers to the variants of an audit with their work shared.

An image is encoded once for all variants that show it, and a prompt goes through the model once for everything that is
written after it (`sample_per_row`). Turns that begin in another way after a prompt read before take up its keys and
values (`CachedPrefixRows`). The answers are those of `LocalGenerator` and `letter_probabilities`, up to the order of
sums.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from medvlm_r1.audit.backends import StreamingRespondent, generated, variant_input
from medvlm_r1.audit.variant import REAL, Variant, VariantAnswer, item_seed, weighed
from medvlm_r1.models.choice_logprobs import LetterPlace, letter_place
from medvlm_r1.models.generate import GenerationSettings, cut, end_tokens, generation_config, prompt_and_turn
from medvlm_r1.models.load import Policy, vision_token_ids
from medvlm_r1.models.onednn_linear import fast_inference
from medvlm_r1.prompts.templates import opened_reasoning

# Rows of one pass over turns: of more, the longest would be further from the shortest.
_LETTER_ROWS = 64


@dataclass(slots=True, kw_only=True)
class LocalRespondent(StreamingRespondent):
    """Answers with a policy of a family in `medvlm_r1.models.families`, prompts and images computed once."""

    policy: Policy
    template: str = "medvlm-r1"
    max_new_tokens: int = 512
    rows: int = 256
    """Completions under way at once, at most."""
    tokens: int = 65536
    """Tokens of prompts and prefixes in one pass, at most, which bounds the memory."""
    _store: Any = field(init=False)
    _states: dict[str, Any] = field(init=False, default_factory=dict)
    _items: set[str] = field(init=False, default_factory=set)
    _suppressed: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._store = _new_store()
        self._suppressed = vision_token_ids(self.policy.model, self.policy.processor)

    @property
    def local(self) -> bool:
        """True."""
        return True

    def iterate(
        self, variants: Sequence[Variant], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, VariantAnswer]]]:
        """As `StreamingRespondent`, batch by batch.

        Of a batch that is done, what later ones build on is computed again: image features, and the states of prompts.
        """
        import torch

        items = {variant.sample.id for variant in variants}
        if not items <= self._items:
            # Other items than before. What those left must not decide which images are encoded together.
            self._items, self._store, self._states = items, _new_store(), {}
        fresh: dict[str, Any] = {}
        with ExitStack() as stack:
            with torch.inference_mode():
                stack.enter_context(fast_inference(self.policy.model))
                batches = list(self._batches(self._asked(variants)))
            for batch in batches:
                again = all(one.place in done for one in batch.asked)
                with torch.inference_mode():
                    answers = self._restore(batch, fresh) if again else self._answer(batch, fresh)
                if answers:
                    yield answers
        self._states |= fresh

    def _batches(self, asked: Sequence[_Asked]) -> Iterator[_Batch]:
        """What goes through the model at once, in the order it does."""
        for known in (False, True):
            part = [one for one in asked if self._known(one) == known]
            for some in _parts([one for one in part if not one.letters], self.rows, self.tokens):
                yield _Batch(known=known, asked=some)
            # The same turn after the same prompt is weighed once.
            same: dict[tuple[str, tuple[int, ...]], list[_Asked]] = {}
            for one in part:
                if one.letters:
                    same.setdefault((one.key, one.turn), []).append(one)
            letters = [ones[0] for ones in same.values()]
            # Turns of like length together: what fills them up to the longest is computed too.
            letters = sorted(letters, key=lambda one: len(one.turn)) if known else letters
            for some in _parts(letters, _LETTER_ROWS if known else self.rows, self.tokens):
                yield _Batch(known=known, asked=[one for first in some for one in same[first.key, first.turn]])

    def _answer(self, batch: _Batch, fresh: dict[str, Any]) -> list[tuple[int, VariantAnswer]]:
        if not batch.asked[0].letters:
            return list(self._write_on(batch.asked) if batch.known else self._write(batch.asked, fresh))
        firsts = [run[0] for run in _runs(batch.asked, lambda one: (one.key, one.turn))]
        return list(_weighed(batch.asked, self._going_on(firsts).logits() if batch.known else self._after(firsts)))

    def _restore(self, batch: _Batch, fresh: dict[str, Any]) -> list[tuple[int, VariantAnswer]]:
        """Leave behind what a batch left behind when it was answered."""
        if not batch.known and any(one.variant.name == REAL for one in batch.asked):
            # The states are those before the first token, so one is enough.
            list(self._write(batch.asked, fresh, max_new_tokens=1))
        elif not batch.known:
            self._vision([run[0].prompt for run in _runs(batch.asked, lambda one: (one.key, one.turn))])
        return []

    def _known(self, one: _Asked) -> bool:
        """Whether a turn goes on from a prompt whose states are kept."""
        return bool(one.turn) and one.key in self._states

    def _asked(self, variants: Sequence[Variant]) -> list[_Asked]:
        """The variants with their prompts, each processed once; long prompts first, variants of one prompt together."""
        from medvlm_r1.models.sharing.batch import images_key, process_together

        processor = self.policy.processor
        names: dict[int, str] = {}
        keys = []
        turns = []
        contents: dict[str, tuple[str, Sequence[Any]]] = {}
        for variant in variants:
            text, begun = prompt_and_turn(processor, variant_input(variant, self.template))
            turns.append(begun)
            for image in variant.images:
                if id(image) not in names:
                    names[id(image)] = images_key([image])
            keys.append("".join([text, *(names[id(image)] for image in variant.images)]))
            contents.setdefault(keys[-1], (text, variant.images))
        # A prompt whose states are kept need not be processed again.
        whole = {key for key, begun in zip(keys, turns, strict=True) if not begun}
        needed = [key for key in contents if key not in self._states or key in whole]
        texts, images = [contents[key][0] for key in needed], [contents[key][1] for key in needed]
        made = process_together(processor, texts, images, self.policy.model.device)
        prompts = dict(zip(needed, made, strict=True))
        order = {key: number for number, key in enumerate(contents)}
        asked = []
        for place, (key, variant, begun) in enumerate(zip(keys, variants, turns, strict=True)):
            turn: tuple[int, ...] = ()
            letters = None
            if variant.letter_only:
                letters = letter_place(processor.tokenizer, begun, len(variant.sample.options))
                turn = letters.context
            elif begun:
                turn = tuple(processor.tokenizer(begun, add_special_tokens=False)["input_ids"])
            prompt = prompts.get(key)
            length = len(prompt.ids) if prompt else self._states[key].layers[0][0].shape[1]
            asked.append(
                _Asked(
                    place=place,
                    variant=variant,
                    key=key,
                    prompt=prompt,
                    turn=turn,
                    opening="" if variant.prefix else opened_reasoning(contents[key][0]),
                    letters=letters,
                    length=length,
                )
            )
        # Prompts of like length together: what fills them up to the longest is computed, and read at every token.
        return sorted(asked, key=lambda one: (-one.length, order[one.key], one.turn))

    def _write(
        self, asked: Sequence[_Asked], fresh: dict[str, Any], max_new_tokens: int | None = None
    ) -> Iterator[tuple[int, VariantAnswer]]:
        """Complete the variants, each prompt (with the start of the turn) run once; real ones leave their states."""
        import torch

        from medvlm_r1.models.decoding.per_row_sampling import sample_per_row

        model, tokenizer = self.policy.model, self.policy.processor.tokenizer
        groups = _runs(asked, lambda one: (one.key, one.turn))
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
                # Token types: 0, text, for padding and what the model wrote.
                kinds = [
                    [*[0] * (longest - len(tokens)), *given, *[0] * (len(tokens) - len(given))]
                    for tokens, given in zip(ids, lists, strict=True)
                ]
                fields[name] = torch.tensor(kinds, device=model.device)
        if features:
            from medvlm_r1.models.sharing.forward import as_encoder_output

            fields["mm_encoder_outputs"] = {"image": as_encoder_output(model, features)}
        kept: dict[int, Any] = {}
        wanted = {row for row, group in enumerate(groups) if any(one.variant.name == REAL for one in group)}
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=generation_config(
                self.policy, GenerationSettings(max_new_tokens=max_new_tokens or self.max_new_tokens), self._suppressed
            ),
            custom_generate=sample_per_row([[_draw(one.variant) for one in group] for group in groups], wanted, kept),
            **fields,
        )
        fresh.update({groups[row][0].key: states for row, states in kept.items()})
        ends = end_tokens(model, tokenizer)
        for one, row in zip(asked, output[:, longest:].tolist(), strict=True):
            yield one.place, generated(one.variant, cut(row, ends, tokenizer, one.opening), self.template)

    def _going_on(self, asked: Sequence[_Asked]) -> Any:
        from medvlm_r1.models.decoding.cached_prefix import CachedPrefixRows

        keys = list(dict.fromkeys(one.key for one in asked))
        return CachedPrefixRows(
            self.policy.model,
            [self._states[key] for key in keys],
            [keys.index(one.key) for one in asked],
            [one.turn for one in asked],
        )

    def _write_on(self, asked: Sequence[_Asked]) -> Iterator[tuple[int, VariantAnswer]]:
        """Complete turns that begin after prompts read before."""
        from medvlm_r1.models.decoding.cached_prefix import decode_cached_prefix

        tokenizer = self.policy.processor.tokenizer
        ends = end_tokens(self.policy.model, tokenizer)
        rows = decode_cached_prefix(
            self._going_on(asked), max_new_tokens=self.max_new_tokens, ends=ends, suppressed=self._suppressed
        )
        for one, row in zip(asked, rows, strict=True):
            yield one.place, generated(one.variant, cut(row, ends, tokenizer, one.opening), self.template)

    def _after(self, asked: Sequence[_Asked]) -> Any:
        """Logits after turns whose prompts are read now, each once."""
        import torch

        from medvlm_r1.models.sharing.forward import next_logits

        groups = _runs(asked, lambda one: one.key)
        longest = max(len(group[0].prompt.ids) for group in groups)
        kept = max(len(one.turn) for one in asked)
        ids = torch.full((len(asked), longest + kept), int(self.policy.processor.tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for row, one in enumerate(asked):
            tokens = [*one.prompt.ids, *one.turn]
            start = longest - len(one.prompt.ids)
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
        """The processor's outputs for the prompts but the pixels, token types as lists; and the images' features."""
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
        return fields, self._store.get(prompts, lambda one: encode_images(model, joined([one])), model.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A variant as the model is given it.

    Attributes:
        place: Where it stands among those asked.
        variant: The variant.
        key: Of its prompt: text and images.
        prompt: The prompt processed; None where its states are kept.
        turn: Tokens its turn begins with.
        opening: Text with which the chat template begins the response; "" where the variant begins it.
        letters: What is weighed after them; None where the turn is written on.
        length: Tokens of the prompt.
    """

    place: int
    variant: Variant
    key: str
    prompt: Any
    turn: tuple[int, ...]
    opening: str
    letters: LetterPlace | None
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Variants that go through the model at once.

    Attributes:
        known: Whether they go on from prompts whose states are kept.
        asked: All written, or all weighed; of the latter, equal ones stand together and are computed once.
    """

    known: bool
    asked: list[_Asked]


def _new_store() -> Any:
    from medvlm_r1.models.sharing.batch import FeatureStore

    return FeatureStore(256.0)


def _draw(variant: Variant) -> Any:
    from medvlm_r1.models.decoding.per_row_sampling import RowSampling

    if variant.temperature == 0:
        return None
    # The item's own number beside the variant's: otherwise all items would be drawn by the same random numbers.
    return RowSampling(temperature=variant.temperature, seed=(item_seed(variant.sample) + variant.seed) % 2**63)


def _weighed(asked: Sequence[_Asked], logits: Any) -> Iterator[tuple[int, VariantAnswer]]:
    """The answers from one row of logits for each run of equal ones."""
    import torch

    for run, row in zip(_runs(asked, lambda one: (one.key, one.turn)), logits, strict=True):
        assert run[0].letters is not None
        shares = torch.softmax(row[list(run[0].letters.candidates)].double(), dim=0).tolist()
        for one in run:
            yield one.place, weighed(one.variant, shares)


def _parts(asked: Sequence[_Asked], rows: int, tokens: int) -> Iterator[list[_Asked]]:
    """Parts of at most so many rows and tokens of prompt and turn."""
    part: list[_Asked] = []
    used = 0
    for one in asked:
        size = one.length + len(one.turn)
        if part and (len(part) == rows or used + size > tokens):
            yield part
            part, used = [], 0
        part.append(one)
        used += size
    if part:
        yield part


def _runs(asked: Sequence[_Asked], key: Any) -> list[list[_Asked]]:
    """Neighbours of one key together."""
    return [list(run) for _, run in groupby(asked, key=key)]
