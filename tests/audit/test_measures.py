"""Measures of probes against statsmodels, and by hand where it has none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from audited import item, sample
from medvlm_r1.audit.measures import difference, ratio, share
from medvlm_r1.evaluation.statistics import paired_difference, paired_ratio

rows = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 11)), min_size=2, max_size=40)


@pytest.mark.parametrize(
    ("pairs", "k", "n"),
    [
        ([(i < 7, i) for i in range(20)], 7, 20),
        # Items of one subject that agree count once.
        ([(True, i // 4) for i in range(40)], 10, 10),
        ([(i < 30, "only") for i in range(60)], 0.5, 1),
        ([(True, "only")] * 60, 1, 1),
    ],
)
def test_a_share_has_wilsons_interval_of_its_subjects(pairs, k, n):
    measure = share(pairs, "x")
    assert (measure.value, measure.n) == (k / n, len(pairs))
    assert measure.ends == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-9)
    assert (share([], "x").n, share([], "x").ci95) == (0, (0.0, 1.0))


def audited(a, b, clusters):
    """Items whose variants "a" and "b" are answered correctly or not."""
    return [
        item(sample(n, subject=str(label)), {"real": "o0", "a": f"o{1 - x}", "b": f"o{1 - y}"})
        for n, (x, y, label) in enumerate(zip(a, b, clusters, strict=True))
    ]


@given(rows)
def test_a_difference_is_that_of_the_items_with_both_answers(values):
    a, b, clusters = [int(v[0]) for v in values], [int(v[1]) for v in values], [str(v[2]) for v in values]
    items = [*audited(a, b, clusters), item(sample(99), {"real": "o0", "a": "o0"})]
    measure = difference(items, "b", "a", "x")
    assert (measure.value, *measure.ends, measure.n) == (*paired_difference(a, b, clusters), len(a))


def test_a_ratio_by_hand():
    # Three clusters; 2 above, 4 below.
    measure = ratio(audited([1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0], list("aabbcc")), "a", "b", "x")
    # Three subjects predict nothing about the next one, though every resample of them gives one half.
    assert (measure.value, measure.ci95) == (0.5, None)
    many = ratio(audited([1, 0] * 10, [1, 1] * 10, list(range(20))), "a", "b", "x")
    assert many.ci95 == paired_ratio([1, 0] * 10, [1, 1] * 10, list(range(20)))
    assert ratio(audited([1, 0], [0, 0], ["a", "b"]), "a", "b", "x") is None
