"""Blind baselines against credits worked out by hand, and what must not change them."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.audit.dataset.blind import BASELINES, blind_credits, chance, letters_right, majority_letter


@dataclass(frozen=True)
class Item:
    options: tuple[str, ...]
    answer: str


def item(options, right):
    return Item(tuple(options.split()), options.split()[right])


def test_chance():
    assert chance([item("a b", 0), item("a b c d", 3), item("a", 0)]) == [1 / 2, 1 / 4, 1.0]


def test_majority_letter():
    # B is right three times, A twice, C once: B everywhere.
    items = [item("a b", 1), item("c d", 1), item("e f", 1), item("g h i", 0), item("j k", 0), item("l m n", 2)]
    assert majority_letter(items) == [1, 1, 1, 0, 0, 0]
    assert letters_right(items) == {"A": 2, "B": 3, "C": 1}


def test_majority_letters_tie():
    items = [item("a b", 0), item("c d", 1), item("e f g", 2), item("h i g", 2)]
    # C is right twice, A and B once each: where C is not offered, A and B tie.
    assert majority_letter(items) == [1 / 2, 1 / 2, 1, 1]


def test_letters_that_are_never_right_are_counted_too():
    assert letters_right([item("a b c", 1)]) == {"A": 0, "B": 1, "C": 0}
    assert letters_right([]) == {}


def test_all_baselines_together():
    items = [item("x yy", 1), item("x yy", 1), item("x yy", 0)]
    fit = [item("x yy", 0)]
    assert blind_credits(items, fit) == {
        "chance": [1 / 2] * 3,
        "majority": [1, 1, 0],
        "longest": [1, 1, 0],
        "option_prior_fit": [0, 0, 1],
        # Without itself the first sees x right once in two times, yy likewise: a tie. The third sees yy alone right.
        "option_prior_loo": [1 / 2, 1 / 2, 0],
    }
    assert list(blind_credits(items, None)) == [name for name in BASELINES if name != "option_prior_fit"]


TEXTS = st.sampled_from(["cyst", "mass", "Mass.", "no finding", "left", "T2", "+", "calcification"])


@st.composite
def choices(draw):
    options = draw(st.lists(TEXTS, min_size=1, max_size=6, unique=True))
    return Item(tuple(options), draw(st.sampled_from(options)))


@given(st.lists(choices(), min_size=1, max_size=12), st.lists(choices(), max_size=6))
def test_every_credit_is_a_share_of_one(items, fit):
    for values in blind_credits(items, fit).values():
        assert len(values) == len(items)
        assert all(0 <= value <= 1 for value in values)


@given(st.lists(choices(), min_size=1, max_size=12), st.lists(choices(), max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_items_does_not_matter(items, fit, random):
    places = list(range(len(items)))
    random.shuffle(places)
    before = blind_credits(items, fit)
    after = blind_credits([items[place] for place in places], fit)
    assert after == {name: [values[place] for place in places] for name, values in before.items()}


@pytest.mark.parametrize("name", ["chance", "longest", "option_prior_fit", "option_prior_loo"])
@given(items=st.lists(choices(), min_size=1, max_size=12), random=st.randoms(use_true_random=False))
def test_other_letters_for_the_options_change_the_majority_letter_alone(name, items, random):
    relabelled = [Item(tuple(random.sample(i.options, len(i.options))), i.answer) for i in items]
    assert blind_credits(relabelled, items)[name] == blind_credits(items, items)[name]


def test_an_exactly_balanced_set_scores_chance_left_out():
    items = [Item(tuple("abcd"), answer) for answer in "abcd" * 20]
    credits = blind_credits(items, None)["option_prior_loo"]
    assert sum(credits) / len(credits) == pytest.approx(0.25)
