"""Where everything lies in a packed row [prompt 1, its completions, prompt 2, its completions, ...]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """Where prompts and completions lie in the packed row."""

    groups: tuple[tuple[int, tuple[int, ...]], ...]
    """For each prompt its tokens, and those of each of its completions; none is 0."""

    def segments(self) -> Iterator[tuple[int, int, int, int]]:
        """Group, number in the group (0 is the prompt), tokens and tokens before it in its own row, in packed order."""
        for group, (prompt, completions) in enumerate(self.groups):
            yield group, 0, prompt, 0
            for number, length in enumerate(completions, 1):
                yield group, number, length, prompt

    def sizes(self) -> list[int]:
        """Tokens of every segment, in packed order."""
        return [length for _, _, length, _ in self.segments()]

    def blocks(self) -> Iterator[tuple[slice, slice, list[slice]]]:
        """For each prompt the places of its tokens, of those of all its completions, and of those of each."""
        start = 0
        for prompt, completions in self.groups:
            first = end = start + prompt
            each = []
            for length in completions:
                each.append(slice(end, end + length))
                end += length
            yield slice(start, first), slice(first, end), each
            start = end
