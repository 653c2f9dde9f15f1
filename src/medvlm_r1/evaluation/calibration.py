"""How far a confidence can be taken at its word, and what deferring by it brings. Pure functions of arrays.

A confidence is a number from 0 to 1 for each answer, right is 0 or 1. Where confidences are equal no order among them
is made up: every figure is what it would be on average over all orders of the equal ones, so the order of the items
never matters.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from medvlm_r1.evaluation.statistics import CONFIDENCE, FEWEST_SUBJECTS

BINS = 10
SMALLEST = 1e-12
"""Probabilities are taken for at least this: one that is 0 to the last digit would make a likelihood infinite."""
COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of a fitted temperature; a set that is separated without a mistake would have it 0, one at chance infinite."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of like confidence.

    Attributes:
        confidence: Their mean confidence.
        right: Share of them that are right.
        n: How many.
    """

    confidence: float
    right: float
    n: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept when all answers below a threshold are deferred.

    Attributes:
        threshold: The lowest confidence kept.
        coverage: Share of all answers kept.
        risk: Share of those kept that are wrong.
    """

    threshold: float
    coverage: float
    risk: float


def reliability(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> list[Bin]:
    """Bins of equal mass (sizes differ by one at most), by growing confidence; fewer where there are fewer answers."""
    said, true, sizes = _bins(confidence, right, bins)
    return [Bin(float(c), float(r), int(n)) for c, r, n in zip(said, true, sizes, strict=True)]


def ece(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: the mean over answers of |share right - mean confidence| of their bin.

    ECE = sum over bins of n_b / n |right_b - confidence_b| (Naeini 2015), with bins of equal mass (arXiv 1904.01685).
    """
    said, true, sizes = _bins(confidence, right, bins)
    return float(sizes @ np.abs(true - said) / sizes.sum())


def brier(confidence: ArrayLike, right: ArrayLike) -> float:
    """Mean of (confidence - right)^2 (Brier 1950)."""
    return float(np.mean((_floats(confidence) - _floats(right)) ** 2))


def auroc(confidence: ArrayLike, right: ArrayLike) -> float | None:
    """Probability that a right answer has a higher confidence than a wrong one, equal ones counted half.

    Returns:
        None where all are right or all are wrong.
    """
    _, counts, wrong = _levels(confidence, right)
    rights = counts - wrong
    pairs = float(rights.sum() * wrong.sum())
    # Of the pairs of a right and a wrong answer: those whose wrong one stands further down, and half of those level.
    below = wrong.sum() - np.cumsum(wrong)
    return float(rights @ (below + wrong / 2)) / pairs if pairs else None


def risk_coverage(confidence: ArrayLike, right: ArrayLike) -> list[Kept]:
    """The risk-coverage curve (arXiv 1705.08500): one point per distinct confidence, highest first."""
    return [Kept(*map(float, point)) for point in zip(*_curve(confidence, right), strict=True)]


def aurc(confidence: ArrayLike, right: ArrayLike) -> float:
    """Area under the risk-coverage curve: the mean over i = 1..n of the risk of the i most confident answers."""
    _, rights = _sorted(confidence, right)
    wrong = 1 - rights[::-1]
    return float(np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1)))


def coverage_at_risk(confidence: ArrayLike, right: ArrayLike, risk: float) -> float:
    """The largest share of answers that a threshold keeps with at most this share of them wrong; 0 if none does."""
    _, coverages, risks = _curve(confidence, right)
    return float(coverages[risks <= risk + 1e-12].max(initial=0.0))


def tempered(probabilities: Sequence[Sequence[float]], temperature: float) -> list[Floats]:
    """Each row of probabilities to the power of 1 / temperature, made to sum to 1 again (arXiv 1706.04599)."""
    return [_softmax(_logs(row) / temperature) for row in probabilities]


def likelihood_loss(probabilities: Sequence[Sequence[float]], truth: Sequence[int]) -> float:
    """Mean of -log of the probability of the right one (natural logarithm).

    Args:
        probabilities: n rows, each over an item's own options.
        truth: Index of the right one in each row.
    """
    rows = zip(probabilities, truth, strict=True)
    return float(np.mean([-np.log(max(float(row[index]), SMALLEST)) for row, index in rows]))


def fit_temperature(probabilities: Sequence[Sequence[float]], truth: Sequence[int]) -> float:
    """The temperature with the least `likelihood_loss`.

    The loss is convex in b = 1/T, with the derivative mean(E_b[log p] - log p_right); its zero is found by bracketing.

    Args:
        probabilities: n rows, n > 0.
        truth: Index of the right one in each row.

    Returns:
        A temperature from `COLDEST` to `HOTTEST`, at an end where the loss still falls there.
    """
    logs = [_logs(row) for row in probabilities]

    def slope(inverse: float) -> float:
        expected = [float(_softmax(inverse * row) @ row) for row in logs]
        return float(np.mean([e - row[index] for e, row, index in zip(expected, logs, truth, strict=True)]))

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return COLDEST
    return 1 / float(brentq(slope, low, high, xtol=1e-14, rtol=1e-14))


def halves(clusters: Sequence[Hashable], seed: int) -> list[bool]:
    """Splits items in two by whole clusters: True for the half to fit on, of half the clusters (the smaller half).

    The same labels and seed give the same split, whatever the order of the items.
    """
    labels = sorted(set(clusters), key=str)
    drawn = np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 2]
    fitted = {labels[place] for place in drawn.tolist()}
    return [label in fitted for label in clusters]


def intervals(
    statistics: Callable[[NDArray[np.int64]], Sequence[float | None]],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> list[tuple[float, float] | None]:
    """Percentile bootstrap of several statistics at once, whole clusters drawn with replacement.

    Args:
        statistics: From the indices of the items drawn to the values; None where one is not defined on them.
        clusters: n labels.
        seed: Of the draws.
        resamples: Number of draws.

    Returns:
        For each statistic its 95 % interval over the draws that define it. None where no draw does, where all draws
        agree, and below `FEWEST_SUBJECTS` clusters: resampling then tells nothing of what other subjects would give.
    """
    members: dict[Hashable, list[int]] = {}
    for place, label in enumerate(clusters):
        members.setdefault(label, []).append(place)
    groups = [np.array(places, dtype=np.int64) for places in members.values()]
    if len(groups) < FEWEST_SUBJECTS:
        return [None for _ in statistics(np.arange(len(clusters)))]
    rng = np.random.default_rng(seed)
    rows = [
        statistics(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups)).tolist()]))
        for _ in range(resamples)
    ]
    ends = [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2]
    found: list[tuple[float, float] | None] = []
    for column in zip(*rows, strict=True):
        defined = [value for value in column if value is not None]
        low, high = np.quantile(defined, ends) if defined else (0.0, 0.0)
        found.append((float(low), float(high)) if low < high else None)
    return found


def _levels(confidence: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Distinct confidences from high to low, how many answers have each, and how many of these are wrong."""
    levels, codes = np.unique(_floats(confidence), return_inverse=True)
    counts = np.bincount(codes).astype(np.float64)
    wrong: Floats = np.bincount(codes, weights=1 - _floats(right)).astype(np.float64)
    return levels[::-1], counts[::-1], wrong[::-1]


def _bins(confidence: ArrayLike, right: ArrayLike, bins: int) -> tuple[Floats, Floats, Floats]:
    """Mean confidence, share right, and size of each bin of equal mass."""
    ordered, rights = _sorted(confidence, right)
    count = max(1, min(bins, len(ordered)))
    # The larger ones first, as numpy's array_split has them.
    each, more = divmod(len(ordered), count)
    sizes = np.full(count, float(each))
    sizes[:more] += 1
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    return np.add.reduceat(ordered, starts) / sizes, np.add.reduceat(rights, starts) / sizes, sizes


def _curve(confidence: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Thresholds from high to low, and coverage and risk at each."""
    levels, counts, wrong = _levels(confidence, right)
    kept = np.cumsum(counts)
    return levels, kept / kept[-1], np.cumsum(wrong) / kept


def _sorted(confidence: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats]:
    """Confidences from low to high, and what is right at each place on average over the orders of equal ones."""
    levels, counts, wrong = (values[::-1] for values in _levels(confidence, right))
    times = counts.astype(np.int64)
    return np.repeat(levels, times), np.repeat(1 - wrong / counts, times)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _logs(row: Sequence[float]) -> Floats:
    return np.log(np.maximum(_floats(row), SMALLEST))


def _softmax(logits: Floats) -> Floats:
    shares: Floats = np.exp(logits - logits.max())
    total: Floats = shares / shares.sum()
    return total
