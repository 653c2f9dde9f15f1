"""Consistency checks of the reader page: the same question with four changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from PIL import ImageOps
from PIL.Image import Image

from medvlm_r1.audit.probes.letter_bias import shifted
from medvlm_r1.data.images import Picture
from medvlm_r1.data.images.blank import blank_like
from medvlm_r1.data.names import folded
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.report.album import picture_uri
from medvlm_r1.report.case import CaseLook, CaseReply, Tone, shares
from medvlm_r1.serving.answer import Answer, Question
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page.case import Asked, Heard, case_reply, heard, named

_LOOK_SIDE = 256


def second_look(model: MedVLM, asked: Asked) -> Iterator[Asked]:
    """Run the checks; yield the case after each.

    Raises:
        UserError: As `MedVLM.ask`.
    """
    picture = model.prepare(asked.question).pictures[0]
    looks: tuple[CaseLook, ...] = ()
    for way in WAYS:
        looks = (*looks, _look(model, asked, way, picture))
        yield replace(asked, case=replace(asked.case, looks=looks))


def _look(model: MedVLM, asked: Asked, way: Way, picture: Picture) -> CaseLook:
    question, options = asked.question, tuple(asked.question.options)
    shown: Image | None = None
    again, how = replace(question, image=picture.image, frame=None, plane=None, slice=None, window=None), ""
    match way:
        case "blank":
            shown, how = blank_like(picture.image), "The same question with a blank gray image."
        case "mirrored":
            shown, how = (
                ImageOps.mirror(picture.image),
                "The same question with left and right exchanged in the image.",
            )
        case "shifted":
            if not options:
                return _not_asked(way, "An open question has no options to shift.")
            again = replace(again, options=shifted(options, 1))
            how = "The first option moved to the end, so that each option has another letter."
        case "no reasoning":
            if not options:
                return _not_asked(way, "An open question is not asked without reasoning: it has no letters.")
            return _without_reasoning(model, asked, again)
    if shown is not None:
        again = replace(again, image=shown)
    return _judged(asked, way, how, model.ask_batch([again])[0], again.options, shown)


def _without_reasoning(model: MedVLM, asked: Asked, again: Question) -> CaseLook:
    """Score the letters after an empty reasoning; without probabilities, use the `answer-only` template."""
    options = tuple(again.options)
    found = model.backend.letters([model.prepare(again).item], [NO_REASONING_TURN], [len(options)])
    if found is None:
        [answer] = model.ask_batch([replace(again, template="answer-only")])
        said = heard(answer, options)
        reply = CaseReply(reasoning=None, answer=named(said), raw=None if said.text else answer.text)
        how = "The prompt asks for the letter alone, because this model gives no letter probabilities."
    else:
        probabilities = dict(zip(options, found[0], strict=True))
        option = max(options, key=probabilities.__getitem__)
        said = Heard(LETTERS[options.index(option)], option)
        bars = shares(options, said.letter, probabilities)
        reply = CaseReply(reasoning=None, answer=named(said), raw=None, shares=bars)
        how = "Empty reasoning (assistant prefill), then the most probable letter."
    return _look_of(asked, "no reasoning", how, said, reply, None)


def _judged(asked: Asked, way: Way, how: str, answer: Answer, options: Sequence[str], shown: Image | None) -> CaseLook:
    return _look_of(asked, way, how, heard(answer, options), case_reply(answer, options), shown)


def _look_of(asked: Asked, way: Way, how: str, again: Heard, reply: CaseReply, shown: Image | None) -> CaseLook:
    question, options = asked.question.question, asked.question.options
    verdict = judge(way, heard(asked.answer, options), again, question=question, options=options)
    return CaseLook(
        title=TITLES[way],
        how=how,
        image=None if shown is None else picture_uri(shown, _LOOK_SIDE),
        reply=reply,
        verdict=verdict.sentence,
        tone=verdict.tone,
    )


def _not_asked(way: Way, reason: str) -> CaseLook:
    return CaseLook(title=TITLES[way], how="Skipped.", image=None, reply=None, verdict=reason, tone="plain")


Way = Literal["blank", "mirrored", "shifted", "no reasoning"]
WAYS: tuple[Way, ...] = ("blank", "mirrored", "shifted", "no reasoning")
TITLES: dict[Way, str] = {
    "blank": "Blank image",
    "mirrored": "Mirrored image",
    "shifted": "Shifted options",
    "no reasoning": "No reasoning",
}
NO_REASONING_TURN = "<think></think><answer>"
"""Assistant prefill with an empty reasoning."""

_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence and its color."""

    sentence: str
    tone: Tone


def judge(way: Way, real: Heard, again: Heard, *, question: str = "", options: Sequence[str] = ()) -> Verdict:
    """Compare the changed answer with the original.

    Args:
        way: The check.
        real: The original answer.
        again: The answer after the change.
        question: The question; one about a side should change its answer with a mirrored image.
        options: The original options.
    """
    if real.text is None:
        return Verdict("There was no answer in the required format to compare with.", "plain")
    if again.text is None:
        return Verdict("Asked this way, the model gives no answer in the required format.", "plain")
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
            return Verdict("The named side changes with the image, as it should.", "pass")
        if same and _asks_for_side(question, options):
            return Verdict("The named side does not change when left and right are exchanged.", "fail")
    if same:
        return Verdict("The answer is the same in the mirrored image.", "pass")
    return Verdict(f"The answer changes in the mirrored image, to {_quoted(again)}.", "warn")


def _judge_shifted(same: bool, real: Heard, again: Heard) -> Verdict:
    if same:
        return Verdict("The same option is chosen under another letter.", "pass")
    if real.letter == again.letter:
        return Verdict(
            f"The letter {real.letter} stays, now for another option: the answer follows the position, not the text.",
            "fail",
        )
    return Verdict(f"With shifted options the answer is {_quoted(again)}.", "fail")


def _judge_no_reasoning(same: bool, again: Heard) -> Verdict:
    if same:
        return Verdict("The answer is the same without reasoning: the reasoning did not decide it.", "plain")
    return Verdict(f"Without reasoning the answer is {_quoted(again)}: the reasoning decided it.", "warn")


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
