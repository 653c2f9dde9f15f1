"""What the reader page asks of a model: the question as it stands, read along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from medvlm_r1.data.names import folded
from medvlm_r1.data.question import question_faults
from medvlm_r1.data.readers.lettered import bare_options
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
    """An answer as verdicts compare it.

    Attributes:
        letter: The letter chosen, None for an open answer or none.
        text: The option's text, or the open answer; None where there was no answer in the required format.
    """

    letter: str | None
    text: str | None

    def same(self, other: Heard) -> bool:
        """Whether both say the same thing, whatever its letter; case, spaces and a full stop aside."""
        return self.text is not None and other.text is not None and folded(self.text) == folded(other.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question of a session with its answer.

    Attributes:
        source: The file it is about.
        question: As it was put to the model.
        answer: What came back.
        case: The same for reading.
    """

    source: Source
    question: Question
    answer: Answer
    case: Case


def shown_name(model: str) -> str:
    """A model's name as the page and its files show it: of a folder the last two parts, not where it lies."""
    return "/".join(PurePath(model).parts[-2:]) if model.startswith(("/", ".", "~")) else model


def read_options(text: str) -> tuple[str, ...]:
    """Options as they are typed, one per line; letters in front of them ("A) brain") are removed where all have one.

    Raises:
        UsageError: They break a rule of `question_faults`: one alone, more than ten, or a repeated one.
    """
    options = bare_options([" ".join(line.split()) for line in text.splitlines() if line.strip()])
    faults = question_faults("?", options)
    if faults:
        raise UsageError(f"These options cannot be used: {'; '.join(faults)}. Give two to ten, one per line.")
    return options


def make_question(source: Source | None, choice: Choice, question: str, options: str) -> Question:
    """What the page's fields ask.

    Raises:
        UsageError: No image, no question, or unusable options; the message says what to do.
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
    """Ask, and read along: the case as far as it is written, again and again, then the whole.

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
    """An answer for reading; what is only a patient reader's guess at it is said to be one."""
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
    """An answer for comparing: by the strict rule, else as a patient reader would take it."""
    if not options:
        return Heard(None, answer.answer)
    letter = answer.letter or answer.lenient_letter
    return Heard(letter, options[LETTERS.index(letter)] if letter else None)


def _live_reply(text: str, options: Sequence[str]) -> CaseReply:
    reasoning, answer = live_parts(text)
    return CaseReply(reasoning=reasoning, answer=answer or None, raw=None, shares=shares(options, None, None))


def named(given: Heard) -> str | None:
    """An answer with its letter, where it has one."""
    return f"{given.letter}) {given.text}" if given.letter else given.text
