"""One more way to put a question to a model, and what came back: the two records every probe of a model speaks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.evaluation.score import read_as_asked
from medvlm_r1.evaluation.store import REAL as REAL
from medvlm_r1.prompts.parser import Response, parse_response

ANSWER_TAG = "<answer>"
"""What a prefix ends with when the next thing wanted is the letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to ask an item.

    Attributes:
        name: Unique among the variants of an item, such as "blank" or "shift-2".
        sample: The question as it is asked: options may be in another order, the question may hold a cue.
        images: What is shown, RGB, as many as `sample.images` has. Fewer only where the sample has none.
        prefix: How the model's turn begins; it goes on from there. Needs a model that runs in this process.
        letter_only: Nothing is written: the prefix ends with `ANSWER_TAG`, and the letters offered are weighed by the
            probability of each as the next token; the answer is the most probable one.
        temperature: 0 is greedy.
        seed: Of the sampling.
        note: What the probe has to remember of this variant, in values that JSON knows (a cue's letter, the sentence
            changed).
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


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantAnswer:
    """What came back.

    Attributes:
        text: The model's whole turn, the prefix included.
        n_tokens: Tokens it wrote, without the prefix.
        truncated: True when the limit came before the end token.
        letter: The letter chosen among the options as they were asked, by the strict rule; None when nothing parsed or
            the letter is not offered.
        option: Text of the option chosen; None with the letter.
        probabilities: Of each option as asked, summing to 1; for letter-only variants, else None.
        note: The variant's.
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
        """Whether the model wrote nothing; a reasoning tag that its chat template opened does not count."""
        return self.text.strip() in ("", "<think>")

    def response(self, options: Sequence[str]) -> Response:
        """The text parsed; `options` as they were asked."""
        return parse_response(self.text, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedItem:
    """All that was asked about one sample.

    Attributes:
        sample: The question as it stands, with its `record` where the data set has one.
        answers: By name of the variant; `REAL` is always there.
    """

    sample: Sample
    answers: Mapping[str, VariantAnswer]

    @property
    def real(self) -> VariantAnswer:
        """The answer to the question as it stands."""
        return self.answers[REAL]

    def right(self, name: str = REAL) -> bool:
        """Whether a variant was answered with the right option; the options' order does not matter."""
        return self.answers[name].option == self.sample.answer


def item_seed(sample: Sample) -> int:
    """A number of an item's own, the same in every run and on every machine (63 bits)."""
    return int.from_bytes(hashlib.sha256(sample.id.encode()).digest()[:8]) >> 1


def written(
    variant: Variant, text: str, *, n_tokens: int, truncated: bool, template: str = "medvlm-r1"
) -> VariantAnswer:
    """The answer to a variant that was written out; `text` is the whole turn, the prefix included."""
    letter = read_as_asked(text, variant.sample.options, template).letter
    place = LETTERS.find(letter) if letter else -1
    offered = 0 <= place < len(variant.sample.options)
    return VariantAnswer(
        text=text,
        n_tokens=n_tokens,
        truncated=truncated,
        letter=letter if offered else None,
        option=variant.sample.options[place] if offered else None,
        note=variant.note,
    )


def weighed(variant: Variant, probabilities: Sequence[float]) -> VariantAnswer:
    """The answer to a letter-only variant: the most probable option, the first of equals."""
    assert len(probabilities) == len(variant.sample.options)
    place = max(range(len(probabilities)), key=probabilities.__getitem__)
    return VariantAnswer(
        text=f"{variant.prefix}{LETTERS[place]}</answer>",
        n_tokens=1,
        truncated=False,
        letter=LETTERS[place],
        option=variant.sample.options[place],
        probabilities=tuple(probabilities),
        note=variant.note,
    )
