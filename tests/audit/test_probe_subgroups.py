"""The subgroups probe against statsmodels' interval of a difference, by hand, and what must not change it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import confint_proportions_2indep

from audited import check_verdict, item, numbers, probe_input, sample
from medvlm_r1.audit.probes.subgroups import SubgroupsProbe, below_rest
from medvlm_r1.audit.variant import REAL
from medvlm_r1.evaluation.statistics import clustered_wilson

probe = SubgroupsProbe()


def answers(start, rights, **changes):
    return [item(sample(start + n, **changes), {REAL: "o0" if right else "o1"}) for n, right in enumerate(rights)]


NINE_OF_TEN = [n % 10 > 0 for n in range(100)]


def test_accuracies_by_hand():
    items = [
        *answers(0, [True, True, False], modality="CT", question_type="Lesion Grading", k=4),
        *answers(10, [True, False], modality="MRI", k=2),
        item(sample(20, k=10), {REAL: None}),
    ]
    question = probe_input(sample())
    assert probe.first(question) == probe.then(question, items[0].real) == []
    result = check_verdict(probe, items)
    expected = {
        "accuracy": (3 / 6, 6),
        "modality: CT": (2 / 3, 3),
        "modality: MRI": (1 / 3, 3),
        "question type: Lesion Grading": (2 / 3, 3),
        "options: 2": (1 / 2, 2),
        "options: 4": (2 / 3, 3),
        "options: 10": (0, 1),
    }
    names = [name for name in result.measures if name not in ("clustered_se", "clusters", "unparsed")]
    assert names == list(expected)
    assert list(expected.values()) == numbers(result, *expected)
    assert result.items == {"the answer was not parsed": ["q0020"]}
    assert (result.verdict, result.sentence) == (
        "not run",
        "Too few for a verdict: items of modality: CT 3, modality: MRI 3, question type: Lesion Grading 3; at least 30 "
        "of one modality or type of question and 30 others are needed. 50% of 6 are correct over all, from 6 subjects. "
        "6 items have no subject and count as one each. 1 answers were not parsed and count as wrong.",
    )


@pytest.mark.parametrize(
    ("sizes", "verdict"), [((30, 30), "pass"), ((29, 30), "not run"), ((300, 29), "not run"), ((300, 0), "not run")]
)
def test_subgroups_are_compared_from_thirty_items_with_thirty_others(sizes, verdict):
    items = answers(0, [True] * sizes[0], modality="CT") + answers(500, [True] * sizes[1], modality="MRI")
    check_verdict(probe, items, verdict, "100% of")


def test_a_subgroup_that_is_clearly_lower_is_named():
    items = answers(0, NINE_OF_TEN, modality="CT", k=4)
    result = probe.measure([*items, *answers(200, [n % 2 > 0 for n in range(100)], modality="X-ray", k=2)])
    assert result.verdict == "warn"
    assert "modality: X-ray 50% of 100, 40 points below the others" in result.sentence
    assert numbers(result, "modality: CT, against the others") == [(0.9 - 0.5, 100)]
    assert len(result.items["wrong, modality: X-ray"]) == 50
    assert "wrong, modality: CT" not in result.items
    # Numbers of options are not compared, and neither are few items.
    assert not [name for name in result.measures if name.startswith("options") and "against" in name]
    few = answers(200, [True, False], modality="MRI")
    result = probe.measure([*items, *few, *answers(300, NINE_OF_TEN, modality="X-ray")])
    assert result.verdict == "pass"
    assert "Not compared, as fewer than 30 items or others: modality: MRI 2." in result.sentence


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 40), st.integers(1, 40))
def test_the_interval_of_a_difference_is_newcombes(a, n, b, m):
    a, b = min(a, n), min(b, m)
    group, rest = answers(0, [i < a for i in range(n)]), answers(100, [i < b for i in range(m)])
    for compared in (1, 5):
        forth, back = below_rest(group, rest, compared), below_rest(rest, group, compared)
        reference = confint_proportions_2indep(a, n, b, m, method="newcomb", alpha=0.05 / compared)
        assert forth.value == pytest.approx(a / n - b / m, abs=1e-12)
        assert forth.ends == pytest.approx(reference, abs=1e-9)
        assert back.ends == pytest.approx([-end for end in reversed(forth.ends)])


def test_the_interval_of_clustered_items_is_made_of_their_intervals_at_the_corrected_level():
    groups, ends = [], []
    for start, rights in ((0, [4, 3, 0, 1, 2, 4, 0, 2, 1, 0]), (100, [4, 4, 3, 1, 4, 2, 4, 3, 0, 4])):
        # Ten subjects of four items, so many of them correct.
        subjects = [(f"p{start + n}", right) for n, right in enumerate(rights)]
        items = [(start + 4 * n, name, right) for n, (name, right) in enumerate(subjects)]
        group = [of for at, name, right in items for of in answers(at, [n < right for n in range(4)], subject=name)]
        groups.append(group)
        labels = [of.cluster for of in group]
        ends.append(clustered_wilson([of.correct() for of in group], labels, confidence=1 - 0.05 / 3))
    (p_low, p_high), (q_low, q_high) = ends
    measure, p, q = below_rest(*groups, 3), 17 / 40, 29 / 40
    expected = p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)
    assert measure.ends == pytest.approx(expected, abs=1e-9)
    assert (measure.value, measure.n) == (pytest.approx(p - q), 40)
    result = probe.measure([*groups[0], *groups[1]])
    assert (result.measures["clusters"].value, "have no subject" in result.sentence) == (20, False)
