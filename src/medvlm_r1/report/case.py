"""One case as HTML: what was asked about one image, what the model said, and how far it held when asked again.

The same templates make the parts of the reader page and the file that is exported from it. Of the image there are its
pixels and the loader's note: no path, no name of a file, nothing else of a header.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.report.page import render_page

Tone = Literal["pass", "warn", "fail", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One option and how probable its letter was; `percent` is None where that is not known."""

    letter: str
    option: str
    percent: float | None
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReply:
    """What a model said.

    Attributes:
        reasoning: Text of its reasoning; None where there is none or it cannot be told apart.
        answer: The chosen option with its letter, or the text of an open answer; None where there is none.
        raw: The whole text where reasoning and answer cannot be told apart, else None.
        shares: The options as they were asked.
        note: What else must be known to read it ("truncated at the token limit"); "" when nothing.
    """

    reasoning: str | None
    answer: str | None
    raw: str | None
    shares: tuple[Share, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseLook:
    """One more way the same question was asked.

    Attributes:
        title: Its name.
        how: What was changed, in words.
        image: What was shown, as data URI; None where the picture was the same.
        reply: What came back; None where it was not asked.
        verdict: What that says, one plain sentence.
        tone: How the verdict is coloured: "plain" where nothing can be concluded.
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
        question: As it was asked.
        image: What the model was shown, as data URI.
        image_note: What the loader says of it, without a path.
        model: Name of the model.
        reply: What it said, as far as it has come.
        looks: The second look; empty before it.
        live: The reply is still being written.
    """

    question: str
    image: str
    image_note: str
    model: str
    reply: CaseReply
    looks: tuple[CaseLook, ...] = ()
    live: bool = False


def shares(options: Sequence[str], letter: str | None, probabilities: Mapping[str, float] | None) -> tuple[Share, ...]:
    """The options as bars.

    Args:
        options: As they were asked.
        letter: The one chosen.
        probabilities: Of each option, by its text; None where the model tells none.
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
    """The case without its second look, as a part of a page."""
    return render_page("case_answer.html", case=case)


def render_looks(case: Case) -> str:
    """The second look alone, as a part of a page."""
    return render_page("case_looks.html", case=case)


def render_case(case: Case) -> str:
    """The whole case as one self-contained HTML file, to be kept or sent."""
    return render_page("case.html", title="One case", case=case)
