"""The option prior and the longest option against counts done by hand."""

from dataclasses import dataclass

import numpy as np
import pytest

from medvlm_r1.data.option_prior import TIE, longest_option, option_prior


@dataclass(frozen=True)
class Item:
    options: tuple[str, ...]
    answer: str


FIT = [Item(("x", "y"), "x"), Item(("x", "y"), "x"), Item(("y", "z"), "z"), Item(("w", "x"), "w")]
"""Rates of two options: w 1.5/2, x 2.5/4, y 0.5/4, z 1.5/2, never offered 0.5/1."""


@pytest.mark.parametrize(
    ("options", "answer", "credit"),
    [
        (("y", "x"), "x", 1.0),
        (("y", "x"), "y", 0.0),
        (("x", "z"), "x", 0.0),
        (("w", "z"), "z", 1 / 2),  # both always right
        (("y", "never offered"), "never offered", 1.0),  # what was never offered stands at chance
        (("x", "never offered"), "x", 1.0),
        (("X.", "never offered"), "X.", 1.0),  # case and punctuation do not matter
        (("+", "-"), "+", 1 / 2),
        (("w", "x", "y", "z"), "w", 1 / 2),
        (("a", "b", "c"), "c", 1 / 3),
    ],
)
def test_credit(options, answer, credit):
    assert option_prior(FIT, [Item(options, answer)]) == [credit]


def test_leave_one_out():
    # Without itself: the first sees x 1.5/3, y 1.5/3; the second x 2.5/3, y 0.5/3; the third as the first.
    items = [Item(("x", "y"), "x"), Item(("x", "y"), "y"), Item(("x", "y"), "x")]
    assert option_prior(items, items, leave_one_out=True) == [0.5, 0.0, 0.5]
    assert option_prior(items, items) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "rounds"), [(("x", "y"), 4), (("x", "y"), 150), (("a", "b", "c", "d"), 3), (("a", "b", "c", "d"), 75)]
)
def test_a_balanced_set_scores_chance(options, rounds):
    # Without its own answer each item finds that option right once less than the others; plain leave-one-out scores 0.
    items = [Item(options, answer) for answer in options * rounds]
    credits = option_prior(items, items, leave_one_out=True, tie=TIE)
    assert sum(credits) / len(credits) == pytest.approx(1 / len(options))


def test_leaving_out_is_right_on_average_where_answers_are_drawn_by_lot():
    rng = np.random.default_rng(5)
    shares = []
    for _ in range(150):
        items = [Item(("a", "b", "c", "d"), "abcd"[place]) for place in rng.integers(4, size=60)]
        shares.append(sum(option_prior(items, items, leave_one_out=True, tie=TIE)) / 60)
    assert abs(float(np.mean(shares)) - 0.25) < 0.015


THREE = ("cyst", "mass", "no")


@pytest.mark.parametrize(
    ("options", "answer", "credit"),
    [
        *((("cyst", "calcification", "mass"), "calcification", 1.0), (("alone",), "alone", 1.0)),
        *((THREE, "mass", 1 / 2), (THREE, "no", 0.0), ((" a   b ", "abcd"), "abcd", 1.0)),  # white space is not length
    ],
)
def test_credit_of_the_longest(options, answer, credit):
    assert longest_option([Item(options, answer)]) == [credit]
