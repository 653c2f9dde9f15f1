"""Split the reasoning of an assistant response into sentences, so that it can be truncated or changed.

Everything outside the sentences (tags, line breaks) stays as the model wrote it. A rejoined response therefore differs
from the original only in the reasoning.
"""

import re
from dataclasses import dataclass

from medvlm_r1.prompts.boxes import BRIDGE, without_boxes
from medvlm_r1.prompts.parser import is_well_formed

_HEAD = "<think>"
_BREAK = re.compile(r"[.!?][\"'”’)\]*_]*\s+|\n\s*")
_ENUMERATOR = re.compile(r"\W*(?:\d{1,2}|[A-Za-z])[.)]\W*")
# A full stop after these abbreviations does not end a sentence.
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|ca|fig|figs|no|nos|dr|mr|mrs|st|resp|incl)|\b[A-Za-z]\.[A-Za-z])\.\s+$",
    re.IGNORECASE,
)
# "no." abbreviates "number" only before a digit. In "B knee no. A ...", it ends the sentence.
_NUMBER = re.compile(r"\bnos?\.\s+$", re.IGNORECASE)
_NEAR = 24
"""Number of characters before a possible sentence end that are searched for a list number or an abbreviation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantResponse:
    """A well-formed assistant response up to the `<answer>` tag, split into parts.

    Attributes:
        head: The `<think>` tag and the white space after it.
        sentences: Sentences of the reasoning, each with the white space that follows it.
        tail: Text from the white space before `</think>` to the end of the `<answer>` tag, with the boxes in between.
    """

    head: str
    sentences: tuple[str, ...]
    tail: str

    def with_reasoning(self, *sentences: str) -> str:
        """Assistant prefill: `<think>` and the given sentences. The model continues the reasoning."""
        # Strip trailing white space: a tokenizer joins it with the next word, so a model never stops between the two.
        return self.head + "".join(sentences).rstrip()

    def with_answer_opened(self, *sentences: str) -> str:
        """Assistant prefill: `<think>`, the given sentences, `</think>` and `<answer>`. The model writes the answer.

        Boxes are kept only with the whole reasoning: the model wrote them after all of it.
        """
        tail = self.tail if sentences == self.sentences else without_boxes(self.tail)
        return self.with_reasoning(*sentences) + tail


def split_response(text: str) -> AssistantResponse | None:
    """Split an assistant response into its parts.

    Args:
        text: The whole response. There may be boxes between the reasoning and the answer.

    Returns:
        The parts; None if the response is not well-formed or its reasoning contains no word.
    """
    bridge = BRIDGE.search(text, len(_HEAD)) if is_well_formed(without_boxes(text)) else None
    if bridge is None:
        return None
    inside = text[len(_HEAD) : bridge.start()]
    reasoning = inside.strip()
    if not re.search(r"\w", reasoning):
        return None
    start = inside.index(reasoning)
    return AssistantResponse(
        head=_HEAD + inside[:start],
        sentences=tuple(split_sentences(reasoning)),
        tail=inside[start + len(reasoning) :] + bridge[0],
    )


def split_sentences(text: str) -> list[str]:
    """Split reasoning into sentences, in prose or in a numbered list.

    A sentence ends at a full stop, exclamation mark or question mark before white space, or at the end of a line. The
    number of a list item stays with its item. Decimals and common abbreviations do not end a sentence.

    Args:
        text: The reasoning.

    Returns:
        Sentences, each with the white space that follows it. Joined, they give the text. If the text contains a letter
        or digit, so does every sentence. An empty text gives an empty list.
    """
    pieces: list[str] = []
    start = 0
    for mark in _BREAK.finditer(text):
        if mark[0][0] != "\n" and _continues(text, start, mark):
            continue
        pieces.append(text[start : mark.end()])
        start = mark.end()
    pieces.append(text[start:])
    return _with_words(pieces)


def _continues(text: str, start: int, mark: re.Match[str]) -> bool:
    """Whether the sentence continues after this break: before a lower-case letter, after a number or an abbreviation.

    Only a few characters before the break are searched. Otherwise, a text of abbreviations would take quadratic time.
    """
    at, end = mark.start(), mark.end()
    following = text[end : end + 1]
    if following.islower() or (at - start <= _NEAR and _ENUMERATOR.fullmatch(text, start, end)):
        return True
    near = max(start, at - _NEAR)
    if _NUMBER.search(text, near, end):
        return following.isdigit()
    return _ABBREVIATION.search(text, near, end) is not None


def _with_words(pieces: list[str]) -> list[str]:
    """Join each piece without a letter or digit to the previous piece; at the start of the text, to the next piece."""
    whole: list[list[str]] = []
    worded = False
    for piece in filter(None, pieces):
        has_word = re.search(r"\w", piece) is not None
        if whole and not (has_word and worded):
            whole[-1].append(piece)
            worded |= has_word
        else:
            whole.append([piece])
            worded = has_word
    return ["".join(parts) for parts in whole]
