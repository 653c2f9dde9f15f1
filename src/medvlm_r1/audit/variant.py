"""Variants of a question, their answers, and the interface of what answers them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.evaluation.score import read_as_asked
from medvlm_r1.evaluation.store import REAL as REAL
from medvlm_r1.models.generate import Generation, GenerationInput
from medvlm_r1.prompts.parser import Response, parse_response
from medvlm_r1.prompts.templates import messages

ANSWER_TAG = "<answer>"
"""End of a prefix after which only the letter is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One variant of an item's question.

    Attributes:
        name: Unique among the variants of an item, such as "blank" or "shift-2".
        sample: The changed question: options may be in another order, the question may have a cue.
        images: The images shown, RGB, as many as in `sample.images`.
        prefix: Assistant prefill from which the model continues.
        letter_only: Generate nothing. The prefix ends with `ANSWER_TAG`, and the answer is the offered letter with the
            highest probability as the next token.
        temperature: 0 is greedy.
        seed: Sampling seed.
        note: Data of the probe about this variant, as JSON values (a cue's letter, the changed sentence).
    """

    name: str
    sample: Sample
    images: tuple[Image, ...]
    prefix: str = ""
    letter_only: bool = False
    temperature: float = 0.0
    seed: int = 0
    note: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.sample.images)
        assert not self.letter_only or self.prefix.endswith(ANSWER_TAG)

    def generation_input(self, template: str) -> GenerationInput:
        """The variant as input of a generator, with this prompt template."""
        return GenerationInput(
            prompt=messages(self.sample, template), images=self.images, prefill=self.prefix, seed=item_seed(self.sample)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantAnswer:
    """The answer to a variant.

    Attributes:
        text: The whole assistant response, including the prefix.
        n_tokens: Generated tokens, without the prefix.
        truncated: True when the token limit came before the end token.
        letter: The chosen letter among the variant's options, by the strict rule; None when unparsed or not offered.
        option: Text of the chosen option; None if `letter` is None.
        probabilities: Probability of each option of a letter-only variant, summing to 1; otherwise None.
        note: The variant's note.
    """

    text: str
    n_tokens: int
    truncated: bool
    letter: str | None
    option: str | None
    probabilities: tuple[float, ...] | None = None
    note: Mapping[str, Any] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether the model generated nothing besides a reasoning tag that its chat template opens."""
        return self.text.strip() in ("", "<think>")

    def response(self, options: Sequence[str]) -> Response:
        """The parsed text; `options` are those of the variant."""
        return parse_response(self.text, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedItem:
    """All answers about one sample.

    Attributes:
        sample: The question as it is, with its `record` where the data set has one.
        answers: By name of the variant, always including `REAL`.
    """

    sample: Sample
    answers: Mapping[str, VariantAnswer]

    @property
    def real(self) -> VariantAnswer:
        """The answer to the question as it is."""
        return self.answers[REAL]

    @property
    def cluster(self) -> str:
        """The patient or volume, or the item itself where that is unknown."""
        return self.sample.cluster

    def reasoning(self, name: str = REAL) -> str:
        """The reasoning of a variant's answer; the whole text without a reasoning tag."""
        answer = self.answers[name]
        reasoning = answer.response(self.sample.options).reasoning
        return answer.text if reasoning is None else reasoning

    def parsed(self, name: str) -> VariantAnswer | None:
        """The answer to a variant; None without one, or where it was not parsed."""
        answer = self.answers.get(name)
        return None if answer is None or answer.letter is None else answer

    def correct(self, name: str = REAL) -> bool:
        """Whether a variant was answered with the correct option, in any order of the options."""
        return self.answers[name].option == self.sample.answer


def item_seed(sample: Sample) -> int:
    """An item's own number, the same in every run and on every machine (63 bits)."""
    return int.from_bytes(hashlib.sha256(sample.id.encode()).digest()[:8]) >> 1


def parsed_answer(
    variant: Variant, text: str, *, n_tokens: int, truncated: bool, template: str = "medvlm-r1"
) -> VariantAnswer:
    """The answer parsed from a generated text; `text` is the whole response, including the prefix."""
    letter = read_as_asked(text, variant.sample.options, template).letter
    option = dict(zip(LETTERS, variant.sample.options, strict=False)).get(letter or "")
    letter = None if option is None else letter
    return VariantAnswer(
        text=text, n_tokens=n_tokens, truncated=truncated, letter=letter, option=option, note=variant.note
    )


def answer_from_generation(variant: Variant, generation: Generation, template: str) -> VariantAnswer:
    """The answer to a variant from the text generated after its prefix."""
    text, n_tokens = variant.prefix + generation.text, generation.n_tokens
    return parsed_answer(variant, text, n_tokens=n_tokens, truncated=generation.truncated, template=template)


def scored_choice(variant: Variant, probabilities: Sequence[float]) -> VariantAnswer:
    """The answer to a letter-only variant: the most probable option. A tie goes to the first one.

    If `probabilities` is empty, the result has no letter: no option's letter was among a server's most probable tokens.
    """
    if not probabilities:
        return parsed_answer(variant, variant.prefix, n_tokens=0, truncated=False)
    assert len(probabilities) == len(variant.sample.options)
    index = max(range(len(probabilities)), key=probabilities.__getitem__)
    letter, option = LETTERS[index], variant.sample.options[index]
    return VariantAnswer(
        text=f"{variant.prefix}{letter}</answer>",
        n_tokens=1,
        truncated=False,
        letter=letter,
        option=option,
        probabilities=tuple(probabilities),
        note=variant.note,
    )


IndexedAnswers = list[tuple[int, VariantAnswer]]


class AuditBackend:
    """Generates the answers to variants. A backend overrides `answer`, or `iterate` where it can stream."""

    def refusal(self, variant: Variant) -> str:
        """Why it cannot answer a variant; "" if it can."""
        return ""

    def answer(self, variants: Sequence[Variant]) -> list[VariantAnswer]:
        """The answers, in the order of the variants."""
        answers = dict(pair for pairs in self.iterate(variants) for pair in pairs)
        return [answers[index] for index in range(len(variants))]

    def iterate(self, variants: Sequence[Variant], done: Collection[int] = ()) -> Iterator[IndexedAnswers]:
        """Answer the variants except those in `done`, and yield answers as soon as they are complete.

        Batches are made of all variants. A resumed run therefore computes the rest in the same batches and gets the
        same numbers, bit by bit.

        Args:
            variants: All variants of the call.
            done: Indices of variants that an earlier, interrupted call with the same variants answered.

        Yields:
            Indices with their answers, for each batch or reply. Some of `done` may be among them.
        """
        wanted = [index for index in range(len(variants)) if index not in done]
        if wanted:
            yield list(zip(wanted, self.answer([variants[index] for index in wanted]), strict=True))
