"""The option texts that give the most away: right, or wrong, far more often than guessing would have it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medvlm_r1.data.option_prior import Choice, option_key


@dataclass(frozen=True, slots=True, kw_only=True)
class TellingOption:
    """One option text.

    Attributes:
        text: As it was first written; texts that differ in case, spaces or punctuation alone are one.
        offered: Number of questions that offer it.
        right: How often it is right.
        expected: How often it would be if every option of a question were equally likely.
        surprise: Standard deviations `right` lies above `expected`; negative below.
    """

    text: str
    offered: int
    right: int
    expected: float
    surprise: float

    @property
    def record(self) -> str:
        """Its record in words."""
        times = f"{self.right} of {self.offered} times it was offered; guessing would give {self.expected:.1f}"
        return f"right {times}" if self.right else f"never right: {times}"


def telling_options(items: Sequence[Choice]) -> list[TellingOption]:
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
    found = []
    for key, chances in offered.items():
        expected, hits = sum(chances), right.get(key, 0)
        spread = math.sqrt(sum(chance * (1 - chance) for chance in chances))
        found.append(
            TellingOption(
                text=texts[key],
                offered=len(chances),
                right=hits,
                expected=expected,
                surprise=(hits - expected) / spread if spread else 0.0,
            )
        )
    return sorted(found, key=lambda option: (-abs(option.surprise), option.text))
