"""Statistics against scipy where it has the function, a slow second implementation or properties elsewhere."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm, t

from medvlm_r1.evaluation.statistics import (
    cluster_sign_flip_test,
    clustered_se,
    clustered_wilson,
    effective_sample_size,
    mcnemar_exact,
    mean_interval,
    paired_difference,
    paired_ratio,
    t_interval,
    wilson,
)

counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
scored = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=2, max_size=40)


@given(counts)
def test_wilson_is_scipys(count):
    k, n = count
    reference = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(-1, 3), "wanted 0 <= k <= n"),
        (lambda: wilson(4, 3), "wanted 0 <= k <= n"),
        (lambda: wilson(0, -1), "wanted 0 <= k <= n"),
        (lambda: t_interval([]), "at least 2"),
        (lambda: t_interval([1.0]), "at least 2"),
        (lambda: mean_interval([]), "wanted at least one share"),
        (lambda: mean_interval([(1, 2), (0, 0)]), "wanted at least one share"),
        (lambda: mcnemar_exact(-1, 2), "wanted counts"),
        (lambda: clustered_se([1.0, 0.0], ["a"]), "2 scores and 1 clusters"),
        (lambda: paired_difference([1.0], [1.0, 0.0], ["a"]), "equal lengths"),
        (lambda: paired_difference([], [], []), "at least one item"),
    ],
)
def test_impossible_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_t_interval_is_scipys(values):
    scale = np.std(values, ddof=1) / math.sqrt(len(values))
    # scipy gives no interval where all values are equal.
    reference = t.interval(0.95, len(values) - 1, np.mean(values), scale) if scale else (values[0], values[0])
    assert t_interval(values) == pytest.approx(reference, abs=1e-9)


@given(st.lists(counts, min_size=1, max_size=6))
def test_mean_interval_holds_the_mean_and_lies_within_the_parts(parts):
    low, high = mean_interval(parts)
    mean = sum(k / n for k, n in parts) / len(parts)
    assert low - 1e-12 <= mean <= high + 1e-12
    # Independent errors partly cancel: never wider than if all shares erred the same way at once.
    ends = np.mean([wilson(*count) for count in parts], axis=0)
    assert ends[0] - 1e-12 <= low
    assert high <= ends[1] + 1e-12
    if len(parts) == 1:
        assert (low, high) == pytest.approx(wilson(*parts[0]), abs=1e-12)


def test_mean_interval_covers_as_often_as_it_says():
    truth = np.array([0.95, 0.69, 0.70])
    draws = np.random.default_rng(0).binomial(60, truth, size=(2000, 3)).tolist()
    ends = [mean_interval([(k, 60) for k in row]) for row in draws]
    assert 0.935 < sum(low <= truth.mean() <= high for low, high in ends) / 2000 < 0.975


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_scipys_two_sided_binomial_test(b, c):
    assert mcnemar_exact(b, c) == pytest.approx(binomtest(b, b + c, 0.5).pvalue if b + c else 1.0, abs=1e-9)
    assert mcnemar_exact(1, 5) == pytest.approx(14 / 64, rel=1e-12)
    # It keeps its precision with many discordant items.
    assert mcnemar_exact(4700, 5300) == pytest.approx(2 * binom.cdf(4700, 10_000, 0.5), rel=1e-9)


gained = st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 4)), min_size=1, max_size=25)


@given(gained)
def test_cluster_sign_flip_test_counts_all_sign_patterns(rows):
    nets = [sum(gain for gain, label in rows if label == cluster) for cluster in range(5)]
    sums = [sum(s * n for s, n in zip(signs, nets, strict=True)) for signs in itertools.product((-1, 1), repeat=5)]
    wanted = sum(abs(value) >= abs(sum(nets)) for value in sums) / len(sums)
    assert cluster_sign_flip_test([gain for gain, _ in rows], [label for _, label in rows]) == pytest.approx(wanted)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 50))
def test_cluster_sign_flip_test_of_one_item_each_is_mcnemars_test(b, c, same):
    gains = [-1] * b + [1] * c + [0] * same
    assert cluster_sign_flip_test(gains, range(len(gains))) == mcnemar_exact(b, c)


@given(scored)
def test_the_effective_sample_size_is_at_most_the_number_of_items(rows):
    values, clusters = [float(a) for a, *_ in rows], [label for *_, label in rows]
    assert 0 < effective_sample_size(values, clusters) <= len(rows)
    assert effective_sample_size(values, range(len(rows))) == len(rows)
    low, high = clustered_wilson(values, clusters)
    plain = wilson(sum(values), len(values))
    assert low <= plain[0] + 1e-9
    assert high >= plain[1] - 1e-9


def test_too_few_clusters_that_differ_count_once_each():
    # 30 subjects of three items: none, one, ... of them answered otherwise in one item.
    scores = [[float(n // 3 < k and n % 3 == 0) for n in range(90)] for k in range(7)]
    sizes = [effective_sample_size(values, [n // 3 for n in range(90)]) for values in scores]
    assert sizes[:5] == [30] * 5
    assert sizes[5] > 30
    ends = [clustered_wilson(values, [n // 3 for n in range(90)])[1] for values in scores[:5]]
    assert ends == sorted(ends)
    # Two subjects say hardly more than one: their standard error has one degree of freedom.
    assert clustered_wilson([float(n % 2) for n in range(60)], [n // 30 for n in range(60)])[0] < 0.1


@given(scored)
def test_clustered_se_is_the_written_formula(rows):
    scores = [float(row[0]) for row in rows]
    clusters = [row[2] for row in rows]
    n, mean = len(scores), sum(scores) / len(scores)
    variance = sum((s - mean) ** 2 for s in scores) / (n - 1) / n
    for i in range(n):
        for j in range(n):
            if i != j and clusters[i] == clusters[j]:
                variance += (scores[i] - mean) * (scores[j] - mean) / n**2
    assert clustered_se(scores, clusters) == pytest.approx(math.sqrt(max(0.0, variance)), abs=1e-9)


@given(scored)
def test_a_difference_turns_round_and_lies_in_its_interval(rows):
    a, b, clusters = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    difference, low, high = paired_difference(a, b, clusters)
    assert paired_difference(b, a, clusters) == pytest.approx((-difference, -high, -low), abs=1e-12)
    assert difference == pytest.approx((sum(b) - sum(a)) / len(rows), abs=1e-12)
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1
    # Whatever agrees, no number of items tells all of the next ones.
    assert low < high


def test_a_difference_by_hand():
    # Bonett and Price: (c + 1) / (n + 2) - (b + 1) / (n + 2) with b = 2, c = 6, n = 18 is 7/20 - 3/20.
    result = paired_difference([1] * 2 + [0] * 16, [0] * 2 + [1] * 6 + [0] * 10, range(18))
    half = 1.959963984540054 * math.sqrt((7 / 20 + 3 / 20 - 0.2**2) / 20)
    assert result == pytest.approx((4 / 18, 0.2 - half, 0.2 + half), abs=1e-12)


def simulated(rng, subjects, each, alike):
    """Two systems, right on 0.6 and 0.8 of the items; `alike` of what an item is like is its subject's."""
    rank = math.sqrt(alike) * rng.normal(size=(subjects, 1, 3)) + math.sqrt(1 - alike) * rng.normal(
        size=(subjects, each, 3)
    )
    scores = (rank[..., :2] + rank[..., 2:]) / math.sqrt(2) < norm.ppf([0.6, 0.8])
    return tuple(scores[..., system].astype(float).ravel().tolist() for system in (0, 1))


ENOUGH = [(10, 1, 0), (30, 1, 0), (100, 1, 0), (10, 5, 0.5), (30, 5, 0.9)]
"""Subjects, items of each, and how much of what an item is like is its subject's."""


@pytest.mark.parametrize(("subjects", "each", "alike"), [(2, 1, 0), (5, 1, 0), *ENOUGH])
def test_a_difference_is_covered_as_often_as_it_says(subjects, each, alike):
    rng = np.random.default_rng(11)
    clusters = np.repeat(np.arange(subjects), each).tolist()
    inside = resampled = 0
    for _ in range(400):
        a, b = simulated(rng, subjects, each, alike)
        _, low, high = paired_difference(a, b, clusters)
        inside += low <= 0.2 <= high
        gains = (np.array(b) - np.array(a)).reshape(subjects, each).mean(axis=1)
        ends = np.quantile(rng.choice(gains, size=(200, subjects)).mean(axis=1), [0.025, 0.975])
        resampled += ends[0] <= 0.2 <= ends[1]
    # The standard error of these shares is 0.011 at 0.95.
    assert inside / 400 >= 0.93
    if subjects == 2:
        # What a percentile bootstrap would give.
        assert resampled / 400 < 0.6


@pytest.mark.parametrize(("subjects", "each", "alike"), ENOUGH)
def test_a_ratio_is_covered_nearly_as_often_as_it_says(subjects, each, alike):
    rng = np.random.default_rng(12)
    clusters = np.repeat(np.arange(subjects), each).tolist()
    ends = [paired_ratio(*simulated(rng, subjects, each, alike), clusters) for _ in range(400)]
    assert sum(low <= 0.6 / 0.8 <= high for low, high in ends) / 400 >= 0.92


def test_a_ratio_of_systems_that_agree_is_not_certain():
    low, high = paired_ratio([1] * 30, [1] * 30, range(30))
    assert low < 0.95 < 1 < 1.05 < high
    low, high = paired_ratio([0] * 30, [1] * 30, range(30))
    assert low == 0 < 0.05 < high < 0.2


@given(scored.filter(lambda rows: any(row[1] for row in rows)))
def test_a_ratio_lies_in_its_interval(rows):
    a, b = [float(row[0]) for row in rows], [float(row[1]) for row in rows]
    low, high = paired_ratio(a, b, [row[2] for row in rows])
    assert 0 <= low <= sum(a) / sum(b) + 1e-12
    assert sum(a) / sum(b) - 1e-12 <= high < math.inf


def test_many_items_agree_with_the_normal_interval():
    rng = np.random.default_rng(1)
    a, b = rng.random(2000) < 0.4, rng.random(2000) < 0.8
    gains, ratio = b.astype(float) - a, a.sum() / b.sum()
    half = 1.96 * gains.std(ddof=1) / math.sqrt(2000)
    expected = gains.mean(), gains.mean() - half, gains.mean() + half
    assert paired_difference(a.tolist(), b.tolist(), range(2000)) == pytest.approx(expected, abs=0.002)
    # The delta method.
    half = 1.96 * (a - ratio * b).std() / b.mean() / math.sqrt(2000)
    assert paired_ratio(a.tolist(), b.tolist(), range(2000)) == pytest.approx((ratio - half, ratio + half), abs=0.005)


CLUSTERED = ([1.0] * 6 + [0.0] * 10 + [1.0] * 12 + [0.0] * 2, [n // 3 for n in range(30)])


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_effective_sample_size_has_the_t_quantile_of_the_confidence(confidence):
    values, clusters = CLUSTERED
    quantile = 0.5 + confidence / 2
    design_effect = (clustered_se(values, clusters) / clustered_se(values, range(30))) ** 2
    size = 30 / design_effect * (t.ppf(quantile, 29) / t.ppf(quantile, 9)) ** 2
    assert effective_sample_size(values, clusters, confidence=confidence) == pytest.approx(size, rel=1e-9)
    ends = wilson(0.6 * size, size, z=norm.ppf(quantile))
    assert clustered_wilson(values, clusters, confidence=confidence) == pytest.approx(ends, rel=1e-9)
