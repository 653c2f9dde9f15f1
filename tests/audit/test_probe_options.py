"""The options probe against counts worked out by hand, and what must not change them."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audited import check_verdict, item, numbers, probe_input, sample
from medvlm_r1.audit.probes.options import OptionsProbe, letter_bias, recalls, shifted
from medvlm_r1.audit.variant import REAL
from medvlm_r1.data.sample import LETTERS

probe = OptionsProbe()


def answered(of, options):
    """An item answered with these option texts, under no shift, one, two, ..."""
    variants = {variant.name: variant for variant in probe.first(probe_input(of))}
    return item(of, dict(zip([REAL, *variants], options, strict=True)), variants)


def always(letter, number, k=4, right=0):
    """An item on which the same letter is chosen in every order."""
    of = sample(number, k, right)
    return answered(of, [shifted(of.options, shift)[LETTERS.index(letter)] for shift in range(k)])


@pytest.mark.parametrize("k", [2, 3, 10])
def test_all_cyclic_shifts(k):
    variants = probe.first(probe_input(sample(k=k)))
    assert [variant.name for variant in variants] == [f"shift-{shift}" for shift in range(1, k)]
    # Every option has every letter once.
    orders = [sample(k=k).options, *(variant.sample.options for variant in variants)]
    assert all(len({order[index] for order in orders}) == k for index in range(k))
    assert all(variant.sample.answer == "o0" and not variant.temperature for variant in variants)


def test_measures_by_hand():
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


def one_letter_correct(subjects, per_subject, seed, *, clustered):
    """Items of four options correct in one order: at a letter by chance for each subject."""
    rng = np.random.default_rng(seed)
    items = []
    for subject in range(subjects):
        lucky = int(rng.integers(4))
        for number in range(per_subject):
            of = sample(per_subject * subject + number, 4, subject=f"p{subject}" if clustered else "")
            items.append(answered(of, ["o0" if shift == lucky else "o1" for shift in range(4)]))
    return items


def test_the_bias_by_luck_is_that_of_permutations():
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
    assert letter_bias(recalls(items[:1]))["letter_bias"].ci95 is None


def guesses():
    rng = random.Random(4)
    return [answered(sample(n, 4), [rng.choice(["o0", "o1", "o2", "o3"]) for _ in range(4)]) for n in range(120)]


def nearly_the_same(n):
    return answered(sample(n, 4), ["o0", None if n % 20 == 0 else "o0", "o0", "o1" if n % 7 == 0 else "o0"])


@pytest.mark.parametrize(
    ("items", "verdict", "words", "measures"),
    [
        (
            lambda: [always("B", number, 4, number % 4) for number in range(60)],
            "fail",
            "Recall depends on the letter",
            {"flip_rate": 1, "circular_accuracy": 0, "letter_bias": math.sqrt(3 / 16), "letter_bias_p": 1 / 2000},
        ),
        (
            lambda: [answered(sample(n, 4), ["o0" if n % 3 else "o2"] * 4) for n in range(60)],
            "pass",
            "The order does not matter:",
            {"letter_bias": 0, "letter_bias_by_luck": 0, "letter_bias_p": 1},
        ),
        # Guesses change with the order and prefer no letter.
        (guesses, "fail", "The order matters:", {"flip_rate": 0.75, "letter_bias": 0.04, "letter_bias_p": 0.5}),
        (
            lambda: [answered(sample(n, 2), ["o0", None]) for n in range(40)],
            "warn",
            "50% of 80 answers were not parsed",
            {},
        ),
        (lambda: [always("B", 1)], "not run", "1 items with an answer for every order; at least 30 are needed", {}),
        (lambda: [nearly_the_same(n) for n in range(80)], "warn", "4 of 320 answers were not parsed", {}),
        (lambda: [nearly_the_same(n) for n in range(80)], "warn", "The order matters somewhat:", {}),
    ],
)
def test_verdicts(items, verdict, words, measures):
    result = check_verdict(probe, items(), verdict, words)
    tolerance = {"flip_rate": 0.06, "letter_bias": 0.035, "letter_bias_p": 0.49} if items is guesses else {}
    for name, value in measures.items():
        assert result.measures[name].value == pytest.approx(value, abs=tolerance.get(name)), name


@given(st.integers(2, 6), st.integers(0, 5), st.lists(st.integers(0, 5), min_size=6, max_size=6))
@settings(max_examples=25)
def test_which_order_comes_first_does_not_matter(k, shift, chosen):
    of, shift = sample(0, k), shift % k
    options = [f"o{index % k}" for index in chosen[:k]]
    first = probe.measure([answered(of, options)])
    second = probe.measure(
        [answered(sample(0, k, options=shifted(of.options, shift)), options[shift:] + options[:shift])]
    )
    for name in ("circular_accuracy", "letter_bias"):
        assert first.measures[name].value == pytest.approx(second.measures[name].value)
