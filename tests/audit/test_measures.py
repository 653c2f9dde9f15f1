"""Measures against scipy and statsmodels where they have the interval, by hand and by properties elsewhere."""

import numpy as np
import pytest
import statsmodels.api as sm
from audited import item, sample
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from medvlm_r1.audit.measures import bootstrap, cluster_sums, difference, ratio, share
from medvlm_r1.audit.variant import AuditedItem
from medvlm_r1.evaluation.statistics import clustered_se, clustered_wilson, paired_difference, paired_ratio

rows = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 11)), min_size=2, max_size=40)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_share_of_independent_items_has_wilsons_interval(values: list[bool]) -> None:
    measure = share(zip(values, range(len(values)), strict=True), "x")
    assert measure.value == sum(values) / len(values)
    assert measure.ci95 == pytest.approx(proportion_confint(sum(values), len(values), method="wilson"), abs=1e-9)


@given(rows)
def test_a_share_of_clusters_has_wilsons_interval_at_its_effective_sample_size(
    values: list[tuple[bool, bool, int]],
) -> None:
    scores, clusters = [float(a) for a, _, _ in values], [label for _, _, label in values]
    n, mean, many = len(scores), float(np.mean(scores)), len(set(clusters))
    low, high = clustered_wilson(scores, clusters)
    holding = [len({label for score, label in zip(scores, clusters, strict=True) if score == one}) for one in (0, 1)]
    apart = max(holding) if 2 * sum(scores) == n else holding[2 * sum(scores) < n]
    if mean in (0.0, 1.0) or many in (1, n):
        size: float = many
    else:
        # Ordinary least squares on a constant; its sandwich over clusters lacks n/(n - 1) within items.
        groups = np.unique(clusters, return_inverse=True)[1]
        covariance = {"groups": groups, "use_correction": False}
        sandwich = sm.OLS(scores, np.ones(n)).fit(cov_type="cluster", cov_kwds=covariance).bse[0] ** 2
        variance = mean * (1 - mean)
        size = n / max(1.0, (sandwich + variance / (n - 1) - variance / n) / (variance / (n - 1)))
        size *= (t.ppf(0.975, n - 1) / t.ppf(0.975, many - 1)) ** 2
        if apart < 5:
            # Too few that differ to estimate the correlation within clusters.
            size = min(size, many)
    assert (low, high) == pytest.approx(proportion_confint(mean * size, size, method="wilson"), abs=1e-9)
    plain = clustered_wilson(scores, list(range(n)))
    assert high - low >= plain[1] - plain[0] - 1e-12


def test_the_clustered_standard_error_is_statsmodels() -> None:
    rng = np.random.default_rng(0)
    scores, clusters = rng.integers(0, 2, 90).astype(float), np.repeat(np.arange(30), 3)
    fit = sm.OLS(scores, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False})
    within = scores.var() * (1 / 89 - 1 / 90)
    assert clustered_se(scores.tolist(), clusters.tolist()) ** 2 == pytest.approx(fit.bse[0] ** 2 + within, abs=1e-9)


@pytest.mark.parametrize(
    ("pairs", "k", "n"),
    [
        # Items of one subject that agree count once.
        ([(True, i // 4) for i in range(40)], 10, 10),
        ([(i < 30, "only") for i in range(60)], 0.5, 1),
        ([(True, "only")] * 60, 1, 1),
    ],
)
def test_subjects_that_agree_count_once(pairs: list[tuple[bool, object]], k: float, n: int) -> None:
    assert share(pairs, "x").ends == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-9)


def test_one_more_that_differs_never_narrows_the_interval_of_nearly_all() -> None:
    # 30 items in three orders each: none, one, ... of them answered otherwise in one order.
    ends = [share([(float(n // 3 < k and n % 3 == 0), n // 3) for n in range(90)], "x").ends[1] for k in range(5)]
    assert ends == sorted(ends)
    # Two subjects say hardly more than one: their standard error has one degree of freedom.
    assert share([(n % 2, n // 30) for n in range(60)], "x").ends[0] < 0.1


def test_a_share_of_nothing_knows_nothing() -> None:
    measure = share([], "x")
    assert (measure.n, measure.ci95) == (0, (0.0, 1.0))


def audited(a: list[int], b: list[int], clusters: list[object]) -> list[AuditedItem]:
    """Items whose variants "a" and "b" are answered correctly or not; None is no answer."""
    table = enumerate(zip(a, b, clusters, strict=True))
    return [
        item(sample(n, subject=str(label)), {"real": "o0", "a": f"o{1 - x}", "b": f"o{1 - y}"})
        for n, (x, y, label) in table
    ]


@given(rows)
def test_a_difference_is_that_of_the_items_with_both_answers(values: list[tuple[bool, bool, int]]) -> None:
    a, b, clusters = [int(v[0]) for v in values], [int(v[1]) for v in values], [str(v[2]) for v in values]
    items = [*audited(a, b, clusters), item(sample(99), {"real": "o0", "a": "o0"})]
    forth, back = difference(items, "b", "a", "x"), difference(items, "a", "b", "x")
    assert (forth.value, *forth.ends) == paired_difference(a, b, clusters)
    assert (back.value, *back.ends) == pytest.approx((-forth.value, -forth.ends[1], -forth.ends[0]))
    assert forth.n == len(a)


def test_a_ratio_by_hand() -> None:
    # Three clusters; 2 above, 4 below.
    measure = ratio(audited([1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0], list("aabbcc")), "a", "b", "x")
    assert measure is not None
    assert measure.value == 0.5
    # Three subjects say nothing of the next one, though every resample of them gives one half.
    assert measure.ci95 is None
    many = ratio(audited([1, 0] * 10, [1, 1] * 10, list(range(20))), "a", "b", "x")
    assert many is not None
    assert many.ci95 == paired_ratio([1, 0] * 10, [1, 1] * 10, list(range(20)))
    assert ratio(audited([1, 0], [0, 0], ["a", "b"]), "a", "b", "x") is None


def test_the_interval_of_a_ratio_is_that_of_the_delta_method_on_many_items() -> None:
    rng = np.random.default_rng(3)
    below, above = rng.random(2000) < 0.8, rng.random(2000) < 0.4
    ends = paired_ratio(above.tolist(), below.tolist(), list(range(2000)))
    value = above.sum() / below.sum()
    error = (above - value * below).std() / below.mean() / np.sqrt(2000)
    assert ends == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=0.005)


def test_sums_and_draws_of_whole_clusters() -> None:
    sums = cluster_sums(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), ["a", "b", "a"])
    assert sums.tolist() == [[6.0, 8.0], [3.0, 4.0]]
    # Of ten clusters, the first of which is 1 and the others 0, every draw has it 0 to 10 times.
    ten = np.eye(10)[:, :1]
    drawn: set[float] = set()

    def statistic(totals: np.ndarray) -> np.ndarray:
        drawn.update(totals[:, 0].tolist())
        return totals[:, 0]

    assert bootstrap(ten, statistic) == (0.0, 3.0)
    assert {0.0, 1.0, 2.0, 3.0} <= drawn <= set(map(float, range(11)))
    # Fewer clusters, or draws that all agree, tell nothing of others.
    assert bootstrap(ten[:9], statistic) is bootstrap(np.ones((10, 1)), statistic) is None
