"""Statistics of accuracies: intervals, paired tests, clustered standard errors. All are pure functions.

Shares are fractions in [0, 1]; the caller converts them to percent.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtrit

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
"""Normal quantile of a two-sided 95 % interval."""

FEWEST_SUBJECTS = 10
"""Minimum number of subjects for a bootstrap or a verdict. With fewer subjects, intervals are much too narrow."""

FEW_CLUSTERS = 5
"""Minimum number of clusters with a value other than the most frequent one. With fewer, the correlation within clusters
cannot be estimated."""


def wilson(k: float, n: float, *, z: float = Z) -> tuple[float, float]:
    """The score interval of a share, 95 % by default (Wilson 1927).

    arXiv 2503.01747 recommends it for a few hundred items or fewer.

    Args:
        k: number of successes, 0 <= k <= n. It need not be an integer, for example if ties count as fractions; the
            interval is then slightly too wide.
        n: number of trials, or the effective sample size of clustered trials. If it is 0, the interval is (0, 1).
        z: normal quantile of the confidence level.

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
    # At the ends the formula leaves a rounding error such as 1e-17.
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def effective_sample_size(
    values: Sequence[float], clusters: Sequence[Hashable], *, confidence: float = CONFIDENCE
) -> float:
    """Effective sample size of clustered items: how many independent items would give the same interval of the mean.

    It is n / deff * (t(n - 1) / t(clusters - 1))^2 (Korn and Graubard 1998, Survey Methodology 24:193). The design
    effect deff is the squared ratio of the clustered to the ordinary standard error, at least 1. t(d) is the t quantile
    with d degrees of freedom; the ratio accounts for the uncertain standard error of few clusters.

    If fewer than `FEW_CLUSTERS` clusters have a value other than the most frequent one, the correlation within clusters
    cannot be estimated. The result is then at most the number of clusters. If every cluster has one item, it is n.

    Args:
        values: n values.
        clusters: n labels; items of one patient or volume share a label.
        confidence: Confidence level of the interval; it determines the t quantiles.
    """
    n, many = len(values), len(set(clusters))
    if many == n:
        return float(n)
    if many == 1:
        return 1.0
    ordinary = clustered_se(values, range(n))
    if ordinary == 0:
        return float(many)
    quantile = 0.5 + confidence / 2
    size = n / max(1.0, (clustered_se(values, clusters) / ordinary) ** 2)
    size *= float(stdtrit(n - 1, quantile) / stdtrit(many - 1, quantile)) ** 2
    # If several values are most frequent, use the one that the most clusters deviate from.
    counts, pairs = Counter(values), list(zip(values, clusters, strict=True))
    most = max(counts.values())
    usual = [value for value, count in counts.items() if count == most]
    apart = max(len({label for value, label in pairs if value != common}) for common in usual)
    return min(size, float(many)) if apart < FEW_CLUSTERS else size


def clustered_wilson(
    values: Sequence[float], clusters: Sequence[Hashable], *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Wilson's interval of a share of clustered items, computed with their `effective_sample_size`.

    Korn and Graubard use an exact interval instead of Wilson's. If every cluster has one item, the result equals
    `wilson`.
    """
    n, size = len(values), effective_sample_size(values, clusters, confidence=confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    # In floating point, the mean of ones may exceed 1.
    return wilson(min(1.0, sum(values) / n) * size if n else 0.0, size, z=z)


def mean_interval(counts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The 95 % interval of an unweighted mean of independent shares, from their Wilson intervals.

    The distances from each share to the ends of its interval are added in quadrature (MOVER; Zou and Donner 2008,
    Statistics in Medicine 27:1693).

    Args:
        counts: one (successes, trials) pair per share; trials > 0. Trials may be effective sample sizes.

    Returns:
        Lower and upper end, fractions in [0, 1].

    Raises:
        ValueError: there is no share, or a share has no trials.
    """
    if not counts or any(n == 0 for _, n in counts):
        raise ValueError(f"wanted at least one share, each with a trial, got {list(counts)}")
    rows = [(k / n, *wilson(k, n)) for k, n in counts]
    total = sum(share for share, *_ in rows)
    below = math.hypot(*(share - low for share, low, _ in rows))
    above = math.hypot(*(high - share for share, _, high in rows))
    return (total - below) / len(rows), (total + above) / len(rows)


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact McNemar test: p = min(1, 2 P[Bin(b + c, 1/2) <= min(b, c)]).

    Args:
        b: items that only the first system answered correctly.
        c: items that only the second system answered correctly.

    Returns:
        The p value in (0, 1]; 1 if b = c.

    Raises:
        ValueError: a count is negative.
    """
    if b < 0 or c < 0:
        raise ValueError(f"wanted counts of 0 or more, got b={b}, c={c}")
    return min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))


def cluster_sign_flip_test(gains: Sequence[int], clusters: Sequence[Hashable]) -> float:
    """Two-sided exact sign-flip test of the difference between two systems on the same clustered items.

    If neither system is better, the net gain of each cluster is equally likely to have either sign (Fisher's
    randomization test). p is the share of all sign patterns whose sum is at least as far from 0 as the observed one.
    If every cluster has one item, the test equals `mcnemar_exact`.

    Args:
        gains: n values: 1 if only the second system answered the item correctly, -1 if only the first did, otherwise 0.
        clusters: n labels; items of one patient or volume share a label.

    Returns:
        The p value in (0, 1].
    """
    nets = np.rint(np.bincount(cluster_numbers(clusters), weights=gains)).astype(np.int64)
    sizes = np.abs(nets[nets != 0])
    if np.all(sizes == 1):
        return mcnemar_exact(int(np.sum(nets == -1)), int(np.sum(nets == 1)))
    total = int(sizes.sum())
    # Probability of each sum, from -total to total, updated cluster by cluster.
    chance = np.zeros(2 * total + 1)
    chance[total] = 1.0
    for size in sizes:
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2
    as_far = np.abs(np.arange(-total, total + 1)) >= abs(int(nets.sum()))
    return float(min(1.0, chance[as_far].sum()))


def clustered_se(scores: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Clustered standard error of a mean (arXiv 2411.00640).

    SE^2 = SE_CLT^2 + (1/n^2) sum over clusters of sum_{i != j} (s_i - m)(s_j - m). Here m is the mean score, and
    SE_CLT^2 = Var(s) / n, where Var(s) has the denominator n - 1. If every cluster has one item, the result is the
    ordinary standard error.

    Args:
        scores: n scores.
        clusters: n labels; items of one patient or volume share a label.

    Returns:
        The standard error, in the unit of the scores; 0 for fewer than two items.

    Raises:
        ValueError: `scores` and `clusters` differ in length.
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


def paired_difference(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[float, float, float]:
    """The difference of two accuracies on the same items, with the adjusted Wald interval of Bonett and Price.

    One item is added to each of the discordant counts and two to the number of items (Bonett and Price 2012, Journal
    of Educational and Behavioral Statistics 37:479). For clustered items, the number of items is their
    `effective_sample_size`. Unlike a percentile bootstrap, the interval is not too narrow for few items or few
    differences: `tests/evaluation/test_statistics.py` simulates its coverage.

    Args:
        a: n scores of the first system, 0 or 1.
        b: n scores of the second system on the same items, in the same order.
        clusters: n labels; items of one patient or volume share a label.

    Returns:
        mean(b) - mean(a), and the lower and upper end of its 95 % interval. All three are fractions in [-1, 1].

    Raises:
        ValueError: there are no items, or the lengths differ.
    """
    if not len(a) == len(b) == len(clusters):
        raise ValueError(f"wanted equal lengths, got {len(a)} and {len(b)} scores and {len(clusters)} clusters")
    n = len(a)
    if n == 0:
        raise ValueError("wanted at least one item, got none")
    gains = [float(after) - float(before) for before, after in zip(a, b, strict=True)]
    size = effective_sample_size(gains, clusters)
    gained, lost = ((sum(gain == sign for gain in gains) / n * size + 1) / (size + 2) for sign in (1, -1))
    centre = gained - lost
    half = Z * math.sqrt((gained + lost - centre**2) / (size + 2))
    return sum(gains) / n, max(-1.0, centre - half), min(1.0, centre + half)


def paired_ratio(a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """The 95 % interval of sum(a) / sum(b) for two accuracies on the same items.

    Its ends are ratios of the ends of two Wilson intervals, computed with a quantile for paired data (Bonett and Price
    2006, Statistics in Medicine 25:3039). For clustered items, n is the `effective_sample_size` of the residuals
    a - ratio * b.

    Args:
        a: n scores of the first system, 0 or 1.
        b: n scores of the second system on the same items, 0 or 1. At least one score is 1.
        clusters: n labels; items of one patient or volume share a label.

    Returns:
        Lower and upper end.
    """
    above, below = float(sum(a)), float(sum(b))
    both = float(sum(x * y for x, y in zip(a, b, strict=True)))
    weight = effective_sample_size([x - above / below * y for x, y in zip(a, b, strict=True)], clusters) / len(a)
    above, below, both = above * weight, below * weight, both * weight
    either = max(above + below - both, above, below)
    spread = math.sqrt((above + below - 2 * both + 2) / ((above + 1) * (below + 1)))
    apart = sum(math.sqrt((1 - (k + 1) / (either + 2)) / (k + 1)) for k in (above, below))
    z = Z * spread / apart
    (low, high), (low_below, high_below) = wilson(above, either, z=z), wilson(below, either, z=z)
    return low / high_below, high / low_below


def cluster_numbers(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    """Replace cluster labels by the numbers 0, 1, ... in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in clusters], dtype=np.int64)
