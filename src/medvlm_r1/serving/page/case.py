"""Questions of the reader page, with streamed answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from medvlm_r1.data.names import folded
from medvlm_r1.data.question import question_faults
from medvlm_r1.data.readers.fields import bare_options
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.prompts.live import live_parts
from medvlm_r1.report.album import picture_uri
from medvlm_r1.report.case import Case, CaseReply, shares
from medvlm_r1.serving.answer import Answer, Question
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page.image import Choice, Source


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer for comparison.

    Attributes:
        letter: The chosen letter; None for an open or missing answer.
        text: The option text, or the open answer; None without an answer.
    """

    letter: str | None
    text: str | None

    def same(self, other: Heard) -> bool:
        """Whether both texts are equal, ignoring letter, case, spaces and a final full stop."""
        return self.text is not None and other.text is not None and folded(self.text) == folded(other.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question of a session with its answer.

    Attributes:
        source: The opened file.
        question: The question as sent to the model.
        answer: The model's answer.
        case: The rendered case.
    """

    source: Source
    question: Question
    answer: Answer
    case: Case


def shown_name(model: str) -> str:
    """Return the display name of a model: the last two parts of a folder."""
    return "/".join(PurePath(model).parts[-2:]) if model.startswith(("/", ".", "~")) else model


def read_options(text: str) -> tuple[str, ...]:
    """Parse options, one per line; leading letters ("A) brain") are removed if all have one.

    Raises:
        UsageError: They break a rule of `question_faults`: one alone, more than ten, or a repeated one.
    """
    options = bare_options([" ".join(line.split()) for line in text.splitlines() if line.strip()])
    faults = question_faults("?", options)
    if faults:
        raise UsageError(f"These options cannot be used: {'; '.join(faults)}. Give two to ten, one per line.")
    return options


def make_question(source: Source | None, choice: Choice, question: str, options: str) -> Question:
    """Build the question from the page's fields.

    Raises:
        UsageError: No image, no question, or invalid options; the message explains what to do.
    """
    if source is None:
        raise UsageError("No image yet. Drop a file, or choose an example.")
    if not question.strip():
        raise UsageError("No question yet. Type one, then ask again.")
    view = choice.view(source)
    return Question(
        image=source.file,
        question=question.strip(),
        options=read_options(options),
        frame=view.frame,
        plane=view.plane,
        slice=view.slice,
        window=view.window,
    )


def ask(model: MedVLM, source: Source, question: Question) -> Iterator[Case | Asked]:
    """Ask and stream: yield the partial case repeatedly, then the complete one.

    Closing the iterator stops the model.

    Raises:
        UserError: As `MedVLM.stream`.
    """
    with model.stream(question) as stream:
        [picture] = stream.pictures
        case = Case(
            question=question.question,
            image=picture_uri(picture.image),
            image_note=picture.note.summary(),
            model=shown_name(model.name),
            reply=_live_reply("", question.options),
            live=True,
        )
        yield case
        text = ""
        for piece in stream:
            text += piece
            yield replace(case, reply=_live_reply(text, question.options))
        answer = stream.answer
    if answer is None:
        raise UserError("The model stopped before its answer was complete. Ask again.")
    finished = replace(case, reply=case_reply(answer, question.options), live=False)
    yield Asked(source=source, question=question, answer=answer, case=finished)


def case_reply(answer: Answer, options: Sequence[str]) -> CaseReply:
    """Return an answer for display; an answer from the lenient parser is marked."""
    apart = answer.well_formed or (answer.reasoning is not None and answer.answer is not None)
    given = heard(answer, options)
    notes = []
    if answer.truncated:
        notes.append("truncated at the token limit")
    if not answer.well_formed:
        notes.append("the required format was not followed")
    if options and answer.letter is None and given.letter:
        notes.append("the answer is from the lenient parser")
    return CaseReply(
        reasoning=answer.reasoning if apart else None,
        answer=named(given),
        raw=None if apart else answer.text,
        shares=shares(options, given.letter, answer.confidence),
        note="; ".join(notes),
    )


def heard(answer: Answer, options: Sequence[str]) -> Heard:
    """Return an answer for comparison: by the strict rule, otherwise by the lenient rule."""
    if not options:
        return Heard(None, answer.answer)
    letter = answer.letter or answer.lenient_letter
    return Heard(letter, options[LETTERS.index(letter)] if letter else None)


def _live_reply(text: str, options: Sequence[str]) -> CaseReply:
    reasoning, answer = live_parts(text)
    return CaseReply(reasoning=reasoning, answer=answer or None, raw=None, shares=shares(options, None, None))


def named(given: Heard) -> str | None:
    """Return an answer with its letter, if it has one."""
    return f"{given.letter}) {given.text}" if given.letter else given.text
