"""What the generated pages share: tables, and text that Markdown must not read as anything else."""

from __future__ import annotations

import re
from collections.abc import Sequence

RESEARCH_USE = "Research use only. Not a medical device."


_TICKS = re.compile(r"(`[^`]+`)")
_SIGNS = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "*": "&#42;", "|": "&#124;", "_": "&#95;"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that hold no bars; their line breaks become spaces."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in row)} |" for row in lines)


def code(text: str) -> str:
    """Text as code, in a cell too; nothing for no text."""
    return f"<code>{escaped(text)}</code>" if set(text) & set("|`") else f"`{text}`" if text else ""


def escaped(text: str) -> str:
    """Text whose angle brackets are no tags and whose asterisks are no emphasis."""
    return "".join(_SIGNS.get(sign, sign) for sign in text)


def prose(text: str) -> str:
    """Text of a docstring or a comment, in which backticks alone mean anything."""
    return "".join(part if _TICKS.fullmatch(part) else escaped(part) for part in _TICKS.split(" ".join(text.split())))


def block(text: str, language: str = "") -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"
