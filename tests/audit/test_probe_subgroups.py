"""The subgroups probe against statsmodels' interval of a difference, by hand, and what must not change it."""

from __future__ import annotations

import random as python_random
from collections.abc import Sequence

import pytest
from audited import asked, item, sample
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import confint_proportions_2indep

from medvlm_r1.audit.probes.subgroups import SubgroupsProbe, below_rest
from medvlm_r1.audit.variant import REAL, AuditedItem

probe = SubgroupsProbe()


def answers(start: int, rights: Sequence[bool], **changes: object) -> list[AuditedItem]:
    return [
        item(sample(start + n, **changes), {REAL: "o0" if right else "o1"})  # type: ignore[arg-type]
        for n, right in enumerate(rights)
    ]


def test_nothing_is_asked() -> None:
    question = asked(sample())
    assert probe.first(question) == []
    assert probe.then(question, answers(0, [True])[0].real) == []


def test_accuracies_by_hand() -> None:
    items = [
        *answers(0, [True, True, False], modality="CT", question_type="Lesion Grading", k=4),
        *answers(10, [True, False], modality="MRI", k=2),
        item(sample(20, k=10), {REAL: None}),
    ]
    result = probe.measure(items)
    value = {name: (measure.value, measure.n) for name, measure in result.measures.items()}
    assert value["accuracy"] == (3 / 6, 6)
    assert value["modality: CT"] == (2 / 3, 3)
    assert value["modality: MRI"] == (1 / 3, 3)
    assert value["question type: Lesion Grading"] == (2 / 3, 3)
    assert value["options: 2"] == (1 / 2, 2)
    assert value["options: 10"] == (0, 1)
    assert not [name for name in value if "against" in name]
    assert [name for name in value if name.startswith("options")] == ["options: 2", "options: 4", "options: 10"]
    assert result.items["the answer was not parsed"] == ["q0020"]
    assert "1 answers were not parsed" in result.sentence
    assert "6 items have no subject" in result.sentence
    assert result.verdict == "not run"
    assert result.sentence.startswith(
        "Too few for a verdict: items of modality: CT 3, modality: MRI 3, question type: Lesion Grading 3; "
        "at least 30 of one modality or type of question and 30 others are needed."
    )


def test_a_single_modality_is_not_compared_however_large() -> None:
    result = probe.measure(answers(0, [True] * 300, question_type="Lesion Grading"))
    assert result.verdict == "not run"
    assert "items of modality: MRI 300, question type: Lesion Grading 300; at least 30" in result.sentence


def test_subgroups_are_compared_from_thirty_items_with_thirty_others() -> None:
    def verdict(ct: int, mri: int) -> str:
        return probe.measure(
            answers(0, [True] * ct, modality="CT") + answers(500, [True] * mri, modality="MRI")
        ).verdict

    assert [verdict(30, 30), verdict(29, 30), verdict(300, 29)] == ["pass", "not run", "not run"]


def test_a_difference_by_hand() -> None:
    items = answers(0, [n % 3 > 0 for n in range(60)], modality="CT", k=4)
    items += answers(100, [n % 2 > 0 for n in range(60)], modality="MRI", k=2)
    value = {name: (measure.value, measure.n) for name, measure in probe.measure(items).measures.items()}
    assert value["modality: CT, against the others"] == (pytest.approx(2 / 3 - 1 / 2), 60)
    # Numbers of options are not held against each other.
    assert not [name for name in value if name.startswith("options") and "against" in name]


def test_a_subgroup_that_is_clearly_lower_is_named() -> None:
    items = answers(0, [n % 10 > 0 for n in range(100)], modality="CT")
    items += answers(200, [n % 2 > 0 for n in range(100)], modality="X-ray")
    result = probe.measure(items)
    assert result.verdict == "warn"
    assert "modality: X-ray 50% of 100, 40 points below the others" in result.sentence
    assert len(result.items["wrong, modality: X-ray"]) == 50
    assert "wrong, modality: CT" not in result.items


def test_a_lower_subgroup_of_few_items_is_not() -> None:
    items = answers(0, [n % 10 > 0 for n in range(100)], modality="CT") + answers(200, [True, False], modality="MRI")
    assert probe.measure(items).verdict == "not run"
    items += answers(300, [n % 10 > 0 for n in range(100)], modality="X-ray")
    result = probe.measure(items)
    assert result.verdict == "pass"
    assert "Not compared, as fewer than 30 items or others: modality: MRI 2." in result.sentence


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 40), st.integers(1, 40))
def test_the_interval_of_a_difference_is_newcombes(a: int, n: int, b: int, m: int) -> None:
    a, b = min(a, n), min(b, m)
    part, rest = answers(0, [i < a for i in range(n)]), answers(100, [i < b for i in range(m)])
    for compared in (1, 5):
        found = below_rest(part, rest, compared)
        reference = confint_proportions_2indep(a, n, b, m, method="newcomb", alpha=0.05 / compared)
        assert found.value == pytest.approx(a / n - b / m, abs=1e-12)
        assert found.ci95 == pytest.approx(reference, abs=1e-9)


def test_a_difference_turns_round() -> None:
    part, rest = answers(0, [True, False, False]), answers(10, [True, True, False, True])
    forth, back = below_rest(part, rest, 2), below_rest(rest, part, 2)
    assert forth.value == -back.value
    assert forth.ci95 is not None
    assert back.ci95 is not None
    assert forth.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]))


def test_items_of_one_subject_are_one_cluster() -> None:
    # Ten patients of ten items, each wholly right or wholly wrong.
    items = [
        item(sample(100 * patient + n, subject=f"p{patient}"), {REAL: "o0" if patient % 2 else "o1"})
        for patient in range(10)
        for n in range(10)
    ]
    result, alone = probe.measure(items), probe.measure([i for i in items if i.sample.id.endswith("00")])
    assert result.measures["clusters"].value == 10
    assert result.measures["clustered_se"].value > 3 * (0.25 / 100) ** 0.5
    wide, ten = result.measures["accuracy"].ci95, alone.measures["accuracy"].ci95
    assert wide is not None
    assert ten is not None
    # A hundred items of ten patients say no more than ten items of ten patients say, and a little less, as how far they
    # go together is known from ten patients alone.
    assert ten[1] - ten[0] < wide[1] - wide[0] < 1.15 * (ten[1] - ten[0])
    assert "name no subject" not in result.sentence


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "o0", "o1"]),
            st.sampled_from(["MRI", "CT", "X-ray"]),
            st.sampled_from(["", "one", "two"]),
            st.integers(2, 10),
            st.sampled_from(["", "s1", "s2"]),
        ),
        min_size=1,
        max_size=20,
    ),
    st.randoms(use_true_random=False),
)
def test_ranges_and_the_order_of_the_items(
    rows: list[tuple[str | None, str, str, int, str]], random: python_random.Random
) -> None:
    items = [
        item(sample(n, k=k, modality=modality, question_type=kind, subject=subject), {REAL: option})
        for n, (option, modality, kind, k, subject) in enumerate(rows)
    ]
    result = probe.measure(items)
    for measure in result.measures.values():
        if measure.unit == "share":
            assert measure.ci95 is not None
            assert 0 <= measure.ci95[0] <= measure.value + 1e-12
            assert measure.value - 1e-12 <= measure.ci95[1] <= 1
    assert sum(m.n for name, m in result.measures.items() if name.startswith("options")) == len(items)
    mixed = list(items)
    random.shuffle(mixed)
    assert probe.measure(mixed).record() == result.record()
