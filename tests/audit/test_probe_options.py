"""The options probe against counts worked out by hand, and what must not change them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from audited import check_verdict, item, numbers, probe_input, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlm_r1.audit.probes.options import OptionsProbe, letter_bias, recalls, shifted
from medvlm_r1.audit.variant import REAL, AuditedItem
from medvlm_r1.data.sample import LETTERS, Sample

probe = OptionsProbe()


def answered(of: Sample, options: list[str | None]) -> AuditedItem:
    """An item answered with these option texts, under no shift, one, two, ..."""
    variants = {variant.name: variant for variant in probe.first(probe_input(of))}
    return item(of, dict(zip([REAL, *variants], options, strict=True)), variants)


def always(letter: str, number: int, k: int = 4, right: int = 0) -> AuditedItem:
    """An item on which the same letter is chosen in every order."""
    of = sample(number, k, right)
    return answered(of, [shifted(of.options, shift)[LETTERS.index(letter)] for shift in range(k)])


@pytest.mark.parametrize("k", range(2, 11))
def test_all_cyclic_shifts(k: int) -> None:
    variants = probe.first(probe_input(sample(k=k)))
    assert [variant.name for variant in variants] == [f"shift-{shift}" for shift in range(1, k)]
    # Every option has every letter once.
    orders = [sample(k=k).options, *(variant.sample.options for variant in variants)]
    assert all(len({order[index] for order in orders}) == k for index in range(k))
    assert all(variant.sample.answer == "o0" and not variant.temperature for variant in variants)


def test_measures_by_hand() -> None:
    items = [
        answered(sample(0, 3), ["o0", "o0", "o0"]),
        answered(sample(1, 3), ["o0", "o1", "o0"]),
        answered(sample(2, 3), ["o1", "o1", "o1"]),
        # An unparsed answer is neither the same nor another, and not correct.
        answered(sample(3, 2), ["o0", None]),
        answered(sample(4, 2), [None, "o0"]),
        # No answer for every order.
        item(sample(5, 3), {REAL: "o0"}),
    ]
    result = check_verdict(probe, items)
    # Correct at A, C, B under shifts 0, 1, 2: letters A, B, C in 2, 2 and 1 of the three with three options, and of the
    # two with two, A in the fourth (no shift), B in the fifth (one shift).
    assert result.detail["recall_by_letter"]["3"] == pytest.approx({"A": 2 / 3, "B": 2 / 3, "C": 1 / 3})
    assert result.detail["recall_by_letter"]["2"] == pytest.approx({"A": 1 / 2, "B": 1 / 2})
    expected = {
        "accuracy": (3 / 5, 5),
        "circular_accuracy": (1 / 5, 5),
        "flip_rate": (1 / 6, 6),
        "any_flip": (1 / 3, 3),
        "unparsed": (2 / 13, 13),
        "letter_bias": ((3 * np.std([2 / 3, 2 / 3, 1 / 3]) + 2 * 0) / 5, 5),
    }
    assert list(expected.values()) == numbers(result, *expected)
    assert result.items == {
        "the order changes the answer": ["q0001"],
        "correct as it is, but not in every order": ["q0001", "q0003"],
        "an answer was not parsed": ["q0003", "q0004"],
    }
    assert result.detail["letters_chosen"]["2"] == {"A": 1, "B": 1, "not read": 2}
    assert "1 items without an answer for every order" in result.sentence


def test_always_the_same_letter_fails() -> None:
    result = probe.measure([always("B", number, 4, number % 4) for number in range(60)])
    assert result.verdict == "fail"
    names = ("flip_rate", "circular_accuracy", "letter_bias")
    assert [result.measures[name].value for name in names] == pytest.approx([1, 0, math.sqrt(1 / 4 * 3 / 4)])
    assert result.detail["recall_by_letter"]["4"] == {"A": 0, "B": 1, "C": 0, "D": 0}
    assert result.measures["letter_bias_p"].value < 0.01


def test_the_same_text_in_every_order_passes() -> None:
    result = probe.measure([answered(sample(n, 4), ["o0" if n % 3 else "o2"] * 4) for n in range(60)])
    assert result.verdict == "pass"
    names = ("letter_bias", "letter_bias_by_luck", "letter_bias_p")
    assert [result.measures[name].value for name in names] == [0, 0, 1]


def test_guesses_change_with_the_order_and_prefer_no_letter() -> None:
    rng = random.Random(4)
    items = [answered(sample(n, 4), [rng.choice(["o0", "o1", "o2", "o3"]) for _ in range(4)]) for n in range(120)]
    result = check_verdict(probe, items, "fail", "The order matters:")
    assert result.measures["flip_rate"].value == pytest.approx(3 / 4, abs=0.06)
    assert result.measures["letter_bias"].value > 0
    assert result.measures["letter_bias_p"].value > 0.01


def one_letter_correct(subjects: int, per_subject: int, seed: int, *, clustered: bool) -> list[AuditedItem]:
    """Items of four options correct in one order: at a letter by chance for each subject."""
    rng = np.random.default_rng(seed)
    items = []
    for subject in range(subjects):
        lucky = int(rng.integers(4))
        for number in range(per_subject):
            of = sample(per_subject * subject + number, 4, subject=f"p{subject}" if clustered else "")
            items.append(answered(of, ["o0" if shift == lucky else "o1" for shift in range(4)]))
    return items


def test_the_bias_by_luck_is_that_of_permutations() -> None:
    tables = recalls(one_letter_correct(400, 1, 5, clustered=False))
    assert tables[4][0].sum(axis=1).tolist() == [1.0] * 400
    # The mean over letters is fixed at 1/4; the variance over letters has expectation 1/4 * 3/4 / 400.
    assert letter_bias(tables)["letter_bias_by_luck"].value == pytest.approx(math.sqrt(3 / 16 / 400), rel=0.1)
    # 20 like items each add nothing to what is known of 10 subjects.
    clustered, independent = (
        letter_bias(recalls(one_letter_correct(10, 20, 1, clustered=known))) for known in (True, False)
    )
    assert clustered["letter_bias"].value == independent["letter_bias"].value
    assert clustered["letter_bias_p"].value > 0.05
    assert independent["letter_bias_p"].value < 0.01
    # Correct throughout with two options, wrong throughout with four: no letter is preferred.
    items = [answered(sample(n, 2), ["o0"] * 2) for n in range(20)]
    items += [answered(sample(20 + n, 4), ["o1"] * 4) for n in range(20)]
    assert letter_bias(recalls(items))["letter_bias"].value == 0


def test_unparsed_and_few_answers_are_no_verdict() -> None:
    result = probe.measure([answered(sample(n, 2), ["o0", None]) for n in range(40)])
    assert result.verdict == "warn"
    assert "were not parsed" in result.sentence
    result = probe.measure([always("B", 1)])
    assert result.verdict == "not run"
    assert "1 items with an answer for every order; at least 30 are needed" in result.sentence
    assert result.measures["letter_bias"].ci95 is None

    def options(n: int) -> list[str | None]:
        return ["o0", None if n % 20 == 0 else "o0", "o0", "o1" if n % 7 == 0 else "o0"]

    result = probe.measure([answered(sample(n, 4), options(n)) for n in range(80)])
    assert (result.verdict, result.sentence.partition(":")[0]) == ("warn", "The order matters somewhat")
    assert "4 of 320 answers were not parsed" in result.sentence


@given(st.integers(2, 6), st.integers(0, 5), st.lists(st.integers(0, 5), min_size=6, max_size=6))
@settings(max_examples=25)
def test_which_order_comes_first_does_not_matter(k: int, shift: int, chosen: list[int]) -> None:
    of, shift = sample(0, k), shift % k
    options: list[str | None] = [f"o{index % k}" for index in chosen[:k]]
    first = probe.measure([answered(of, options)])
    second = probe.measure(
        [answered(sample(0, k, options=shifted(of.options, shift)), options[shift:] + options[:shift])]
    )
    for name in ("circular_accuracy", "letter_bias"):
        assert first.measures[name].value == pytest.approx(second.measures[name].value)
