"""Giveaway options: option texts that are correct far more or less often than guessing predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medvlm_r1.data.option_prior import Choice, option_key


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveawayOption:
    """One option text.

    Attributes:
        text: Its first spelling; texts that differ only in case, spaces or punctuation are one.
        offered: Number of questions that offer it.
        right: How often it is correct.
        expected: How often it would be correct if every option of a question were equally likely.
        surprise: `right` minus `expected` in standard deviations.
    """

    text: str
    offered: int
    right: int
    expected: float
    surprise: float

    @property
    def record(self) -> str:
        """Counts in words."""
        times = f"{self.right} of {self.offered} times it was offered; guessing would give {self.expected:.1f}"
        return f"correct {times}" if self.right else f"never correct: {times}"


def giveaway_options(items: Sequence[Choice]) -> list[GiveawayOption]:
    """Every option text, the most surprising first, in either direction."""
    texts: dict[str, str] = {}
    offered: dict[str, list[float]] = {}
    right: dict[str, int] = {}
    for item in items:
        for key, option in {option_key(option): option for option in reversed(item.options)}.items():
            texts.setdefault(key, option)
            offered.setdefault(key, []).append(1 / len(item.options))
        answer = option_key(item.answer)
        right[answer] = right.get(answer, 0) + 1
    options = []
    for key, chances in offered.items():
        expected, hits = sum(chances), right.get(key, 0)
        spread = math.sqrt(sum(chance * (1 - chance) for chance in chances))
        options.append(
            GiveawayOption(
                text=texts[key],
                offered=len(chances),
                right=hits,
                expected=expected,
                surprise=(hits - expected) / spread if spread else 0.0,
            )
        )
    return sorted(options, key=lambda option: (-abs(option.surprise), option.text))
