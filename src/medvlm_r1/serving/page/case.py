"""Ask the questions of the reader page: stream the answers, and run the consistency checks.

The consistency checks repeat a question four times, with one change each.
"""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath

from PIL import ImageOps
from PIL.Image import Image

from medvlm_r1.audit.probes.options import shifted
from medvlm_r1.data.images.picture import blank_like
from medvlm_r1.data.names import folded
from medvlm_r1.data.readers.fields import bare_options
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.errors import UsageError
from medvlm_r1.models.shown import BoxFrame
from medvlm_r1.prompts.parser import live_parts
from medvlm_r1.report.case import Case, CaseCheck, CaseReply, Tone
from medvlm_r1.report.page import picture_uri
from medvlm_r1.serving.answer import Answer, Question
from medvlm_r1.serving.medvlm import MedVLM, prepare
from medvlm_r1.serving.page.image import Choice, Source


@dataclass(frozen=True, slots=True)
class Entry:
    """One question of a session, as sent to the model, and the case to display."""

    question: Question
    case: Case


def shown_name(model: str) -> str:
    """Return the display name of a model: the last two components of a folder path, otherwise the name as given."""
    return "/".join(PurePath(model).parts[-2:]) if model.startswith(("/", ".", "~")) else model


def make_question(
    source: Source | None, choice: Choice, question: str, options: str, template: str = "medvlm-r1"
) -> Question:
    """Build the question from the page's fields; `options` has one option per line.

    Raises:
        UsageError: There is no image or no question. The message explains what to do.
    """
    if source is None:
        raise UsageError("No image yet. Drop a file, or choose an example.")
    if not question.strip():
        raise UsageError("No question yet. Type one, then ask again.")
    texts = bare_options([" ".join(line.split()) for line in options.splitlines() if line.strip()])
    view = asdict(choice.view(source))
    return Question(image=source.file, question=question.strip(), options=texts, template=template, **view)


def ask(model: MedVLM, question: Question) -> Generator[Case | Entry, None, None]:
    """Ask a question: yield a partial case for each new piece of text, then the complete entry.

    Closing the iterator stops the generation.

    Raises:
        UserError: See `MedVLM.stream`.
    """
    with model.stream(question) as stream:
        [picture] = stream.pictures
        case = Case(
            question=question.question,
            image=picture_uri(picture.image),
            image_note=picture.note.summary(),
            model=shown_name(model.name),
            reply=_live_reply("", question.options, stream.frame),
            live=True,
        )
        yield case
        text = ""
        for piece in stream:
            text += piece
            yield replace(case, reply=_live_reply(text, question.options, stream.frame))
    assert stream.answer is not None
    yield Entry(question, replace(case, reply=case_reply(stream.answer, question.options), live=False))


def case_reply(answer: Answer, options: Sequence[str]) -> CaseReply:
    """Return an answer for display. If the strict rule finds no letter, use that of the lenient rule and add a note."""
    separate = answer.well_formed or (answer.reasoning is not None and answer.answer is not None)
    letter = (answer.letter or answer.lenient_letter) if options else None
    notes = {
        "truncated at the token limit": answer.truncated,
        "the required format was not followed": not answer.well_formed,
        "malformed boxes are not shown": answer.malformed_boxes > 0,
        "the answer is from the lenient parser": letter is not None and answer.letter is None,
    }
    return CaseReply(
        letter=letter,
        text=options[LETTERS.index(letter)] if letter else None if options else answer.answer,
        reasoning=answer.reasoning if separate else None,
        raw=None if separate else answer.text,
        options=options,
        confidence=answer.confidence,
        note="; ".join(note for note, applies in notes.items() if applies),
        boxes=answer.boxes,
    )


def _live_reply(text: str, options: Sequence[str], frame: BoxFrame | None) -> CaseReply:
    reasoning, answer = live_parts(text)
    boxes = tuple(frame.boxes(text)) if frame else ()
    return CaseReply(reasoning=reasoning, text=answer or None, options=options, boxes=boxes)


Verdict = tuple[str, Tone]
"""The result of a check: one sentence and its color. `{}` stands for the changed answer."""


@dataclass(frozen=True, slots=True)
class Check:
    """One consistency check.

    Attributes:
        title: Name of the check.
        how: Description of the change.
        same: Verdict if the answer stays the same.
        other: Verdict if the answer changes.
        change: Changes the image; None for a check of the same image.
        skipped: Why the check does not apply to an open question; "" if it does.
    """

    title: str
    how: str
    same: Verdict
    other: Verdict
    change: Callable[[Image], Image] | None = None
    skipped: str = ""


CHECKS = {
    "blank": Check(
        "Blank image",
        "The same question with a blank gray image.",
        ("The answer does not change without the image.", "fail"),
        ("The answer depends on the image: without it, it is {}.", "pass"),
        blank_like,
    ),
    "mirrored": Check(
        "Mirrored image",
        "The same question with left and right exchanged in the image.",
        ("The answer is the same in the mirrored image.", "pass"),
        ("The answer changes in the mirrored image, to {}.", "warn"),
        ImageOps.mirror,
    ),
    "shifted": Check(
        "Shifted options",
        "The first option moved to the end, so that each option has another letter.",
        ("The same option is chosen under another letter.", "pass"),
        ("With shifted options the answer is {}.", "fail"),
        skipped="An open question has no options to shift.",
    ),
    "no reasoning": Check(
        "No reasoning",
        "Empty reasoning (assistant prefill), then the most probable letter.",
        ("The answer is the same without reasoning: the reasoning did not decide it.", "plain"),
        ("Without reasoning the answer is {}: the reasoning decided it.", "warn"),
        skipped="An open question is not asked without reasoning: it has no letters.",
    ),
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
    question = replace(entry.question, image=image, frame=None, plane=None, slice=None, window=None)
    checks: tuple[CaseCheck, ...] = ()
    for name in CHECKS:
        checks = (*checks, _run(model, question, entry.case.reply, name))
        yield replace(entry, case=replace(entry.case, checks=checks))


def _run(model: MedVLM, question: Question, original: CaseReply, name: str) -> CaseCheck:
    check, options = CHECKS[name], tuple(question.options)
    if check.skipped and not options:
        return CaseCheck(title=check.title, how="Skipped.", image=None, reply=None, verdict=check.skipped, tone="plain")
    how, image = check.how, None
    if name == "no reasoning":
        scored = model.backend.letters([prepare(question).item], [NO_REASONING], [len(options)])
        if scored is not None:
            reply = _most_probable(options, scored[0])
        else:
            how = "The prompt asks for the letter alone, because this model gives no letter probabilities."
            [answer] = model.ask_batch([replace(question, template="answer-only")])
            reply = case_reply(answer, options)
            reply = CaseReply(letter=reply.letter, text=reply.text, raw=None if reply.text else answer.text)
    else:
        changed = replace(question, options=shifted(options, 1) if name == "shifted" else options)
        if check.change is not None:
            image = check.change(question.image)
            changed = replace(changed, image=image)
        [answer] = model.ask_batch([changed])
        reply = case_reply(answer, changed.options)
    sentence, tone = judge(name, original, reply, question=question.question, options=options)
    uri = None if image is None else picture_uri(image, _IMAGE_SIDE)
    return CaseCheck(title=check.title, how=how, image=uri, reply=reply, verdict=sentence, tone=tone)


def _most_probable(options: Sequence[str], scored: Sequence[float]) -> CaseReply:
    probabilities = dict(zip(options, scored, strict=True))
    option = max(options, key=probabilities.__getitem__)
    letter = LETTERS[options.index(option)]
    return CaseReply(letter=letter, text=option, options=options, confidence=probabilities)


def judge(
    name: str, original: CaseReply, changed: CaseReply, *, question: str = "", options: Sequence[str] = ()
) -> Verdict:
    """Compare the changed answer with the original.

    Two answers are the same if their texts are equal, ignoring the letter, case, spaces and a final full stop.

    Args:
        name: Name of the check in `CHECKS`.
        original: The original answer.
        changed: The answer after the change.
        question: The question. If it asks about a side, mirroring the image should change the answer.
        options: The original options.
    """
    if original.text is None:
        return "There was no answer in the required format to compare with.", "plain"
    if changed.text is None:
        return "Asked this way, the model gives no answer in the required format.", "plain"
    same = folded(original.text) == folded(changed.text)
    if name == "mirrored" and _sides(original.text):
        mirrored = _SIDE.sub(lambda match: "right" if match[0].lower() == "left" else "left", original.text)
        if folded(mirrored) == folded(changed.text):
            return "The named side changes with the image, as it should.", "pass"
        sides_offered = _sides("\n".join(options))
        if same and (sides_offered == {"left", "right"} or re.search(r"\bside\b", question, re.IGNORECASE)):
            return "The named side does not change when left and right are exchanged.", "fail"
    if name == "shifted" and not same and original.letter == changed.letter:
        return (
            f"The letter {original.letter} stays, now for another option: the answer follows the position, not the "
            "text.",
            "fail",
        )
    sentence, tone = CHECKS[name].same if same else CHECKS[name].other
    return sentence.format(_quoted(changed)), tone


def _sides(text: str) -> set[str]:
    return {side.lower() for side in _SIDE.findall(text)}


def _quoted(reply: CaseReply) -> str:
    text = (reply.text or "").strip()
    short = text if len(text) <= 80 else f"{text[:77]}..."
    return f"{reply.letter}) {short}" if reply.letter else f"“{short}”"
