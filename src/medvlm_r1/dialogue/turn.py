"""A model's turn taken apart into sentences, so that its reasoning can be cut short or changed and put together again.

Everything outside the sentences (tags, line breaks around them) is kept as the model wrote it: what is put together
again differs from the model's own text in the reasoning alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from medvlm_r1.dialogue.response import BRIDGE, is_well_formed

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
        piece = text[start : found.end()]
        if found[0][0] != "\n" and _goes_on(piece, text[found.end() : found.end() + 1]):
            continue
        pieces.append(piece)
        start = found.end()
    pieces.append(text[start:])
    return _with_words(pieces)


def _goes_on(piece: str, following: str) -> bool:
    """Whether the sentence does not end here: after a list number, an abbreviation, or before a small letter."""
    if _ENUMERATOR.fullmatch(piece) or following.islower():
        return True
    if _NUMBER.search(piece):
        return following.isdigit()
    return _ABBREVIATION.search(piece) is not None


def _with_words(pieces: list[str]) -> list[str]:
    """Pieces without a letter or digit, joined to the one before, the first ones to the one after."""
    whole: list[str] = []
    for piece in pieces:
        if whole and not (re.search(r"\w", piece) and re.search(r"\w", whole[-1])):
            whole[-1] += piece
        elif piece:
            whole.append(piece)
    return whole
