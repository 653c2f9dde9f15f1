"""Ask the questions of the reader page and stream the answers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath

from medvlm_r1.data.readers.fields import bare_options
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.errors import UsageError
from medvlm_r1.prompts.parser import live_parts
from medvlm_r1.report.album import picture_uri
from medvlm_r1.report.case import Case, CaseReply, shares
from medvlm_r1.serving.answer import Answer, Question
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page.image import Choice, Source


@dataclass(frozen=True, slots=True)
class Entry:
    """One question of a session, as sent to the model, and the case to display."""

    question: Question
    case: Case


def shown_name(model: str) -> str:
    """Return the display name of a model: the last two components of a folder path, otherwise the name as given."""
    return "/".join(PurePath(model).parts[-2:]) if model.startswith(("/", ".", "~")) else model


def make_question(source: Source | None, choice: Choice, question: str, options: str) -> Question:
    """Build the question from the page's fields; `options` has one option per line.

    Raises:
        UsageError: There is no image or no question. The message explains what to do.
    """
    if source is None:
        raise UsageError("No image yet. Drop a file, or choose an example.")
    if not question.strip():
        raise UsageError("No question yet. Type one, then ask again.")
    texts = bare_options([" ".join(line.split()) for line in options.splitlines() if line.strip()])
    return Question(image=source.file, question=question.strip(), options=texts, **asdict(choice.view(source)))


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
            reply=_live_reply("", question.options),
            live=True,
        )
        yield case
        text = ""
        for piece in stream:
            text += piece
            yield replace(case, reply=_live_reply(text, question.options))
    assert stream.answer is not None
    yield Entry(question, replace(case, reply=case_reply(stream.answer, question.options), live=False))


def case_reply(answer: Answer, options: Sequence[str]) -> CaseReply:
    """Return an answer for display. If the strict rule finds no letter, use that of the lenient rule and add a note."""
    separate = answer.well_formed or (answer.reasoning is not None and answer.answer is not None)
    letter = (answer.letter or answer.lenient_letter) if options else None
    notes = {
        "truncated at the token limit": answer.truncated,
        "the required format was not followed": not answer.well_formed,
        "the answer is from the lenient parser": letter is not None and answer.letter is None,
    }
    return CaseReply(
        letter=letter,
        text=options[LETTERS.index(letter)] if letter else None if options else answer.answer,
        reasoning=answer.reasoning if separate else None,
        raw=None if separate else answer.text,
        shares=shares(options, letter, answer.confidence),
        note="; ".join(note for note, applies in notes.items() if applies),
    )


def _live_reply(text: str, options: Sequence[str]) -> CaseReply:
    reasoning, answer = live_parts(text)
    return CaseReply(reasoning=reasoning, text=answer or None, shares=shares(options, None, None))
