"""The option prior against counts done by hand."""

from dataclasses import dataclass

import pytest

from medvlm_r1.data.option_prior import option_prior


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


def test_an_item_alone_says_nothing_about_itself():
    item = Item(("x", "y", "z"), "y")
    assert option_prior([item], [item], leave_one_out=True) == [1 / 3]


def test_no_items():
    assert option_prior(FIT, []) == []
