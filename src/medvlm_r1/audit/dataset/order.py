"""Option order test: is the correct option equally often at each position?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medvlm_r1.audit.dataset.blind import letters_right
from medvlm_r1.data.option_prior import Choice

SIGNIFICANT = 0.05
_DRAWS = 9_999


@dataclass(frozen=True, slots=True)
class OrderTest:
    """The questions of one modality with one number of options.

    Attributes:
        options: Number of options, at least 2.
        counts: How often each letter is correct.
        p: Probability of counts at least as uneven if all positions were equally likely.
        p_holm: The same, corrected for all tests of the audit (Holm 1979).
    """

    options: int
    counts: dict[str, int]
    p: float
    p_holm: float

    @property
    def n(self) -> int:
        """Number of questions."""
        return sum(self.counts.values())

    @property
    def uneven(self) -> bool:
        """Whether the positions differ significantly, at 5 % over all tests of the audit."""
        return self.p_holm < SIGNIFICANT

    @property
    def sentence(self) -> str:
        """The finding in words."""
        counts = ", ".join(f"{letter} {count}" for letter, count in self.counts.items())
        seen = f"({counts}; p = {self.p_holm:.2g})"
        if self.uneven:
            return f"The position of the correct option is uneven {seen}: the order is a giveaway."
        return f"The position of the correct option is not significantly uneven {seen}."


def order_tests(groups: Sequence[Sequence[Choice]]) -> list[list[OrderTest]]:
    """Test every group, separately for each number of options.

    Args:
        groups: Questions with options, one group per modality.

    Returns:
        Per group its tests by increasing number of options; questions with a single option have no order.
    """
    tables = [
        [
            letters_right([item for item in items if len(item.options) == size])
            for size in sorted({len(item.options) for item in items} - {1})
        ]
        for items in groups
    ]
    p = [evenness(list(counts.values())) for group in tables for counts in group]
    corrected = iter(zip(p, holm(p), strict=True))
    return [[OrderTest(len(counts), counts, *next(corrected)) for counts in group] for group in tables]


def evenness(counts: Sequence[int]) -> float:
    """Monte-Carlo multinomial test that all positions are equally likely.

    The statistic is Pearson's. Its distribution comes from 9,999 seeded draws, so that the test is valid for few
    questions too.

    Args:
        counts: Count of each position.

    Returns:
        (1 + draws at least as uneven) / 10,000.
    """
    k = len(counts)
    draws = np.random.default_rng(0).multinomial(sum(counts), [1 / k] * k, size=_DRAWS)
    # With equal expectations Pearson's statistic grows with the sum of squares, an integer without rounding errors.
    seen = sum(count * count for count in counts)
    return (1 + int(np.count_nonzero((draws**2).sum(axis=1) >= seen))) / (_DRAWS + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6:65, 1979).

    Args:
        p: One p value per test.

    Returns:
        Corrected p values in the same order, at most 1.
    """
    corrected = [0.0] * len(p)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = running
    return corrected
