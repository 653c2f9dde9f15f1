"""Measures against scipy and statsmodels where they have the interval, by hand and by properties elsewhere."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t
from statsmodels.stats.proportion import proportion_confint

from medvlm_r1.audit.measures import bootstrap, cluster_sums, difference, ratio, share
from medvlm_r1.evaluation.statistics import clustered_se, clustered_wilson, paired_ratio

rows = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 11)), min_size=2, max_size=40)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_share_of_independent_items_has_wilsons_interval(values: list[bool]) -> None:
    found = share(values, list(range(len(values))), "x")
    reference = binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    assert found.value == sum(values) / len(values)
    assert found.ci95 == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert found.ci95 == pytest.approx(proportion_confint(sum(values), len(values), method="wilson"), abs=1e-9)


@given(rows)
def test_a_share_of_clusters_has_wilsons_interval_at_what_they_are_worth(values: list[tuple[bool, bool, int]]) -> None:
    scores, clusters = [float(a) for a, _, _ in values], [label for _, _, label in values]
    n, mean, many = len(scores), float(np.mean(scores)), len(set(clusters))
    low, high = clustered_wilson(scores, clusters)
    holding = [len({label for score, label in zip(scores, clusters, strict=True) if score == one}) for one in (0, 1)]
    apart = max(holding) if 2 * sum(scores) == n else holding[2 * sum(scores) < n]
    if mean in (0.0, 1.0) or many in (1, n):
        effective_sample_size: float = many
    else:
        # Ordinary least squares on a constant; its sandwich over clusters lacks n/(n - 1) within items.
        fit = sm.OLS(scores, np.ones(n))
        groups = np.unique(clusters, return_inverse=True)[1]
        sandwich = fit.fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}).bse[0] ** 2
        variance = mean * (1 - mean)
        effective_sample_size = n / max(1.0, (sandwich + variance / (n - 1) - variance / n) / (variance / (n - 1)))
        effective_sample_size *= (t.ppf(0.975, n - 1) / t.ppf(0.975, many - 1)) ** 2
        if apart < 5:
            # Too few that differ to tell how far items of a cluster go together.
            effective_sample_size = min(effective_sample_size, many)
    assert (low, high) == pytest.approx(
        proportion_confint(mean * effective_sample_size, effective_sample_size, method="wilson"), abs=1e-9
    )
    plain = clustered_wilson(scores, list(range(n)))
    assert high - low >= plain[1] - plain[0] - 1e-12


def test_the_clustered_standard_error_is_statsmodels() -> None:
    rng = np.random.default_rng(0)
    scores, clusters = rng.integers(0, 2, 90).astype(float), np.repeat(np.arange(30), 3)
    fit = sm.OLS(scores, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False})
    within = scores.var() * (1 / 89 - 1 / 90)
    assert clustered_se(scores.tolist(), clusters.tolist()) ** 2 == pytest.approx(fit.bse[0] ** 2 + within, abs=1e-9)


def test_items_of_one_subject_that_agree_count_once() -> None:
    assert share([True] * 40, [i // 4 for i in range(40)], "x").ci95 == pytest.approx(
        proportion_confint(10, 10, method="wilson"), abs=1e-9
    )


def test_one_more_that_differs_never_narrows_the_interval_of_nearly_all() -> None:
    # 30 items in three orders each: none, one, ... of them answered otherwise in one order.
    clusters = [number // 3 for number in range(90)]
    ends = [share([float(n // 3 < k and n % 3 == 0) for n in range(90)], clusters, "x").ends[1] for k in range(5)]
    assert ends == sorted(ends)


def test_one_subject_is_worth_one_item() -> None:
    for right in (30, 60):
        values = [True] * right + [False] * (60 - right)
        low, high = share(values, ["only"] * 60, "x").ends
        assert (low, high) == pytest.approx(proportion_confint(right / 60, 1, method="wilson"))
    # Two subjects say hardly more: their standard error has one degree of freedom.
    assert share([True, False] * 30, [n // 30 for n in range(60)], "x").ends[0] < 0.1


def test_a_share_of_nothing_knows_nothing() -> None:
    found = share([], [], "x")
    assert (found.n, found.ci95) == (0, (0.0, 1.0))


@given(rows)
def test_a_difference_turns_round(values: list[tuple[bool, bool, int]]) -> None:
    a, b, clusters = [v[0] for v in values], [v[1] for v in values], [v[2] for v in values]
    forth, back = difference(a, b, clusters, "x"), difference(b, a, clusters, "x")
    assert forth.value == pytest.approx(-back.value)
    assert forth.ci95 is not None
    assert forth.ci95 == pytest.approx([-end for end in reversed(back.ci95 or ())])
    assert -1 <= forth.ci95[0] <= forth.ci95[1] <= 1


def test_a_ratio_by_hand() -> None:
    # Three clusters; 2 above, 4 below.
    found = ratio([1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0], list("aabbcc"), "x")
    assert found is not None
    assert found.value == 0.5
    # Three subjects say nothing of the next one, though every resample of them gives one half.
    assert found.ci95 is None
    many = ratio([1, 0] * 10, [1, 1] * 10, list(range(20)), "x")
    assert many is not None
    assert many.ci95 == paired_ratio([1, 0] * 10, [1, 1] * 10, list(range(20)))


def test_a_ratio_to_nothing_is_none() -> None:
    assert ratio([True, False], [False, False], ["a", "b"], "x") is None


def test_the_interval_of_a_ratio_is_that_of_the_delta_method_on_many_items() -> None:
    rng = np.random.default_rng(3)
    below = rng.random(2000) < 0.8
    above = rng.random(2000) < 0.4
    found = ratio(above.tolist(), below.tolist(), list(range(2000)), "x")
    assert found is not None
    assert found.ci95 is not None
    error = (above - found.value * below).std() / below.mean() / np.sqrt(2000)
    assert found.ci95 == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=0.005)


def test_sums_and_draws_of_whole_clusters() -> None:
    sums = cluster_sums(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), ["a", "b", "a"])
    assert sums.tolist() == [[6.0, 8.0], [3.0, 4.0]]
    # Of ten clusters, the first of which is 1 and the others 0, every draw has it 0 to 10 times.
    ten = np.eye(10)[:, :1]
    seen: set[float] = set()

    def statistic(totals: np.ndarray) -> np.ndarray:
        seen.update(totals[:, 0].tolist())
        return totals[:, 0]

    assert bootstrap(ten, statistic) == (0.0, 3.0)
    assert {0.0, 1.0, 2.0, 3.0} <= seen <= set(map(float, range(11)))
    # Fewer clusters, or draws that all agree, tell nothing of others.
    assert bootstrap(ten[:9], statistic) is None
    assert bootstrap(np.ones((10, 1)), statistic) is None
