"""Response parser: reasoning, answer and letter of a completion.

Every function takes time linear in the length of the text. The patterns of the release, such as
`<answer>(.*?)</answer>`, are quadratic on a text that opens many tags and closes none, which a policy early in training
does write; here each tag is looked for once, with the same result.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from medvlm_r1.prompts.lenient import letter_in_prose

# Any case, as the release's accuracy reward reads them.
_THINK_OPEN = re.compile("<think>", re.IGNORECASE)
_THINK_CLOSE = re.compile("</think>", re.IGNORECASE)
_ANSWER_OPEN = re.compile("<answer>", re.IGNORECASE)
_ANSWER_CLOSE = re.compile("</answer>", re.IGNORECASE)

_TAG = re.compile(r"(</?(?:think|answer)>)", re.IGNORECASE)
# The end of a streamed text may be half a tag: "</thi" must not flash up as reasoning.
_HALF_TAG = re.compile(r"</?[a-z]{0,6}$", re.IGNORECASE)

_STRICT = re.compile(r"<answer>\s*([A-Z])\s*</answer>")
BRIDGE = re.compile(r"</think>\s*<answer>")
"""Where a well formed text goes from the reasoning to the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    r"""One parsed completion.

    Attributes:
        reasoning: Text of the first `<think>...</think>`, stripped; None when there is none or it is cut off.
        answer: Text of the first `<answer>...</answer>`, stripped; None when there is none or it is cut off.
        letter: The letter by the release's own rule, `re.search(r"<answer>\s*([A-Z])\s*</answer>")`; None when
            nothing matches, which counts as wrong.
        lenient_letter: The letter that a tolerant reader would accept; equals `letter` if there is one. None if the
            text names no option or several; never a guess.
        well_formed: The release's format holds: a full match of `<think>.*?</think>\s*<answer>.*?</answer>`.
    """

    reasoning: str | None
    answer: str | None
    letter: str | None
    lenient_letter: str | None
    well_formed: bool


def parse_response(text: str, options: Sequence[str] = ()) -> Response:
    """Read a completion.

    The lenient letter equals the strict letter if there is one. Otherwise `prompts.lenient` reads the first answer
    tag or, without a tag, the text after the reasoning.

    Args:
        text: The completion, without special tokens.
        options: Option texts of the question; without them only letters can be read.

    Returns:
        The parsed response. Any text is accepted: parsing never raises an exception.
    """
    answer = answer_text(text)
    letter = strict_letter(text)
    opened = _ANSWER_OPEN.search(text)
    if letter is not None:
        lenient: str | None = letter
    elif opened:
        # An answer tag that is never closed still says what it says.
        lenient = letter_in_prose(text[opened.end() :] if answer is None else answer, options)
    else:
        lenient = letter_in_prose(conclusion_text(text), options)
    reasoning = _between(text, _THINK_OPEN, _THINK_CLOSE)
    return Response(
        reasoning=None if reasoning is None else reasoning.strip(),
        answer=None if answer is None else answer.strip(),
        letter=letter,
        lenient_letter=lenient,
        well_formed=is_well_formed(text),
    )


def with_reasoning_opened(text: str) -> str:
    """Add a missing `<think>` before a text that closes it; return any other text unchanged.

    For servers: one whose chat template opens the reasoning returns what the model wrote after the tag, and does not
    return the prompt. Where the reasoning was cut off before `</think>`, this cannot be known.
    """
    closed = _THINK_CLOSE.search(text)
    return text if closed is None or _THINK_OPEN.search(text, 0, closed.start()) else f"<think>{text}"


def answer_text(text: str) -> str | None:
    """Text of the first `<answer>...</answer>`, tags in any case, as written; None when there is none."""
    return _between(text, _ANSWER_OPEN, _ANSWER_CLOSE)


def strict_letter(text: str) -> str | None:
    """The letter by the release's evaluation rule; None when nothing matches."""
    match = _STRICT.search(text)
    return match[1] if match else None


def is_well_formed(text: str) -> bool:
    r"""Whether the whole text matches `<think>.*?</think>\s*<answer>.*?</answer>`, dots matching newlines.

    A full match ignores laziness, so it holds exactly when the text begins and ends with the outer tags and the inner
    two meet somewhere between them.
    """
    head, tail = "<think>", "</answer>"
    return (
        text.startswith(head)
        and text.endswith(tail)
        and BRIDGE.search(text, len(head), len(text) - len(tail)) is not None
    )


def _between(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str | None:
    start = opening.search(text)
    end = closing.search(text, start.end()) if start else None
    return text[start.end() : end.start()] if start and end else None


def conclusion_text(text: str) -> str:
    """The text after the last closed reasoning; all of the text if nothing follows."""
    end = len(text.rstrip())
    starts = [close.end() for close in _THINK_CLOSE.finditer(text) if close.end() < end]
    return text[starts[-1] :] if starts else text


def live_parts(text: str) -> tuple[str, str | None]:
    """Split a streamed, unfinished text into the parts to display.

    Args:
        text: The completion up to now.

    Returns:
        The reasoning so far (text outside of all tags counts as reasoning) and the answer so far; None before an answer
        tag is opened. When the text has ended, the result of `parse_response` is final.
    """
    reasoning, *tagged = _TAG.split(_HALF_TAG.sub("", text))
    answer: str | None = None
    for tag, piece in zip(tagged[::2], tagged[1::2], strict=True):
        if tag.lower() == "<answer>":
            answer = (answer or "") + piece
        else:
            reasoning += piece
    return reasoning.strip(), None if answer is None else answer.strip()
