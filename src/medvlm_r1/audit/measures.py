"""Measures with 95 % intervals for the probes: shares, differences and ratios.

Items of one patient or volume are one cluster. Their errors are correlated, so they count as fewer independent items.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from medvlm_r1.audit.probe import Level, Measure
from medvlm_r1.audit.variant import AuditedItem
from medvlm_r1.evaluation.statistics import (
    CONFIDENCE,
    FEWEST_SUBJECTS,
    cluster_numbers,
    clustered_wilson,
    paired_difference,
    paired_ratio,
)

FEWEST = 30
"""Fewest items of a probe with a verdict. With 0 changes among 30 answers the interval reaches 11 %, so fewer items
cannot exclude a threshold of a tenth."""

MOST_UNPARSED = 0.2
"""No verdict when more than 20 % of answers are unparsed: they could flip any 10 % threshold."""

NO_VERDICT = {"items": f"not run below {FEWEST}", "unparsed": f"no verdict above {MOST_UNPARSED}"}
"""Both limits as a probe lists them among its thresholds."""

DRAWS = 4_000
"""Bootstrap resamples. The ends of an interval then vary by about 0.04 standard errors between seeds."""

Floats = NDArray[np.float64]


def cluster(item: AuditedItem) -> str:
    """The patient or volume, or the item itself where that is unknown."""
    return item.sample.cluster


def in_order(items: Sequence[AuditedItem]) -> list[AuditedItem]:
    """The items sorted by id, so that random draws do not depend on their order."""
    return sorted(items, key=lambda item: item.sample.id)


def too_few(seen: str, needed: int | str = FEWEST) -> tuple[Level, str]:
    """Verdict and sentence for too few items, answers or subjects.

    Args:
        seen: The number and what it counts: "12 answers with a confidence".
        needed: The least number.
    """
    return "not run", f"Too few for a verdict: {seen}; at least {needed} are needed."


def unparsed(items: Sequence[AuditedItem], names: Sequence[str]) -> tuple[Measure, list[str]]:
    """Share of unparsed answers to these variants, and the ids of their items."""
    empty = [[item.answers[name].letter is None for name in names if name in item.answers] for item in items]
    found = share_of_pairs(
        [(value, cluster(item)) for item, values in zip(items, empty, strict=True) for value in values],
        "unparsed answers: neither the same nor another",
    )
    return found, [item.sample.id for item, values in zip(items, empty, strict=True) if any(values)]


def share(values: Sequence[float], clusters: Sequence[Hashable], about: str) -> Measure:
    """A share, or a mean of fractions, with the interval of `clustered_wilson`; 0 of 0 without values."""
    n = len(values)
    return Measure(value=sum(values) / n if n else 0.0, n=n, ci95=clustered_wilson(values, clusters), about=about)


def share_of_pairs(pairs: Sequence[tuple[float, Hashable]], about: str) -> Measure:
    """`share` of (value, cluster) pairs, for items with several values or none."""
    return share([value for value, _ in pairs], [label for _, label in pairs], about)


def share_of(items: Sequence[AuditedItem], verdict: Callable[[AuditedItem], float], about: str) -> Measure:
    """The share of items for which the verdict is true, or the mean of fractions; see `share`."""
    return share([verdict(item) for item in items], [cluster(item) for item in items], about)


def difference(a: Sequence[bool], b: Sequence[bool], clusters: Sequence[Hashable], about: str) -> Measure:
    """mean(b) - mean(a) on the same items, with the interval of `paired_difference`."""
    found = paired_difference(a, b, clusters)
    return Measure(value=found.difference, n=len(a), ci95=(found.low, found.high), unit="difference", about=about)


def ratio(above: Sequence[bool], below: Sequence[bool], clusters: Sequence[Hashable], about: str) -> Measure | None:
    """sum(above) / sum(below) on the same items, with the interval of `paired_ratio`; None for a division by 0.

    With fewer than `FEWEST_SUBJECTS` subjects there is no interval: its simulated coverage was too low.
    """
    if not any(below):
        return None
    ends = paired_ratio(above, below, clusters) if len(set(clusters)) >= FEWEST_SUBJECTS else None
    return Measure(value=sum(above) / sum(below), n=len(below), ci95=ends, unit="ratio", about=about)


def cluster_sums(columns: Floats, clusters: Sequence[Hashable]) -> Floats:
    """Sum each column within each cluster: (items, columns) to (clusters, columns)."""
    numbers = cluster_numbers(clusters)
    sums = np.zeros((int(numbers.max(initial=-1)) + 1, columns.shape[1]))
    np.add.at(sums, numbers, columns)
    return sums


def bootstrap(sums: Floats, statistic: Callable[[Floats], Floats], *, draws: int = DRAWS) -> tuple[float, float] | None:
    """Percentile interval of a statistic of sums over clusters, which are resampled with replacement.

    Args:
        sums: (clusters, columns), each cluster's sums.
        statistic: From (draws, columns), the sums of each draw, to one value each.
        draws: Number of resamples, seeded.

    Returns:
        Lower and upper end. None below `FEWEST_SUBJECTS` clusters, and where all draws agree: resampling is then
        uninformative about other subjects.
    """
    if len(sums) < FEWEST_SUBJECTS:
        return None
    rng = np.random.default_rng(0)
    times = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    low, high = np.quantile(statistic(times @ sums), [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return (float(low), float(high)) if low < high else None
