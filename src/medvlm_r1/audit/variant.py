"""Variants of a question, their answers, and the interface of the backends that generate the answers."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL.Image import Image

from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.evaluation.score import read_as_asked
from medvlm_r1.evaluation.store import REAL as REAL
from medvlm_r1.models.generate import Generation, GenerationInput
from medvlm_r1.models.shown import BoxFrame
from medvlm_r1.prompts.boxes import Edges, without_boxes
from medvlm_r1.prompts.parser import Response, is_well_formed, parse_response
from medvlm_r1.prompts.templates import messages
from medvlm_r1.rewards.open_questions.rules import score_open
from medvlm_r1.rewards.open_questions.words import read_synonyms

ANSWER_TAG = "<answer>"
"""The tag that opens the answer. After a prefix that ends with it, the next token is the letter."""


FRAME = "box_frame"
"""Key of a variant's note: the coordinates of boxes, as fields of `BoxFrame`, if the template asks for boxes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One variant of an item's question.

    Attributes:
        name: Name of the variant, unique for an item, such as "blank" or "shift-2".
        sample: The sample with the variant's changes, such as another order of options or a hint in the question.
        images: The images shown to the model, as RGB. There is one for each path in `sample.images`.
        prefix: Assistant prefill that the model continues; "" for none.
        letter_only: Whether to score the option letters instead of generating text. The prefix then ends with
            `ANSWER_TAG`, and the answer is the option letter with the highest next-token probability.
        temperature: Sampling temperature; 0 is greedy.
        seed: Sampling seed.
        note: The probe's own data about this variant as JSON values, such as the hinted letter or the changed sentence.
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
        """Convert the variant to the input of a generator, using the prompt template `template`."""
        return GenerationInput(
            prompt=messages(self.sample, template), images=self.images, prefill=self.prefix, seed=item_seed(self.sample)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantAnswer:
    """The answer to a variant.

    Attributes:
        text: The whole assistant response, including the assistant prefill.
        n_tokens: Number of generated tokens, without the assistant prefill.
        truncated: Whether the token limit was reached before an end token.
        letter: Letter of the chosen option, as the variant labels its options. It is parsed from `text` in strict form.
            None if parsing failed, if the letter is not one of the variant's options, or for an open question.
        option: Text of the chosen option, or the answer to an open question; None if parsing failed.
        probabilities: Probability of each option of a letter-only variant, summing to 1. None for generated text, or if
            a server did not return log-probabilities of the option letters.
        note: `note` of the variant: data of its probe, such as the hinted letter.
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
        """Whether the text is empty, apart from a `<think>` tag that the chat template may have opened."""
        return self.text.strip() in ("", "<think>")

    @property
    def boxes(self) -> list[Edges]:
        """The stated boxes as fractions of the variant's image; none if the template does not ask for boxes."""
        return BoxFrame(**self.note[FRAME]).boxes(self.text) if FRAME in self.note else []

    def response(self, options: Sequence[str]) -> Response:
        """Parse the text. `options` are the option texts in the variant's order. A well-formed text may have boxes."""
        response = parse_response(self.text, options)
        return replace(response, well_formed=is_well_formed(without_boxes(self.text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedItem:
    """A sample with the answers to its variants.

    Attributes:
        sample: The original sample, including its `record` if the data set has one.
        answers: The answers by name of the variant. `REAL` is always among them.
    """

    sample: Sample
    answers: Mapping[str, VariantAnswer]

    @property
    def real(self) -> VariantAnswer:
        """The answer to the original question."""
        return self.answers[REAL]

    @property
    def cluster(self) -> str:
        """The cluster for statistics: the patient or volume, or the item itself if the subject is unknown."""
        return self.sample.cluster

    def reasoning(self, name: str = REAL) -> str:
        """The reasoning in the answer to a variant, or the answer's whole text if it has no reasoning tag."""
        answer = self.answers[name]
        reasoning = answer.response(self.sample.options).reasoning
        return answer.text if reasoning is None else reasoning

    def parsed(self, name: str) -> VariantAnswer | None:
        """The answer to a variant; None if there is no answer or it was not parsed."""
        answer = self.answers.get(name)
        return None if answer is None or answer.option is None else answer

    def chose(self, name: str, option: str | None) -> bool:
        """Whether the answer to a variant is this option, or means this answer to an open question; see `means`."""
        return means(self.sample, self.answers[name].option, option)

    def correct(self, name: str = REAL) -> bool:
        """Whether the answer to a variant is correct, whatever the order of the options."""
        return self.chose(name, self.sample.answer)

    def same(self, name: str) -> bool:
        """Whether the answer to a variant is the same as the original answer, or neither was parsed."""
        return self.chose(name, self.real.option)


def means(sample: Sample, answer: str | None, other: str | None) -> bool:
    """Whether two answers are the same option, or score 1 against each other if the question is open (`score_open`)."""
    if sample.options or answer is None or other is None:
        return answer == other
    return score_open(answer, other, sample.question, read_synonyms()).value == 1


def item_seed(sample: Sample) -> int:
    """The random seed of an item: a 63-bit hash of its id, the same in every run and on every machine."""
    return int.from_bytes(hashlib.sha256(sample.id.encode()).digest()[:8]) >> 1


def parsed_answer(
    variant: Variant, text: str, *, n_tokens: int, truncated: bool, template: str = "medvlm-r1"
) -> VariantAnswer:
    """Parse the answer to a variant from `text`, the whole response including the prefix."""
    response = read_as_asked(text, variant.sample.options, template)
    option = dict(zip(LETTERS, variant.sample.options, strict=False)).get(response.letter or "")
    letter = None if option is None else response.letter
    if not variant.sample.options:
        option = response.answer or None
    return VariantAnswer(
        text=text, n_tokens=n_tokens, truncated=truncated, letter=letter, option=option, note=variant.note
    )


def answer_from_generation(variant: Variant, generation: Generation, template: str) -> VariantAnswer:
    """Parse the answer to a variant from its prefix and the text that was generated after it."""
    text, n_tokens = variant.prefix + generation.text, generation.n_tokens
    return parsed_answer(variant, text, n_tokens=n_tokens, truncated=generation.truncated, template=template)


def scored_choice(variant: Variant, probabilities: Sequence[float]) -> VariantAnswer:
    """The answer to a letter-only variant: the most probable option, or the first of several that tie.

    If `probabilities` is empty, the answer has no letter. This occurs if no option letter is among the most probable
    tokens that a server reports.
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
    """Base class of the backends that answer variants.

    A backend overrides `answer`, or `iterate` if it can yield some answers before all are complete.
    """

    def refusal(self, variant: Variant) -> str:
        """Return the reason why the backend cannot answer a variant, or "" if it can."""
        return ""

    def answer(self, variants: Sequence[Variant]) -> list[VariantAnswer]:
        """Return the answers in the order of the variants."""
        answers = dict(pair for pairs in self.iterate(variants) for pair in pairs)
        return [answers[index] for index in range(len(variants))]

    def iterate(self, variants: Sequence[Variant], done: Collection[int] = ()) -> Iterator[IndexedAnswers]:
        """Answer the variants that are not in `done`, and yield answers as soon as they are complete.

        A backend that computes in batches forms them from all variants, including those in `done`. A resumed run
        therefore computes the remaining answers in the same batches and gets the same numbers, bit for bit.

        Args:
            variants: All variants of the call.
            done: Indices of the variants that an earlier, interrupted call with the same variants answered.

        Yields:
            For each batch or reply, a list of (index, answer) pairs. Indices in `done` may be among them.
        """
        wanted = [index for index in range(len(variants)) if index not in done]
        if wanted:
            yield list(zip(wanted, self.answer([variants[index] for index in wanted]), strict=True))
