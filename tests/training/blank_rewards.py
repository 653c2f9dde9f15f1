"""Rewards for tests that ask for the policy's answers to blank images, named by their dotted path."""

from __future__ import annotations

import zlib
from typing import Any

SEEN: list[tuple[str, str | None]] = []


def noting(
    prompts: list[Any], completions: list[Any], *, blank_letter: list[str | None], **columns: Any
) -> list[float]:
    """Pays nothing; notes the sample and the blank answer of every row."""
    SEEN.extend(zip(columns["sample_id"], blank_letter, strict=True))
    return [0.0] * len(completions)


def unlike_blank(completions: list[Any], *, blank_letter: list[str | None], **columns: Any) -> list[float]:
    """1 where the blank answer is not the correct letter."""
    return [float(blank != letter) for blank, letter in zip(blank_letter, columns["letter"], strict=True)]


def coded(completions: list[Any], *, blank_letter: list[str | None], **columns: Any) -> list[float]:
    """The blank answer as a number."""
    return [code(blank) for blank in blank_letter]


def code(text: str | None) -> float:
    return float(zlib.crc32(str(text).encode()) % 1000)


def by_blank(completion_ids: list[list[int]], *, blank_letter: list[str | None], **columns: Any) -> list[float]:
    """Pays for length, and how well, the blank answer decides."""
    rates = [1 + zlib.crc32(str(text).encode()) % 5 for text in blank_letter]
    return [float(len(ids) * rate) for ids, rate in zip(completion_ids, rates, strict=True)]
