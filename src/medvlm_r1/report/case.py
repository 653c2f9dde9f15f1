"""One case as HTML: question, image, answer and consistency checks.

The reader page and its exported file use the same templates. Of the image they contain the pixels and the loader's
note, but no path, file name or other header field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.report.page import render_page

Tone = Literal["pass", "warn", "fail", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One option and the probability of its letter; `percent` is None if unknown."""

    letter: str
    option: str
    percent: float | None
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReply:
    """A model's reply.

    Attributes:
        reasoning: Reasoning text; None if there is none or it cannot be separated.
        answer: The chosen option with its letter, or the text of an open answer; None if there is none.
        raw: The full text if reasoning and answer cannot be separated, otherwise None.
        shares: The options in their order.
        note: A remark such as "truncated at the token limit", or "".
    """

    reasoning: str | None
    answer: str | None
    raw: str | None
    shares: tuple[Share, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseLook:
    """One consistency check.

    Attributes:
        title: Name of the check.
        how: Description of the change.
        image: The changed image as data URI; None if it is the same.
        reply: The model's reply; None if the check was skipped.
        verdict: One sentence with the result.
        tone: Color of the verdict; "plain" if nothing can be concluded.
    """

    title: str
    how: str
    image: str | None
    reply: CaseReply | None
    verdict: str
    tone: Tone


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question about one image, with its answers.

    Attributes:
        question: The question text.
        image: The image shown to the model, as data URI.
        image_note: The loader's note, without a path.
        model: Name of the model.
        reply: The reply so far.
        looks: The consistency checks; empty before they run.
        live: Whether the reply is still being generated.
    """

    question: str
    image: str
    image_note: str
    model: str
    reply: CaseReply
    looks: tuple[CaseLook, ...] = ()
    live: bool = False


def shares(options: Sequence[str], letter: str | None, probabilities: Mapping[str, float] | None) -> tuple[Share, ...]:
    """Return the options as bars.

    Args:
        options: The options in their order.
        letter: The chosen letter.
        probabilities: Probability by option text; None if unknown.
    """
    return tuple(
        Share(
            letter=place,
            option=option,
            percent=None if probabilities is None else 100 * probabilities[option],
            chosen=place == letter,
        )
        for place, option in zip(LETTERS, options, strict=False)
    )


def render_answer(case: Case) -> str:
    """Render the case without consistency checks, as a page fragment."""
    return render_page("case_answer.html", case=case)


def render_looks(case: Case) -> str:
    """Render the consistency checks, as a page fragment."""
    return render_page("case_looks.html", case=case)


def render_case(case: Case) -> str:
    """Render the whole case as one self-contained HTML file."""
    return render_page("case.html", title="One case", case=case)
