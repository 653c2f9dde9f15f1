"""Consistency checks of the reader page: repeat the question four times, with one change each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from PIL import ImageOps
from PIL.Image import Image

from medvlm_r1.audit.probes.options import shifted
from medvlm_r1.data.images.blank import blank_like
from medvlm_r1.data.names import folded
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.report.album import picture_uri
from medvlm_r1.report.case import CaseCheck, CaseReply, Tone, shares
from medvlm_r1.serving.answer import Question
from medvlm_r1.serving.medvlm import MedVLM, prepare
from medvlm_r1.serving.page.case import Entry, case_reply

Check = Literal["blank", "mirrored", "shifted", "no reasoning"]
TITLES: dict[Check, str] = {
    "blank": "Blank image",
    "mirrored": "Mirrored image",
    "shifted": "Shifted options",
    "no reasoning": "No reasoning",
}
_SKIPPED: dict[Check, str] = {
    "shifted": "An open question has no options to shift.",
    "no reasoning": "An open question is not asked without reasoning: it has no letters.",
}
NO_REASONING = "<think></think><answer>"
"""Assistant prefill with empty reasoning and an open answer tag."""

_IMAGE_SIDE = 256
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def run_checks(model: MedVLM, entry: Entry) -> Iterator[Entry]:
    """Run the consistency checks. After each check, yield the entry with all checks so far.

    Raises:
        UserError: See `MedVLM.ask`.
    """
    image = prepare(entry.question).pictures[0].image
    checks: tuple[CaseCheck, ...] = ()
    for check in TITLES:
        checks = (*checks, _run(model, entry, check, image))
        yield replace(entry, case=replace(entry.case, checks=checks))


def _run(model: MedVLM, entry: Entry, check: Check, image: Image) -> CaseCheck:
    options = tuple(entry.question.options)
    if not options and check in _SKIPPED:
        return CaseCheck(
            title=TITLES[check], how="Skipped.", image=None, reply=None, verdict=_SKIPPED[check], tone="plain"
        )
    question = replace(entry.question, image=image, frame=None, plane=None, slice=None, window=None)
    changed: Image | None = None
    match check:
        case "blank":
            changed, how = blank_like(image), "The same question with a blank gray image."
        case "mirrored":
            changed, how = ImageOps.mirror(image), "The same question with left and right exchanged in the image."
        case "shifted":
            options = shifted(options, 1)
            how = "The first option moved to the end, so that each option has another letter."
    if check == "no reasoning":
        reply, how = _without_reasoning(model, question)
    else:
        [answer] = model.ask_batch([replace(question, image=changed or image, options=options)])
        reply = case_reply(answer, options)
    verdict = judge(
        check, entry.case.reply, reply, question=entry.question.question, options=tuple(entry.question.options)
    )
    return CaseCheck(
        title=TITLES[check],
        how=how,
        image=None if changed is None else picture_uri(changed, _IMAGE_SIDE),
        reply=reply,
        verdict=verdict.sentence,
        tone=verdict.tone,
    )


def _without_reasoning(model: MedVLM, question: Question) -> tuple[CaseReply, str]:
    """Score the letters after empty reasoning. If there are no probabilities, use the `answer-only` template."""
    options = tuple(question.options)
    scored = model.backend.letters([prepare(question).item], [NO_REASONING], [len(options)])
    if scored is None:
        [answer] = model.ask_batch([replace(question, template="answer-only")])
        reply = case_reply(answer, options)
        how = "The prompt asks for the letter alone, because this model gives no letter probabilities."
        return CaseReply(letter=reply.letter, text=reply.text, raw=None if reply.text else answer.text), how
    probabilities = dict(zip(options, scored[0], strict=True))
    option = max(options, key=probabilities.__getitem__)
    letter = LETTERS[options.index(option)]
    reply = CaseReply(letter=letter, text=option, shares=shares(options, letter, probabilities))
    return reply, "Empty reasoning (assistant prefill), then the most probable letter."


class Verdict(NamedTuple):
    """The result of a check: one sentence and its color."""

    sentence: str
    tone: Tone


def judge(
    check: Check, original: CaseReply, changed: CaseReply, *, question: str = "", options: Sequence[str] = ()
) -> Verdict:
    """Compare the changed answer with the original.

    Two answers are the same if their texts are equal, ignoring the letter, case, spaces and a final full stop.

    Args:
        check: The check.
        original: The original answer.
        changed: The answer after the change.
        question: The question. If it asks about a side, mirroring the image should change the answer.
        options: The original options.
    """
    if original.text is None:
        return Verdict("There was no answer in the required format to compare with.", "plain")
    if changed.text is None:
        return Verdict("Asked this way, the model gives no answer in the required format.", "plain")
    same = folded(original.text) == folded(changed.text)
    quoted = _quoted(changed)
    if check == "mirrored" and _sides(original.text):
        mirrored = _SIDE.sub(lambda match: "right" if match[0].lower() == "left" else "left", original.text)
        if folded(mirrored) == folded(changed.text):
            return Verdict("The named side changes with the image, as it should.", "pass")
        sides_offered = {side for option in options for side in _sides(option)}
        if same and (sides_offered == {"left", "right"} or re.search(r"\bside\b", question, re.IGNORECASE)):
            return Verdict("The named side does not change when left and right are exchanged.", "fail")
    if check == "shifted" and not same and original.letter == changed.letter:
        return Verdict(
            f"The letter {original.letter} stays, now for another option: the answer follows the position, not the "
            "text.",
            "fail",
        )
    verdicts: dict[Check, tuple[Verdict, Verdict]] = {
        "blank": (
            Verdict("The answer does not change without the image.", "fail"),
            Verdict(f"The answer depends on the image: without it, it is {quoted}.", "pass"),
        ),
        "mirrored": (
            Verdict("The answer is the same in the mirrored image.", "pass"),
            Verdict(f"The answer changes in the mirrored image, to {quoted}.", "warn"),
        ),
        "shifted": (
            Verdict("The same option is chosen under another letter.", "pass"),
            Verdict(f"With shifted options the answer is {quoted}.", "fail"),
        ),
        "no reasoning": (
            Verdict("The answer is the same without reasoning: the reasoning did not decide it.", "plain"),
            Verdict(f"Without reasoning the answer is {quoted}: the reasoning decided it.", "warn"),
        ),
    }
    return verdicts[check][0 if same else 1]


def _sides(text: str) -> set[str]:
    return {side.lower() for side in _SIDE.findall(text)}


def _quoted(reply: CaseReply) -> str:
    text = (reply.text or "").strip()
    short = text if len(text) <= 80 else f"{text[:77]}..."
    return f"{reply.letter}) {short}" if reply.letter else f"“{short}”"
