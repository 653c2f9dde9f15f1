"""Attention mask of a shared prompt: one packed sequence of a prompt and its completions."""

from __future__ import annotations

from svg_parts import BLUE, GREEN, PALE, drawing, words

PROMPT, LENGTHS = 6, (3, 4, 2)
_CELL = 22
_LEFT, _TOP = 132, 52


def mask_picture() -> str:
    """Return the drawing: rows are queries, columns are keys."""
    group = [0] * PROMPT + [number for number, length in enumerate(LENGTHS, start=1) for _ in range(length)]
    size = len(group) * _CELL
    parts = [words(_LEFT, 20, "keys", fill=PALE), words(16, _TOP - 8, "queries", fill=PALE)]
    starts = {number: group.index(number) for number in sorted(set(group))}
    for number, start in starts.items():
        name = f"completion {number}" if number else "image and question"
        parts.append(words(16, _TOP + start * _CELL + 15, name, font_size=11))
        parts.append(words(_LEFT + start * _CELL, _TOP - 8, f"c{number}" if number else "prompt", font_size=11))
    for row, own in enumerate(group):
        for column, theirs in enumerate(group):
            sees = column <= row and theirs in (0, own)
            color = (BLUE if theirs == 0 else GREEN) if sees else "#eef0f4"
            place = f'x="{_LEFT + column * _CELL}" y="{_TOP + row * _CELL}"'
            parts.append(f'<rect {place} width="{_CELL - 2}" height="{_CELL - 2}" rx="2" fill="{color}"/>')
    told = (
        "Blue: the prompt, computed once. Every completion attends to it.\n\nGreen: a completion attends to its own "
        "earlier tokens.\n\nGray: masked. No completion attends to another, so each is computed as if it were alone."
        f"\n\nHere {len(group)} tokens instead of {sum(PROMPT + length for length in LENGTHS)}."
    )
    parts.append(words(_LEFT + size + 24, _TOP + 16, told, wide=44))
    return drawing(760, _TOP + size + 16, "One prompt, three completions: the attention mask", parts)
