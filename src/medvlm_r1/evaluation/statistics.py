"""The statistics of accuracies: intervals, paired tests, clustered errors. Pure functions of counts and scores.

Shares are fractions in [0, 1]; turning them into percent is the caller's business.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)

FEWEST_SUBJECTS = 10
"""Subjects below which nothing is resampled and no verdict is drawn: a bootstrap over so few is far too sure."""

FEW_CLUSTERS = 5
"""Fewer clusters that differ from the rest than this say nothing of how far items of a cluster go together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A difference of two accuracies on the same items.

    Attributes:
        difference: mean of b minus mean of a, a fraction in [-1, 1].
        low: lower end of the 95 % interval.
        high: upper end of it.
    """

    difference: float
    low: float
    high: float


def wilson(k: float, n: float, *, z: float = Z) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927; advised at this number of items by arXiv 2503.01747).

    Args:
        k: number of successes, 0 <= k <= n. It may be an expected number, with ties counted in fractions: the
            interval is then that of a player who breaks ties at random, and on the wide side.
        n: number of trials. With no trial nothing is known, and the interval is (0, 1). It may be the number of
            independent trials that clustered ones are worth.
        z: normal quantile of another confidence.

    Returns:
        Lower and upper end, fractions in [0, 1].

    Raises:
        ValueError: k or n is negative, or k exceeds n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"wanted 0 <= k <= n, got k={k}, n={n}")
    if n == 0:
        return 0.0, 1.0
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    # At the ends the formula is exact on paper but leaves a rounding residue such as 1e-17.
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def worth(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """How many independent items clustered ones are worth, for the interval of their mean.

    That is n over the design effect, the squared clustered standard error over the ordinary one, times the squared
    ratio of t quantiles with n - 1 and (clusters - 1) degrees, for the standard error of few clusters is uncertain
    itself (Korn and Graubard 1998, Survey Methodology 24:193). A design effect below 1 is not used. Where fewer than
    `FEW_CLUSTERS` clusters hold another value than the most frequent one, nothing tells how far items of a cluster
    depend on each other, and at most the clusters are counted. With clusters of one it is n.

    Args:
        values: n values.
        clusters: n labels; items of one patient or volume share a label.
    """
    n, many = len(values), len(set(clusters))
    if many == n:
        return float(n)
    if many == 1:
        return 1.0
    ordinary = clustered_se(values, range(n))
    if ordinary == 0:
        return float(many)
    quantile = 0.5 + CONFIDENCE / 2
    size = n / max(1.0, (clustered_se(values, clusters) / ordinary) ** 2)
    size *= float(stdtrit(n - 1, quantile) / stdtrit(many - 1, quantile)) ** 2
    return min(size, float(many)) if _clusters_apart(values, clusters) < FEW_CLUSTERS else size


def _clusters_apart(values: Sequence[float], clusters: Sequence[Hashable]) -> int:
    """Clusters that hold another value than the most frequent one (of several, the one with the most such clusters)."""
    counts = Counter(values)
    most = max(counts.values())
    pairs = list(zip(values, clusters, strict=True))
    usual = (value for value, count in counts.items() if count == most)
    return max(len({label for value, label in pairs if value != one}) for one in usual)


def clustered_wilson(values: Sequence[float], clusters: Sequence[Hashable], *, z: float = Z) -> tuple[float, float]:
    """Wilson's interval of a share of clustered items, counted as the independent items they are `worth`.

    The score interval stands in place of Korn and Graubard's exact one. With clusters of one it is Wilson's interval
    itself.
    """
    n, size = len(values), worth(values, clusters)
    # A mean of ones in floating point may pass 1.
    return wilson(min(1.0, sum(values) / n) * size if n else 0.0, size, z=z)


def mean_interval(counts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The 95 % interval of an unweighted mean of independent shares, from their Wilson intervals.

    The distances from each share to the ends of its interval are added in quadrature (MOVER; Zou and Donner 2008,
    Statistics in Medicine 27:1693).

    Args:
        counts: one (successes, trials) pair per share; trials > 0. They may be those that clustered items are worth.

    Returns:
        Lower and upper end, fractions in [0, 1].

    Raises:
        ValueError: no share was given, or one of them has no trial.
    """
    if not counts or any(n == 0 for _, n in counts):
        raise ValueError(f"wanted at least one share, each with a trial, got {list(counts)}")
    below = above = total = 0.0
    for k, n in counts:
        low, high = wilson(k, n)
        share = k / n
        total += share
        below += (share - low) ** 2
        above += (high - share) ** 2
    size = len(counts)
    return (total - math.sqrt(below)) / size, (total + math.sqrt(above)) / size


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of few independent values, such as one a seed (Student's t, n - 1 degrees).

    Args:
        values: at least two, in any unit.

    Returns:
        Lower and upper end, in the unit of the values.

    Raises:
        ValueError: fewer than two values, which say nothing of their spread.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"wanted at least 2 values, got {n}")
    centre = float(np.mean(values))
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2) * np.std(values, ddof=1)) / math.sqrt(n)
    return centre - half, centre + half


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact McNemar test: p = min(1, 2 P[Bin(b + c, 1/2) <= min(b, c)]).

    Args:
        b: items only the first system got right.
        c: items only the second system got right.

    Returns:
        The p value in (0, 1]; 1 when the systems never differ.

    Raises:
        ValueError: a count is negative.
    """
    if b < 0 or c < 0:
        raise ValueError(f"wanted counts of 0 or more, got b={b}, c={c}")
    n = b + c
    # Whole numbers until the last division: no rounding for any number of discordant items.
    term = tail = 1
    for i in range(min(b, c)):
        term = term * (n - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))


def flipped_subjects(gains: Sequence[int], clusters: Sequence[Hashable]) -> float:
    """Two-sided exact test of a paired difference whose items come in clusters: signs of whole clusters are flipped.

    If neither system is better, each cluster's net gain is as likely to be the other's (Fisher's randomisation test).
    p is the share of all sign patterns whose sum is at least as far from 0 as the one seen. With clusters of one it is
    `mcnemar_exact`.

    Args:
        gains: n values of -1, 0 or 1: the item was lost, kept or gained.
        clusters: n labels; items of one patient or volume share a label.

    Returns:
        The p value in (0, 1].
    """
    numbers = cluster_numbers(clusters)
    nets = np.zeros(int(numbers.max(initial=-1)) + 1, dtype=np.int64)
    np.add.at(nets, numbers, np.asarray(gains, dtype=np.int64))
    sizes = np.abs(nets[nets != 0])
    if np.all(sizes == 1):
        return mcnemar_exact(int(np.sum(nets == -1)), int(np.sum(nets == 1)))
    total = int(sizes.sum())
    # Chance of each sum, from -total to total; one cluster after the other shifts it both ways.
    chance = np.zeros(2 * total + 1)
    chance[total] = 1.0
    for size in sizes:
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2
    seen = abs(int(nets.sum()))
    return float(min(1.0, chance[np.abs(np.arange(-total, total + 1)) >= seen].sum()))


def clustered_se(scores: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Standard error of a mean of scores that come in clusters (arXiv 2411.00640).

    SE^2 = SE_CLT^2 + (1/n^2) sum over clusters of sum_{i != j} (s_i - m)(s_j - m), SE_CLT^2 = Var(s) / n with the
    n - 1 denominator. With clusters of one it is the ordinary standard error.

    Args:
        scores: n scores.
        clusters: n labels; items of one patient or volume share a label.

    Returns:
        The standard error, in the unit of the scores; 0 for fewer than two items.

    Raises:
        ValueError: the two differ in length.
    """
    if len(scores) != len(clusters):
        raise ValueError(f"wanted one cluster per score, got {len(scores)} scores and {len(clusters)} clusters")
    n = len(scores)
    if n < 2:
        return 0.0
    deviations = np.asarray(scores, dtype=np.float64) - np.mean(scores)
    squares = float(np.sum(deviations**2))
    # sum_{i != j} d_i d_j inside a cluster = (sum d)^2 - sum d^2; the second term summed over clusters is `squares`.
    sums = np.bincount(cluster_numbers(clusters), weights=deviations)
    between = float(np.sum(sums**2)) - squares
    return math.sqrt(max(0.0, squares / (n - 1) / n + between / n**2))


def paired_difference(a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable]) -> PairedDifference:
    """The difference of two accuracies on the same items, with the adjusted Wald interval of Bonett and Price.

    One item is added to each of the discordant counts and two to the number of items (Bonett and Price 2012, Journal
    of Educational and Behavioral Statistics 37:479). Clustered items count as the independent items they are `worth`.
    Unlike a percentile bootstrap it is not too narrow with few items, or where the systems hardly ever differ:
    `tests/evaluation/test_statistics.py` simulates how often it holds the true difference.

    Args:
        a: n scores of the first system, 0 or 1.
        b: n scores of the second system on the same items, in the same order.
        clusters: n labels; items of one patient or volume share a label.

    Returns:
        mean(b) - mean(a) and its 95 % interval, fractions.

    Raises:
        ValueError: no item, or lengths differ.
    """
    if not len(a) == len(b) == len(clusters):
        raise ValueError(f"wanted equal lengths, got {len(a)} and {len(b)} scores and {len(clusters)} clusters")
    n = len(a)
    if n == 0:
        raise ValueError("wanted at least one item, got none")
    gains = [float(after) - float(before) for before, after in zip(a, b, strict=True)]
    size = worth(gains, clusters)
    gained, lost = ((sum(gain == sign for gain in gains) / n * size + 1) / (size + 2) for sign in (1, -1))
    centre = gained - lost
    half = Z * math.sqrt((gained + lost - centre**2) / (size + 2))
    return PairedDifference(difference=sum(gains) / n, low=max(-1.0, centre - half), high=min(1.0, centre + half))


def paired_ratio(a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """The 95 % interval of sum(a) / sum(b) for two accuracies on the same items.

    The ratio of the ends of two Wilson intervals whose quantile allows for the pairing (Bonett and Price 2006,
    Statistics in Medicine 25:3039). Clustered items count as the independent items that the residuals a - ratio b are
    `worth`.

    Args:
        a: n scores, 0 or 1.
        b: n scores on the same items, 0 or 1, at least one of them 1.
        clusters: n labels; items of one patient or volume share a label.

    Returns:
        Lower and upper end.
    """
    above, below = float(sum(a)), float(sum(b))
    both = float(sum(x * y for x, y in zip(a, b, strict=True)))
    weight = worth([x - above / below * y for x, y in zip(a, b, strict=True)], clusters) / len(a)
    above, below, both = above * weight, below * weight, both * weight
    either = max(above + below - both, above, below)
    spread = math.sqrt((above + below - 2 * both + 2) / ((above + 1) * (below + 1)))
    apart = sum(math.sqrt((1 - (k + 1) / (either + 2)) / (k + 1)) for k in (above, below))
    z = Z * spread / apart
    (low, high), (low_below, high_below) = wilson(above, either, z=z), wilson(below, either, z=z)
    return low / high_below, high / low_below


def cluster_numbers(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    """Cluster labels as 0, 1, ... in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in clusters], dtype=np.int64)
