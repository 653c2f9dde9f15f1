"""Calibration and selective-prediction metrics: pure functions of arrays.

Each answer has a confidence from 0 to 1, and `correct` is 1 or 0. Answers with equal confidences can be ranked in any
order. Every metric is the mean over all these rankings, so the order of the input does not matter.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import softmax

from medvlm_r1.evaluation.statistics import CONFIDENCE, FEWEST_SUBJECTS

BINS = 10
SMALLEST = 1e-12
"""Lower bound of a probability before its logarithm is taken, so that `nll` stays finite."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Bounds of a fitted temperature. Without them, perfectly separated data would give 0 and data at chance infinity."""

Floats = NDArray[np.float64]


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> list[tuple[float, float, int]]:
    """Reliability diagram: (mean confidence, share correct, number of answers) of each bin, by increasing confidence.

    The bins have equal mass: their sizes differ by at most one. There are at most as many bins as answers.
    """
    ordered, right = _sorted(confidence, correct)
    count = min(bins, len(ordered))
    pairs = zip(np.array_split(ordered, count), np.array_split(right, count), strict=True)
    return [(float(values.mean()), float(shares.mean()), len(values)) for values, shares in pairs]


def ece(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: the mean over answers of |share correct - mean confidence| of the answer's bin.

    ECE = sum over bins of n_b / n |correct_b - confidence_b| (Naeini 2015), with bins of equal mass (arXiv 1904.01685).
    """
    rows = reliability(confidence, correct, bins)
    return sum(n * abs(share - mean) for mean, share, n in rows) / sum(n for *_, n in rows)


def brier(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Mean of (confidence - correct)^2 (Brier 1950)."""
    return float(np.mean((_floats(confidence) - _floats(correct)) ** 2))


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float | None:
    """Probability that a correct answer has a higher confidence than a wrong one; equal confidences count half.

    Returns:
        The probability; None if all answers are correct or all are wrong.
    """
    _, counts, wrong = _levels(confidence, correct)
    right = counts - wrong
    pairs = float(right.sum() * wrong.sum())
    # Count pairs in which the wrong answer has a lower confidence than the correct one; equal confidences count half.
    below = wrong.sum() - np.cumsum(wrong)
    return float(right @ (below + wrong / 2)) / pairs if pairs else None


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> list[tuple[float, float, float]]:
    """The risk-coverage curve (arXiv 1705.08500): one point per distinct confidence, in descending order.

    A point is (threshold, coverage, risk). Answers with at least the threshold confidence are accepted, all others are
    deferred. Coverage is the share of accepted answers, and risk is the share of wrong answers among them.
    """
    levels, counts, wrong = _levels(confidence, correct)
    accepted = np.cumsum(counts)
    columns = levels, accepted / accepted[-1], np.cumsum(wrong) / accepted
    return list(zip(*(column.tolist() for column in columns), strict=True))


def aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk-coverage curve: the mean over i = 1..n of the risk among the i most confident answers."""
    _, right = _sorted(confidence, correct)
    return float(np.mean(np.cumsum(1 - right[::-1]) / np.arange(1, len(right) + 1)))


def coverage_at_risk(confidence: ArrayLike, correct: ArrayLike, risk: float) -> float:
    """The largest coverage of any confidence threshold with a risk of at most `risk`; 0 if no threshold qualifies."""
    points = risk_coverage(confidence, correct)
    return max((coverage for _, coverage, wrong in points if wrong <= risk + 1e-12), default=0.0)


def temperature_scale(probabilities: Sequence[Sequence[float]], temperature: float) -> list[list[float]]:
    """Temperature scaling (arXiv 1706.04599): raise each row to the power 1 / temperature and normalize it."""
    return [softmax(_logs(row) / temperature).tolist() for row in probabilities]


def nll(probabilities: Sequence[Sequence[float]], truth: Sequence[int]) -> float:
    """Negative log-likelihood: the mean of -log of the probability of the correct option.

    Args:
        probabilities: n rows, each with one probability per option of its item.
        truth: Index of the correct option in each row.
    """
    rows = zip(probabilities, truth, strict=True)
    return float(np.mean([-np.log(max(float(row[index]), SMALLEST)) for row, index in rows]))


def fit_temperature(probabilities: Sequence[Sequence[float]], truth: Sequence[int]) -> float:
    """The temperature that minimizes `nll`.

    `nll` is convex in b = 1/T, with the derivative mean(E_b[log p] - log p_correct). Brent's method finds the zero of
    the derivative.

    Args:
        probabilities: n rows, n > 0.
        truth: Index of the correct option in each row.

    Returns:
        The temperature, limited to the range from `MIN_TEMPERATURE` to `MAX_TEMPERATURE`.
    """
    logs = [_logs(row) for row in probabilities]

    def slope(inverse: float) -> float:
        expected = [float(softmax(inverse * row) @ row) for row in logs]
        return float(np.mean([e - row[index] for e, row, index in zip(expected, logs, truth, strict=True)]))

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if slope(low) >= 0:
        return MAX_TEMPERATURE
    if slope(high) <= 0:
        return MIN_TEMPERATURE
    return 1 / float(brentq(slope, low, high, xtol=1e-14, rtol=1e-14))


def halves(clusters: Sequence[Hashable], seed: int) -> list[bool]:
    """Split items at random into a fitting half and an evaluation half, without dividing a cluster.

    The fitting half has half of the clusters, rounded down. The split depends only on the labels and the seed, not on
    the order of the items.

    Returns:
        For each item, True if it is in the fitting half.
    """
    labels = sorted(set(clusters), key=str)
    chosen = np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 2]
    fitted = {labels[index] for index in chosen.tolist()}
    return [label in fitted for label in clusters]


def intervals(
    statistics: Callable[[NDArray[np.int64]], Sequence[float | None]],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> list[tuple[float, float] | None]:
    """Percentile bootstrap intervals of several statistics at once; whole clusters are drawn with replacement.

    Args:
        statistics: Maps the indices of the drawn items to one value per statistic; None marks an undefined statistic.
        clusters: The cluster label of each of the n items.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        For each statistic, its 95 % interval over the bootstrap samples on which it is defined. The interval is None if
        there is no such sample, if all samples give the same value, or if there are fewer than `FEWEST_SUBJECTS`
        clusters. In these cases resampling is uninformative about other subjects.
    """
    members: dict[Hashable, list[int]] = {}
    for index, label in enumerate(clusters):
        members.setdefault(label, []).append(index)
    groups = [np.array(indices, dtype=np.int64) for indices in members.values()]
    if len(groups) < FEWEST_SUBJECTS:
        return [None for _ in statistics(np.arange(len(clusters)))]
    rng = np.random.default_rng(seed)
    rows = [
        statistics(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups)).tolist()]))
        for _ in range(resamples)
    ]
    bounds: list[tuple[float, float] | None] = []
    for column in zip(*rows, strict=True):
        defined = [value for value in column if value is not None] or [0.0]
        low, high = np.quantile(defined, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2]).tolist()
        bounds.append((low, high) if low < high else None)
    return bounds


def _levels(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Distinct confidences from high to low, with the number of answers and of wrong answers at each confidence."""
    levels, codes = np.unique(_floats(confidence), return_inverse=True)
    counts = np.bincount(codes).astype(np.float64)
    wrong: Floats = np.bincount(codes, weights=1 - _floats(correct)).astype(np.float64)
    return levels[::-1], counts[::-1], wrong[::-1]


def _sorted(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    """Confidences from low to high, and the correctness at each rank, averaged over all orders of equal confidences."""
    levels, counts, wrong = (values[::-1] for values in _levels(confidence, correct))
    times = counts.astype(np.int64)
    return np.repeat(levels, times), np.repeat(1 - wrong / counts, times)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _logs(row: Sequence[float]) -> Floats:
    return np.log(np.maximum(_floats(row), SMALLEST))
