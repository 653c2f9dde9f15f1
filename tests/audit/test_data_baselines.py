"""Blind baselines, the order of the options and giveaway options of a data set: by hand, and what must not change."""

import math
from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.audit.dataset.baselines import (
    BASELINES,
    blind_credits,
    evenness,
    giveaway_options,
    holm,
    letters_right,
    majority_letter,
    order_tests,
)


@dataclass(frozen=True)
class Item:
    options: tuple[str, ...]
    answer: str


def item(options, right):
    return Item(tuple(options.split()), options.split()[right])


def positions(*rights, options=4):
    """Items with the correct option at these positions."""
    return [item(" ".join("abcdefgh"[:options]), right) for right in rights]


def test_majority_letter():
    # B is correct three times, A twice, C once: B everywhere.
    items = [item("a b", 1), item("c d", 1), item("e f", 1), item("g h i", 0), item("j k", 0), item("l m n", 2)]
    assert majority_letter(items) == [1, 1, 1, 0, 0, 0]
    assert letters_right(items) == {"A": 2, "B": 3, "C": 1}
    # C is correct twice, A and B once each: where C is not offered, A and B tie.
    assert majority_letter([item("a b", 0), item("c d", 1), item("e f g", 2), item("h i g", 2)]) == [0.5, 0.5, 1, 1]
    assert letters_right([item("a b c", 1)]) == {"A": 0, "B": 1, "C": 0}
    assert letters_right([]) == {}


def test_all_baselines():
    items, fit = [item("x yy", 1), item("x yy", 1), item("x yy", 0)], [item("x yy", 0)]
    assert blind_credits(items, fit) == {
        "chance": [1 / 2] * 3,
        "majority": [1, 1, 0],
        "longest": [1, 1, 0],
        "option_prior_fit": [0, 0, 1],
        # Without itself the first sees x correct once in two times, yy likewise: a tie. The third sees yy alone.
        "option_prior_loo": [1 / 2, 1 / 2, 0],
    }
    assert list(blind_credits(items, None)) == [name for name in BASELINES if name != "option_prior_fit"]
    assert blind_credits([item("a b c d", 3), item("a", 0)], None)["chance"] == [1 / 4, 1]
    # An exactly balanced set scores chance.
    credits = blind_credits([Item(tuple("abcd"), answer) for answer in "abcd" * 20], None)["option_prior_loo"]
    assert sum(credits) / len(credits) == pytest.approx(0.25)


TEXTS = st.sampled_from(["cyst", "mass", "Mass.", "no finding", "left", "T2", "+", "calcification"])
choices = st.lists(TEXTS, min_size=1, max_size=6, unique=True).flatmap(
    lambda options: st.builds(Item, st.just(tuple(options)), st.sampled_from(options))
)
sets = st.lists(choices, min_size=1, max_size=12)


@given(sets, st.lists(choices, max_size=6), st.randoms(use_true_random=False))
def test_credits_are_shares_and_do_not_depend_on_the_order(items, fit, random):
    order = random.sample(range(len(items)), len(items))
    before, after = blind_credits(items, fit), blind_credits([items[index] for index in order], fit)
    assert after == {name: [values[index] for index in order] for name, values in before.items()}
    assert all(0 <= value <= 1 for values in before.values() for value in values)
    # Other letters for the options change the majority letter alone.
    relabelled = [Item(tuple(random.sample(i.options, len(i.options))), i.answer) for i in items]
    assert {**before, "majority": None} == {**blind_credits(relabelled, fit), "majority": None}


def exact(counts):
    """P of a multinomial draw at least as uneven, all draws enumerated."""
    n, k = sum(counts), len(counts)
    square = sum(count**2 for count in counts)
    draws = (draw for draw in product(range(n + 1), repeat=k) if sum(draw) == n)
    uneven = [draw for draw in draws if sum(c**2 for c in draw) >= square]
    return sum(math.factorial(n) // math.prod(map(math.factorial, draw)) for draw in uneven) / k**n


@pytest.mark.parametrize("counts", [[3, 0], [5, 1], [2, 2, 2], [4, 1, 1, 0], [0, 0, 0, 6], [3, 2, 2, 1]])
def test_few_items_against_enumeration(counts):
    # 9,999 draws: four standard errors of the estimate.
    p = exact(counts)
    assert evenness(counts) == evenness(counts) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 9999) + 1e-4)


def test_holm():
    # 3 x 0.01; 2 x 0.03; then never below the one before.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert (holm([]), holm([0.04]), holm([0.5, 0.9])) == ([], [0.04], [1.0, 1.0])


def test_the_order_of_options():
    [[even], [uneven]] = order_tests([positions(*[0, 1, 2, 3] * 10), positions(*[2] * 20)])
    assert (even.uneven, uneven.uneven) == (False, True)
    assert even.sentence == (
        "The position of the correct option is not significantly uneven (A 10, B 10, C 10, D 10; p = 1)."
    )
    assert uneven.sentence == (
        "The position of the correct option is uneven (A 0, B 0, C 20, D 0; p = 0.0002): the order is a giveaway."
    )
    assert (uneven.n, uneven.p, uneven.p_holm) == (20, 1e-4, 2e-4)
    # Numbers of options are tested apart; a single option has no order.
    four, three, two, single = (
        positions(*r, options=k) for k, r in ((4, [0, 1]), (3, [0, 1, 2]), (2, [1, 1]), (1, [0]))
    )
    [tests, *nothing] = order_tests([[*four, *three, *two, *single], [], single])
    assert [(test.options, test.counts) for test in tests] == [
        (2, {"A": 0, "B": 2}),
        (3, {"A": 1, "B": 1, "C": 1}),
        (4, {"A": 1, "B": 1, "C": 0, "D": 0}),
    ]
    assert nothing == [[], []]


def test_giveaway_options():
    options = giveaway_options(
        [item("cyst mass", 0), item("Cyst. node", 0), item("mass cyst", 1), item("mass node", 0)]
    )
    # cyst: 3 of 3 against 1.5, and the spread of three coins is sqrt(3)/2; node: 0 of 2; mass: 1 of 3.
    assert [(o.text, o.right, o.offered, o.expected) for o in options] == [
        ("cyst", 3, 3, 1.5),
        ("node", 0, 2, 1.0),
        ("mass", 1, 3, 1.5),
    ]
    assert [o.surprise for o in options] == pytest.approx([3**0.5, -(2**0.5), -1 / 3**0.5])
    assert options[0].record == "correct 3 of 3 times it was offered; guessing would give 1.5"
    assert options[1].record == "never correct: 0 of 2 times it was offered; guessing would give 1.0"
