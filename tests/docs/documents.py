"""The documents as the tests read them: fenced blocks, the statements of a shell block, and commands in any code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<'(\w+)'$")
_PROGRAM = re.compile(r"^(?:\.venv/bin/)?(medvlm-r1 |accelerate launch |python -m benchmarks)")
_INLINE = re.compile(r"(?<!`)`((?:medvlm-r1|python -m benchmarks)[^`\n]+)`(?!`)")


def fences(text: str) -> list[tuple[str, str]]:
    """Language and body of every fenced block."""
    return [(matches[1], matches[2]) for matches in _FENCE.finditer(text)]


def statements(block: str) -> Iterator[str]:
    """What a shell would run one after the other; here-documents and continued lines are whole."""
    lines = iter(block.splitlines())
    for line in lines:
        statement = line
        while statement.endswith("\\"):
            statement = f"{statement[:-1].rstrip()} {next(lines).strip()}"
        if end := _HEREDOC.search(statement):
            for further in lines:
                statement += f"\n{further}"
                if further == end[1]:
                    break
        if statement.strip():
            yield statement


def commands(text: str) -> list[str]:
    """Lines of fenced and indented code that call the package; those with an ellipsis are no commands."""
    body = "\n".join(line.removeprefix("    ") for line in text.splitlines())
    matches = [statement for statement in statements(body.replace("\n```", "\n\n```")) if _PROGRAM.match(statement)]
    return [statement for statement in matches if "..." not in statement and "[" not in statement.split("'")[0]]


def inline_commands(text: str) -> list[str]:
    """Commands of the package quoted within a line."""
    return _INLINE.findall(text)
