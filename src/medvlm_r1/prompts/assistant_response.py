"""A model's turn taken apart into sentences, so that its reasoning can be cut short or changed and put together again.

Everything outside the sentences (tags, line breaks around them) is kept as the model wrote it: what is put together
again differs from the model's own text in the reasoning alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from medvlm_r1.prompts.parser import BRIDGE, is_well_formed

_HEAD = "<think>"
_BREAK = re.compile(r"[.!?][\"'”’)\]*_]*\s+|\n\s*")
_ENUMERATOR = re.compile(r"\W*(?:\d{1,2}|[A-Za-z])[.)]\W*")
# A full stop after these ends no sentence.
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|ca|fig|figs|no|nos|dr|mr|mrs|st|resp|incl)|\b[A-Za-z]\.[A-Za-z])\.\s+$",
    re.IGNORECASE,
)
# "no." is a number only before one; "B knee no. A ..." ends there.
_NUMBER = re.compile(r"\bnos?\.\s+$", re.IGNORECASE)
_NEAR = 24
"""Characters before the end of a sentence among which a list number or an abbreviation stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A well formed turn up to its answer.

    Attributes:
        head: The opening tag and the white space after it.
        sentences: The reasoning; joined they are its text. Each keeps the white space that follows it.
        tail: From the white space before the closing tag to the end of the answer's opening tag.
    """

    head: str
    sentences: tuple[str, ...]
    tail: str

    def opened(self, *sentences: str) -> str:
        """The turn's beginning with other sentences, to be gone on from."""
        # A tokenizer takes white space into the word after it: a model never stops between the two.
        return self.head + "".join(sentences).rstrip()

    def closed(self, *sentences: str) -> str:
        """The turn with other sentences, its reasoning closed and its answer opened."""
        return self.opened(*sentences) + self.tail


def split_turn(text: str) -> Turn | None:
    """Takes a turn apart.

    Args:
        text: The whole turn.

    Returns:
        Its parts; None when it is not well formed or holds no word of reasoning.
    """
    bridge = BRIDGE.search(text, len(_HEAD)) if is_well_formed(text) else None
    if bridge is None:
        return None
    inside = text[len(_HEAD) : bridge.start()]
    reasoning = inside.strip()
    if not re.search(r"\w", reasoning):
        return None
    start = inside.index(reasoning)
    return Turn(
        head=_HEAD + inside[:start],
        sentences=tuple(split_sentences(reasoning)),
        tail=inside[start + len(reasoning) :] + bridge[0],
    )


def split_sentences(text: str) -> list[str]:
    """Sentences of a reasoning, in prose or in a numbered list.

    A sentence ends at a full stop, exclamation or question mark before white space, or at the end of a line. The
    number of a list item stays with its item; decimals and common abbreviations end nothing.

    Args:
        text: The reasoning.

    Returns:
        Pieces, each with the white space that follows it, which joined are the text; every piece holds a letter or a
        digit if the text does. None of an empty text.
    """
    pieces: list[str] = []
    start = 0
    for found in _BREAK.finditer(text):
        if found[0][0] != "\n" and _goes_on(text, start, found):
            continue
        pieces.append(text[start : found.end()])
        start = found.end()
    pieces.append(text[start:])
    return _with_words(pieces)


def _goes_on(text: str, start: int, found: re.Match[str]) -> bool:
    """Whether the sentence from `start` on does not end here: before a small letter, after a number or abbreviation.

    Never looks at more than a few characters before the break, or a text of nothing but abbreviations would take time
    quadratic in its length.
    """
    mark, end = found.start(), found.end()
    following = text[end : end + 1]
    if following.islower() or (mark - start <= _NEAR and _ENUMERATOR.fullmatch(text, start, end)):
        return True
    near = max(start, mark - _NEAR)
    if _NUMBER.search(text, near, end):
        return following.isdigit()
    return _ABBREVIATION.search(text, near, end) is not None


def _with_words(pieces: list[str]) -> list[str]:
    """Pieces without a letter or digit, joined to the one before, the first ones to the one after."""
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
