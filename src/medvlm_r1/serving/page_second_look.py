"""The second look: the same question asked in four other ways, and what each answer says in plain words.

Blank image: mid-grey, of the same size. Mirrored: left and right exchanged. Shifted options: the first moves to the
end, so that each stands under another letter. No reasoning: the model's turn is opened with an empty reasoning and the
answer tag, and the letters offered are weighed as the next token; of a model on a server, where no turn can be opened,
the `answer-only` template is asked instead.

The verdicts are pure functions of two answers: one case shows what a model did once, not what it does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medvlm_r1.data.names import folded
from medvlm_r1.report.case import Tone

Way = Literal["blank", "mirrored", "shifted", "no reasoning"]
WAYS: tuple[Way, ...] = ("blank", "mirrored", "shifted", "no reasoning")
TITLES: dict[Way, str] = {
    "blank": "Blank image",
    "mirrored": "Mirrored image",
    "shifted": "Shifted options",
    "no reasoning": "No reasoning",
}
NO_REASONING_TURN = "<think></think><answer>"
"""How the model's turn begins where it must not reason."""

_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer as verdicts compare it.

    Attributes:
        letter: The letter chosen, None for an open answer or none.
        text: The option's text, or the open answer; None where there was no answer in the wanted form.
    """

    letter: str | None
    text: str | None

    def same(self, other: Heard) -> bool:
        """Whether both say the same thing, whatever its letter; case, spaces and a full stop aside."""
        return self.text is not None and other.text is not None and folded(self.text) == folded(other.text)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence, and how it is coloured."""

    sentence: str
    tone: Tone


def judge(way: Way, real: Heard, again: Heard, *, question: str = "", options: Sequence[str] = ()) -> Verdict:
    """What the second answer says about the first.

    Args:
        way: How it was asked again.
        real: The answer to the question as it stands.
        again: The other answer.
        question: As it was asked: whether it is about a side decides what a mirrored image should do.
        options: As they were asked first.
    """
    if real.text is None:
        return Verdict("There was no answer in the wanted form to compare with.", "plain")
    if again.text is None:
        return Verdict("Asked this way, the model gives no answer in the wanted form.", "plain")
    same = real.same(again)
    match way:
        case "blank":
            return _judge_blank(same, again)
        case "mirrored":
            return _judge_mirrored(same, real, again, question, options)
        case "shifted":
            return _judge_shifted(same, real, again)
        case "no reasoning":
            return _judge_no_reasoning(same, again)


def _judge_blank(same: bool, again: Heard) -> Verdict:
    if same:
        return Verdict("The answer does not change without the image.", "fail")
    return Verdict(f"The answer depends on the image: without it, it is {_quoted(again)}.", "pass")


def _judge_mirrored(same: bool, real: Heard, again: Heard, question: str, options: Sequence[str]) -> Verdict:
    first = real.text or ""
    if _sides(first):
        if folded(_other_side(first)) == folded(again.text or ""):
            return Verdict("The side named changes with the image, as it should.", "pass")
        if same and _asks_for_side(question, options):
            return Verdict("The side named does not change when left and right are exchanged.", "fail")
    if same:
        return Verdict("The answer is the same in the mirrored image.", "pass")
    return Verdict(f"The answer changes in the mirrored image, to {_quoted(again)}.", "warn")


def _judge_shifted(same: bool, real: Heard, again: Heard) -> Verdict:
    if same:
        return Verdict("The same option is chosen under another letter.", "pass")
    if real.letter == again.letter:
        return Verdict(
            f"The letter {real.letter} is kept, now for another option: the answer follows the place, not the text.",
            "fail",
        )
    return Verdict(f"With the options in another order the answer is {_quoted(again)}.", "fail")


def _judge_no_reasoning(same: bool, again: Heard) -> Verdict:
    if same:
        return Verdict("The answer is the same without reasoning: what was written did not decide it.", "plain")
    return Verdict(f"Without reasoning the answer is {_quoted(again)}: what was written decided it.", "warn")


def _asks_for_side(question: str, options: Sequence[str]) -> bool:
    told = {side for option in options for side in _sides(option)}
    return told == {"left", "right"} or bool(re.search(r"\bside\b", question, re.IGNORECASE))


def _sides(text: str) -> set[str]:
    return {side.lower() for side in _SIDE.findall(text)}


def _other_side(text: str) -> str:
    return _SIDE.sub(lambda match: {"left": "right", "right": "left"}[match[0].lower()], text)


def _quoted(heard: Heard) -> str:
    shown = (heard.text or "").strip()
    cut = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return f"{heard.letter}) {cut}" if heard.letter else f"“{cut}”"
