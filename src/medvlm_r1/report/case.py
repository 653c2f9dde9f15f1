"""One case as HTML: question, image, answer and consistency checks.

The reader page and its exported file use the same templates. They contain the image's pixels and the loader's note.
They contain no path, no file name and no header field beyond the note.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medvlm_r1.prompts.boxes import Edges
from medvlm_r1.report.page import render_page

Tone = Literal["pass", "warn", "fail", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReply:
    """A model's reply.

    Attributes:
        letter: The chosen letter; None for an open or missing answer.
        text: The chosen option, or the text of an open answer; None if there is none.
        reasoning: Reasoning text; None if there is none or it cannot be separated.
        raw: The full text if reasoning and answer cannot be separated, otherwise None.
        options: The options in letter order; empty for an open question.
        confidence: Probability by option; None if unknown.
        note: A remark such as "truncated at the token limit", or "".
        boxes: The stated boxes, as fractions of the width and height of the image.
    """

    letter: str | None = None
    text: str | None = None
    reasoning: str | None = None
    raw: str | None = None
    options: Sequence[str] = ()
    confidence: Mapping[str, float] | None = None
    note: str = ""
    boxes: tuple[Edges, ...] = ()

    @property
    def answer(self) -> str | None:
        """The answer with its letter, if it has one."""
        return f"{self.letter}) {self.text}" if self.letter else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseCheck:
    """One consistency check.

    Attributes:
        title: Name of the check.
        how: Description of the change.
        image: The changed image as a data URI; None if the check does not change the image.
        reply: The model's reply; None if the check was skipped.
        verdict: One sentence with the result.
        tone: Color of the verdict; "plain" if the check allows no conclusion.
    """

    title: str
    how: str
    image: str | None
    reply: CaseReply | None
    verdict: str
    tone: Tone


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question about one image, with the model's reply and the consistency checks.

    Attributes:
        question: The question text.
        image: The image shown to the model, as a data URI.
        image_note: The loader's note, without a path.
        model: Name of the model.
        reply: The model's reply; incomplete while it is being generated.
        checks: The consistency checks; empty before they run.
        live: Whether the reply is still being generated.
    """

    question: str
    image: str
    image_note: str
    model: str
    reply: CaseReply
    checks: tuple[CaseCheck, ...] = ()
    live: bool = False


def render_answer(case: Case) -> str:
    """Render the case without consistency checks, as a page fragment."""
    return render_page("case_answer.html", case=case)


def render_checks(case: Case) -> str:
    """Render the consistency checks, as a page fragment."""
    return render_page("case_checks.html", case=case)


def render_case(case: Case) -> str:
    """Render the whole case as one self-contained HTML file."""
    return render_page("case.html", title="One case", case=case)
