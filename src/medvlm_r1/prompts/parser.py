"""Response parser: reasoning, answer and letter of a completion.

Every function takes time linear in the length of the text. The patterns of the released MedVLM-R1 code, such as
`<answer>(.*?)</answer>`, take quadratic time if a text opens many tags and closes none. A policy can write such text
early in training. This module searches for each tag once, with the same result.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from medvlm_r1.prompts.lenient import letter_in_prose

# Tags in any case, as in the accuracy reward of the released code.
_THINK_OPEN = re.compile("<think>", re.IGNORECASE)
_THINK_CLOSE = re.compile("</think>", re.IGNORECASE)
_ANSWER_OPEN = re.compile("<answer>", re.IGNORECASE)
_ANSWER_CLOSE = re.compile("</answer>", re.IGNORECASE)

_TAG = re.compile(r"(</?(?:think|answer)>)", re.IGNORECASE)
# A streamed text may end with half a tag, such as "</thi". It must not be displayed as reasoning.
_HALF_TAG = re.compile(r"</?[a-z]{0,6}$", re.IGNORECASE)
_BOX = re.compile(r"<box>[^<]*+(?:</box>)?|</box>", re.IGNORECASE)

_STRICT = re.compile(r"<answer>\s*([A-Z])\s*</answer>")
_BRIDGE = re.compile(r"</think>\s*<answer>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    r"""One parsed completion.

    Attributes:
        reasoning: Text of the first `<think>...</think>`, stripped; None if there is none or it is cut off.
        answer: Text of the first `<answer>...</answer>`, stripped; None if there is none or it is cut off.
        letter: Letter by the rule of the released code, `re.search(r"<answer>\s*([A-Z])\s*</answer>")`; None if
            nothing matches, which counts as wrong.
        lenient_letter: The same as `letter` if that is not None; otherwise the letter by `prompts.lenient`, which
            never guesses. None if the text names no option, or several.
        well_formed: Whether the whole text matches the format, `<think>.*?</think>\s*<answer>.*?</answer>`.
    """

    reasoning: str | None
    answer: str | None
    letter: str | None
    lenient_letter: str | None
    well_formed: bool


def parse_response(text: str, options: Sequence[str] = ()) -> Response:
    """Parse a completion. Any text is accepted; the function never raises an exception.

    The lenient letter equals the strict letter if there is one. Otherwise, `prompts.lenient` reads the text of the
    first answer tag. If there is no answer tag, it reads the text after the reasoning.

    Args:
        text: The completion, without special tokens.
        options: Option texts of the question. If empty, an answer is recognized only by its letter.

    Returns:
        The parsed response.
    """
    answer, letter = answer_text(text), strict_letter(text)
    opened = _ANSWER_OPEN.search(text)
    # The text after an answer tag is also read if the tag is never closed.
    rest = text[opened.end() :] if opened else conclusion_text(text)
    reasoning = _between(text, _THINK_OPEN, _THINK_CLOSE)
    return Response(
        reasoning=None if reasoning is None else reasoning.strip(),
        answer=None if answer is None else answer.strip(),
        letter=letter,
        lenient_letter=letter or letter_in_prose(rest if answer is None else answer, options),
        well_formed=is_well_formed(text),
    )


def with_reasoning_opened(text: str) -> str:
    """Add a missing `<think>` at the start of a text that contains `</think>`. Return any other text unchanged.

    Some chat templates end the prompt with `<think>`. A server then returns only the text after this tag. If the
    reasoning is cut off before `</think>`, the missing tag cannot be detected.
    """
    closed = _THINK_CLOSE.search(text)
    return text if closed is None or _THINK_OPEN.search(text, 0, closed.start()) else f"<think>{text}"


def answer_text(text: str) -> str | None:
    """Text of the first `<answer>...</answer>` with tags in any case, not stripped; None if there is none."""
    return _between(text, _ANSWER_OPEN, _ANSWER_CLOSE)


def strict_letter(text: str) -> str | None:
    """Answer letter by the evaluation rule of the released code; None if nothing matches."""
    match = _STRICT.search(text)
    return match[1] if match else None


def is_well_formed(text: str) -> bool:
    r"""Whether the whole text matches `<think>.*?</think>\s*<answer>.*?</answer>`, where dots match newlines.

    This is the case if the text starts with `<think>`, ends with `</answer>` and has `</think>\s*<answer>` in between.
    In a full match, the lazy quantifiers make no difference.
    """
    head, tail = "<think>", "</answer>"
    return (
        text.startswith(head)
        and text.endswith(tail)
        and _BRIDGE.search(text, len(head), len(text) - len(tail)) is not None
    )


def _between(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str | None:
    start = opening.search(text)
    end = closing.search(text, start.end()) if start else None
    return text[start.end() : end.start()] if start and end else None


def conclusion_text(text: str) -> str:
    """Text after the last `</think>` that is not at the end of the text; the whole text if there is none."""
    end = len(text.rstrip())
    starts = [close.end() for close in _THINK_CLOSE.finditer(text) if close.end() < end]
    return text[starts[-1] :] if starts else text


def live_parts(text: str) -> tuple[str, str | None]:
    """Split a streamed, unfinished text into the parts to display.

    Args:
        text: The completion up to now.

    Returns:
        The reasoning so far and the answer so far. Text outside all tags counts as reasoning, except boxes after the
        reasoning. The answer is None before an answer tag is opened. Once the text is complete, use `parse_response`
        instead.
    """
    reasoning, *tagged = _TAG.split(_HALF_TAG.sub("", text))
    answer: str | None = None
    for tag, piece in zip(tagged[::2], tagged[1::2], strict=True):
        if tag.lower() == "<answer>":
            answer = (answer or "") + piece
        else:
            reasoning += _BOX.sub("", piece) if tag.lower() == "</think>" else piece
    return reasoning.strip(), None if answer is None else answer.strip()
