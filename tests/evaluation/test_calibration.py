"""Calibration against scikit-learn, scipy and statsmodels, against counts by hand, and what must not change it."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from medvlm_r1.evaluation import calibration as c

# Few distinct values, so that ties are common.
answers = st.lists(
    st.tuples(st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1), st.booleans()), min_size=1
)
both = answers.filter(lambda pairs: len({right for _, right in pairs}) == 2)
rows = st.lists(
    st.lists(st.floats(0.01, 1), min_size=2, max_size=5).map(lambda r: [x / sum(r) for x in r]), min_size=2, max_size=20
)


def apart(answered):
    return [confidence for confidence, _ in answered], [right for _, right in answered]


@given(both)
def test_auroc_and_brier_are_scikit_learns(answered):
    confidence, right = apart(answered)
    assert c.auroc(confidence, right) == pytest.approx(roc_auc_score(right, confidence), abs=1e-9)
    assert c.auroc(confidence, [True] * len(right)) is c.auroc(confidence, [False] * len(right)) is None
    assert c.brier(confidence, right) == pytest.approx(brier_score_loss(right, confidence), abs=1e-9)


@given(st.integers(1, 12), st.integers(1, 9), st.randoms(use_true_random=False))
def test_ece_is_that_of_scikit_learns_quantile_bins(bins, each, rng):
    # Equal bins of distinct values: where scikit-learn's quantiles cut, too.
    confidence = rng.sample([i / 1000 for i in range(1, 1000)], bins * each)
    right = [rng.random() < 0.5 for _ in confidence]
    share, mean = calibration_curve(right, confidence, n_bins=bins, strategy="quantile")
    assert c.ece(confidence, right, bins) == pytest.approx(float(np.mean(np.abs(share - mean))), abs=1e-9)
    # By hand: 0.1 and 0.3 with one right of two, 0.6 and 1.0 with both right.
    assert c.ece([0.1, 0.6, 0.3, 1.0], [1, 1, 0, 1], bins=2) == pytest.approx((abs(0.5 - 0.2) + abs(1 - 0.8)) / 2)


@given(answers, st.integers(1, 15))
def test_bins_hold_equal_mass(answered, bins):
    confidences, _, sizes = zip(*c.reliability(*apart(answered), bins), strict=True)
    assert sum(sizes) == len(answered)
    assert max(sizes) - min(sizes) <= 1
    assert confidences == pytest.approx(sorted(confidences), abs=1e-12)


def brute_aurc(confidence, right):
    """Mean over every order that sorts by falling confidence."""
    areas = []
    for order in itertools.permutations(range(len(right))):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            wrong = [not right[i] for i in order]
            areas.append(np.mean([sum(wrong[:k]) / k for k in range(1, len(wrong) + 1)]))
    return float(np.mean(areas))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=6))
def test_aurc_is_the_mean_over_all_orders_of_equal_confidences(answered):
    assert c.aurc(*apart(answered)) == pytest.approx(brute_aurc(*apart(answered)), abs=1e-9)


def test_risk_and_coverage_by_hand():
    confidence, right = [0.9, 0.9, 0.8, 0.4], [True, True, False, True]
    assert c.risk_coverage(confidence, right) == [(0.9, 0.5, 0.0), (0.8, 0.75, 1 / 3), (0.4, 1.0, 0.25)]
    assert c.aurc(confidence, right) == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)
    assert c.coverage_at_risk(confidence, right, 0.0) == 0.5
    # The risk may fall again: the largest coverage counts.
    assert c.coverage_at_risk(confidence, right, 0.25) == 1.0
    assert c.coverage_at_risk([0.9, 0.1], [False, False], 0.1) == 0.0


@given(answers, st.floats(0, 1), st.floats(0, 1), st.randoms(use_true_random=False))
def test_figures_stay_in_range_in_any_order(answered, risk, other, rng):
    confidence, right = apart(answered)
    shuffled = apart(rng.sample(answered, len(answered)))
    for figure in (c.ece, c.brier, c.auroc, c.aurc):
        assert figure(confidence, right) == pytest.approx(figure(*shuffled), abs=1e-12)
    assert c.risk_coverage(confidence, right) == c.risk_coverage(*shuffled)
    low, high = sorted([risk, other])
    assert 0 <= c.coverage_at_risk(confidence, right, low) <= c.coverage_at_risk(confidence, right, high) <= 1
    assert c.risk_coverage(confidence, right)[-1][1:] == (1, pytest.approx(1 - np.mean(right)))


@given(rows, st.data())
def test_the_nll_is_scikit_learns(probabilities, data):
    wide = max(map(len, probabilities))
    truth = [data.draw(st.integers(0, len(row) - 1)) for row in probabilities]
    padded = [[*row, *[0.0] * (wide - len(row))] for row in probabilities]
    reference = log_loss(truth, padded, labels=list(range(wide)))
    assert c.nll(probabilities, truth) == pytest.approx(reference, abs=1e-9)


@given(rows)
def test_temperature_one_changes_nothing_and_a_high_one_levels(probabilities):
    for row, same in zip(probabilities, c.temperature_scale(probabilities, 1.0), strict=True):
        assert same == pytest.approx(row, abs=1e-12)
    for row, level in zip(probabilities, c.temperature_scale(probabilities, 1e9), strict=True):
        assert level == pytest.approx([1 / len(row)] * len(row), abs=1e-6)


def noisy(seed, n, k):
    """Rows whose truth is drawn from themselves cooled by a factor of 2: the fitted temperature is about 2."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(k), size=n)
    sharp = p**2 / (p**2).sum(axis=1, keepdims=True)
    return sharp.tolist(), [int(rng.choice(k, p=row)) for row in p]


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_has_the_least_loss(seed):
    probabilities, truth = noisy(seed, 400, 4)
    temperature = c.fit_temperature(probabilities, truth)
    assert 1.5 < temperature < 2.7

    def loss(t):
        return c.nll(c.temperature_scale(probabilities, t), truth)

    best = minimize_scalar(loss, bounds=(0.2, 10), method="bounded", options={"xatol": 1e-7})
    assert temperature == pytest.approx(best.x, rel=1e-4)
    assert loss(temperature) <= best.fun + 1e-12


def test_a_temperature_without_bound_stops_at_the_end():
    sure = [[0.9, 0.1], [0.2, 0.8]]
    assert c.fit_temperature(sure, [0, 1]) == c.MIN_TEMPERATURE
    assert c.fit_temperature(sure, [1, 0]) == c.MAX_TEMPERATURE
    # Equal probabilities have no temperature; nothing is divided by 0.
    assert c.fit_temperature([[0.5, 0.5]], [0]) in (c.MIN_TEMPERATURE, c.MAX_TEMPERATURE)
    assert math.isfinite(c.nll([[1.0, 0.0]], [1]))


@given(st.lists(st.text(max_size=3), min_size=1, max_size=30), st.integers(0, 5), st.randoms(use_true_random=False))
def test_halves_are_whole_clusters_and_the_same_in_any_order(labels, seed, rng):
    fit = dict(zip(labels, c.halves(labels, seed), strict=True))
    assert sum(fit.values()) == len(fit) // 2
    other = rng.sample(labels, len(labels))
    assert c.halves(other, seed) == [fit[label] for label in other]


def test_the_interval_of_a_mean_is_that_of_the_normal_for_many_clusters():
    rng = np.random.default_rng(0)
    scores = rng.random(400)
    [ends, never] = c.intervals(lambda index: [float(scores[index].mean()), None], list(range(400)), resamples=2000)
    half = 1.96 * scores.std(ddof=1) / 20
    assert never is None
    assert ends == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.1 * half)
    # Each score four times over, in one cluster: no more is known.
    four = np.repeat(scores, 4)
    [wide] = c.intervals(lambda index: [float(four[index].mean())], [i // 4 for i in range(1600)], resamples=2000)
    assert wide == pytest.approx(ends, abs=0.1 * half)
