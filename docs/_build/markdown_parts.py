"""Markdown helpers of the generated pages: tables and escaped text."""

from __future__ import annotations

import re
from collections.abc import Sequence

RESEARCH_USE = "Research use only. Not a medical device."


_TICKS = re.compile(r"(`[^`]+`)")
_SIGNS = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "*": "&#42;", "|": "&#124;", "_": "&#95;"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table. Cells contain no bars; their line breaks become spaces."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in row)} |" for row in lines)


def code(text: str) -> str:
    """Return text as inline code, also valid in a cell; empty for empty text."""
    return f"<code>{escaped(text)}</code>" if set(text) & set("|`") else f"`{text}`" if text else ""


def escaped(text: str) -> str:
    """Escape the characters that Markdown or HTML would interpret."""
    return "".join(_SIGNS.get(sign, sign) for sign in text)


def prose(text: str) -> str:
    """Escape a docstring or comment, except inline code in backticks."""
    return "".join(part if _TICKS.fullmatch(part) else escaped(part) for part in _TICKS.split(" ".join(text.split())))


def block(text: str, language: str = "") -> str:
    """Return a fenced code block."""
    return f"```{language}\n{text.rstrip()}\n```"
