"""The options probe against counts worked out by hand, and what must not change them."""

from __future__ import annotations

import math
import random as python_random

import numpy as np
import pytest
from audited import asked, item, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from medvlm_r1.audit.probes.letter_bias import letter_bias, recalls, shifted
from medvlm_r1.audit.probes.options import OptionsProbe
from medvlm_r1.audit.variant import REAL, AuditedItem
from medvlm_r1.data.sample import LETTERS, Sample

probe = OptionsProbe()


def answered(of: Sample, options: list[str | None]) -> AuditedItem:
    """An item answered with these option texts, under no shift, one, two, ..."""
    variants = {variant.name: variant for variant in probe.first(asked(of))}
    return item(of, dict(zip([REAL, *variants], options, strict=True)), variants)


def always(letter: str, number: int, k: int = 4, right: int = 0) -> AuditedItem:
    """An item on which the same letter is chosen in every order."""
    of = sample(number, k, right)
    place = LETTERS.index(letter)
    return answered(of, [shifted(of.options, shift)[place] for shift in range(k)])


@pytest.mark.parametrize("k", range(2, 11))
def test_all_cyclic_shifts(k: int) -> None:
    found = probe.first(asked(sample(k=k)))
    assert [variant.name for variant in found] == [f"shift-{shift}" for shift in range(1, k)]
    # Every option stands at every letter once.
    orders = [sample(k=k).options, *(variant.sample.options for variant in found)]
    assert all(len({order[place] for order in orders}) == k for place in range(k))
    assert all(variant.sample.answer == "o0" and not variant.temperature for variant in found)


def test_measures_by_hand() -> None:
    items = [
        answered(sample(0, 3), ["o0", "o0", "o0"]),
        answered(sample(1, 3), ["o0", "o1", "o0"]),
        answered(sample(2, 3), ["o1", "o1", "o1"]),
        # What could not be read is neither the same nor another, and not right.
        answered(sample(3, 2), ["o0", None]),
        answered(sample(4, 2), [None, "o0"]),
        # Not asked in every order.
        item(sample(5, 3), {REAL: "o0"}),
    ]
    result = probe.measure(items)
    value = {name: measure.value for name, measure in result.measures.items()}
    assert value["accuracy"] == 3 / 5
    assert value["circular_accuracy"] == 1 / 5
    assert (value["flip_rate"], result.measures["flip_rate"].n) == (1 / 6, 6)
    assert (value["any_flip"], result.measures["any_flip"].n) == (1 / 3, 3)
    assert value["unparsed"] == 2 / 13
    assert result.items["the order changes the answer"] == ["q0001"]
    assert result.items["correct as it is, but not in every order"] == ["q0001", "q0003"]
    assert result.items["an answer was not parsed"] == ["q0003", "q0004"]
    assert result.detail["letters_chosen"]["2"] == {"A": 1, "B": 1, "not read": 2}
    assert "1 items without an answer for every order" in result.sentence
    # Right at A, C, B under shifts 0, 1, 2: letters A, B, C are right in 2, 2 and 1 of the three with three options...
    assert result.detail["recall_by_letter"]["3"] == pytest.approx({"A": 2 / 3, "B": 2 / 3, "C": 1 / 3})
    # ... and of the two with two, A in the fourth (no shift), B in the fifth (one shift).
    assert result.detail["recall_by_letter"]["2"] == pytest.approx({"A": 1 / 2, "B": 1 / 2})
    spread = np.std([2 / 3, 2 / 3, 1 / 3])
    assert value["letter_bias"] == pytest.approx((3 * spread + 2 * 0) / 5)


def test_always_b_is_a_full_bias() -> None:
    result = probe.measure([always("B", number, 4, number % 4) for number in range(60)])
    value = {name: measure.value for name, measure in result.measures.items()}
    assert result.verdict == "fail"
    assert value["flip_rate"] == 1
    assert value["circular_accuracy"] == 0
    assert result.detail["recall_by_letter"]["4"] == {"A": 0, "B": 1, "C": 0, "D": 0}
    assert value["letter_bias"] == pytest.approx(math.sqrt(1 / 4 * 3 / 4))
    assert value["letter_bias_p"] < 0.01


def test_the_same_text_in_every_order_passes() -> None:
    items = [answered(sample(n, 4), ["o0" if n % 3 else "o2"] * 4) for n in range(60)]
    result = probe.measure(items)
    assert result.verdict == "pass"
    assert result.measures["letter_bias"].value == result.measures["letter_bias_by_luck"].value == 0
    assert result.measures["letter_bias_p"].value == 1
    reference = binomtest(40, 60).proportion_ci(method="wilson")
    assert result.measures["circular_accuracy"].ci95 == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_guesses_change_with_the_order_and_prefer_no_letter() -> None:
    rng = python_random.Random(4)
    items = [answered(sample(n, 4), [rng.choice(["o0", "o1", "o2", "o3"]) for _ in range(4)]) for n in range(120)]
    result = probe.measure(items)
    assert result.verdict == "fail"
    assert result.measures["flip_rate"].value == pytest.approx(3 / 4, abs=0.06)
    assert result.measures["letter_bias"].value > 0
    assert result.measures["letter_bias_p"].value > 0.01


def test_luck_is_what_it_is_by_permutation() -> None:
    # One outcome of four is right in each of 400 items, at a letter by chance.
    rng = np.random.default_rng(5)
    items = []
    for number in range(400):
        lucky = int(rng.integers(4))
        items.append(answered(sample(number, 4), ["o0" if shift == lucky else "o1" for shift in range(4)]))
    found = letter_bias(items)
    table, _ = recalls(items)[4]
    assert table.sum(axis=1).tolist() == [1.0] * 400
    # The mean over letters is fixed at 1/4; the variance over letters has expectation 1/4 * 3/4 / 400.
    assert found["letter_bias_by_luck"].value == pytest.approx(math.sqrt(3 / 16 / 400), rel=0.1)


def test_items_of_one_subject_do_not_make_a_bias_sure() -> None:
    # A letter by chance for each of 10 subjects; 20 like items each add nothing to what is known.
    def items(subjects: bool) -> list[AuditedItem]:
        rng = np.random.default_rng(1)
        made = []
        for subject in range(10):
            lucky = int(rng.integers(4))
            for number in range(20):
                of = sample(20 * subject + number, 4, subject=f"p{subject}" if subjects else "")
                made.append(answered(of, ["o0" if shift == lucky else "o1" for shift in range(4)]))
        return made

    known, taken_for_many = letter_bias(items(True)), letter_bias(items(False))
    assert known["letter_bias"].value == taken_for_many["letter_bias"].value
    assert known["letter_bias_p"].value > 0.05
    assert taken_for_many["letter_bias_p"].value < 0.01


def test_questions_with_more_options_weigh_on_all_letters_alike() -> None:
    # Right throughout with two options, wrong throughout with four: no letter is preferred.
    items = [answered(sample(n, 2), ["o0"] * 2) for n in range(20)]
    items += [answered(sample(20 + n, 4), ["o1"] * 4) for n in range(20)]
    assert letter_bias(items)["letter_bias"].value == 0


def test_unread_answers_are_no_verdict() -> None:
    result = probe.measure([answered(sample(n, 2), ["o0", None]) for n in range(40)])
    assert result.verdict == "warn"
    assert "were not parsed" in result.sentence


def test_some_changes_and_a_few_unread_answers_warn() -> None:
    def options(n: int) -> list[str | None]:
        return ["o0", None if n % 20 == 0 else "o0", "o0", "o1" if n % 7 == 0 else "o0"]

    result = probe.measure([answered(sample(n, 4), options(n)) for n in range(80)])
    assert result.verdict == "warn"
    assert result.sentence.startswith("The order matters somewhat")
    assert "4 of 320 answers were not parsed" in result.sentence


def test_few_items_are_no_verdict() -> None:
    found = probe.measure([always("B", 1)])
    assert found.verdict == "not run"
    assert "1 items with an answer for every order; at least 30 are needed" in found.sentence
    assert found.measures["letter_bias"].ci95 is None


@st.composite
def batches(draw: st.DrawFn) -> list[AuditedItem]:
    items = []
    for number in range(draw(st.integers(1, 8))):
        k = draw(st.integers(2, 10))
        of = sample(number, k, draw(st.integers(0, k - 1)), subject=draw(st.sampled_from(["", "s1", "s2"])))
        options = draw(st.lists(st.sampled_from([None, *of.options]), min_size=k, max_size=k))
        items.append(answered(of, options))
    return items


@given(batches())
@settings(max_examples=25)
def test_measures_are_in_range(items: list[AuditedItem]) -> None:
    measures = probe.measure(items).measures
    for measure in measures.values():
        assert 0 <= measure.value <= 1
        if measure.ci95:
            assert 0 <= measure.ci95[0] <= measure.ci95[1] <= 1
    assert measures["circular_accuracy"].value <= measures["accuracy"].value
    assert measures["letter_bias"].value <= 0.5


@given(batches(), st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_the_order_of_the_items_does_not_matter(items: list[AuditedItem], random: python_random.Random) -> None:
    mixed = list(items)
    random.shuffle(mixed)
    assert probe.measure(mixed).record() == probe.measure(items).record()


@given(st.integers(2, 6), st.integers(0, 5), st.lists(st.integers(0, 5), min_size=6, max_size=6))
@settings(max_examples=25)
def test_which_order_comes_first_does_not_matter_to_circular_accuracy(k: int, turn: int, places: list[int]) -> None:
    of = sample(0, k)
    options: list[str | None] = [f"o{place % k}" for place in places[:k]]
    turned = sample(0, k, options=shifted(of.options, turn % k))
    again = options[turn % k :] + options[: turn % k]
    first, second = probe.measure([answered(of, options)]), probe.measure([answered(turned, again)])
    for name in ("circular_accuracy", "letter_bias"):
        assert first.measures[name].value == pytest.approx(second.measures[name].value)
