"""The order of the options: p values against exact ones, Holm's correction by hand, and the words."""

import math
from dataclasses import dataclass
from itertools import product

import pytest
from scipy.stats import chisquare

from medvlm_r1.audit.dataset.order import evenness, holm, order_tests


@dataclass(frozen=True)
class Item:
    options: tuple[str, ...]
    answer: str


def items(*rights, options=4):
    texts = tuple("abcdefgh"[:options])
    return [Item(texts, texts[right]) for right in rights]


def exact(counts):
    """P of a multinomial draw at least as uneven, all draws enumerated."""
    n, k = sum(counts), len(counts)
    seen = sum(count**2 for count in counts)
    draws = (draw for draw in product(range(n + 1), repeat=k) if sum(draw) == n)
    ways = [
        math.factorial(n) // math.prod(map(math.factorial, draw)) for draw in draws if sum(c**2 for c in draw) >= seen
    ]
    return sum(ways) / k**n


@pytest.mark.parametrize("counts", [[3, 0], [5, 1], [2, 2, 2], [4, 1, 1, 0], [0, 0, 0, 6], [3, 2, 2, 1]])
def test_few_items_against_enumeration(counts):
    # 9,999 draws: four standard errors of the estimate.
    p = exact(counts)
    assert evenness(counts) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 9999) + 1e-4)


@pytest.mark.parametrize("counts", [[150, 150], [140, 165], [70, 85, 75, 70], [60, 95, 75, 70]])
def test_many_items_against_the_chi_square_approximation(counts):
    assert evenness(counts) == pytest.approx(chisquare(counts).pvalue, abs=0.03)


def test_the_same_counts_give_the_same_p():
    assert evenness([5, 3, 9]) == evenness([5, 3, 9])


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x 0.01; 2 x 0.03; then never below the one before
        ([0.5, 0.9], [1.0, 1.0]),
    ],
)
def test_holm(p, corrected):
    assert holm(p) == pytest.approx(corrected)


def test_a_place_that_is_always_right_is_found():
    [[even], [uneven]] = order_tests([items(*[0, 1, 2, 3] * 10), items(*[2] * 20)])
    assert (even.uneven, uneven.uneven) == (False, True)
    assert even.sentence == (
        "The position of the correct option is not significantly uneven (A 10, B 10, C 10, D 10; p = 1)."
    )
    assert uneven.sentence == (
        "The position of the correct option is uneven (A 0, B 0, C 20, D 0; p = 0.0002): the order is a giveaway."
    )
    assert (uneven.n, uneven.p, uneven.p_holm) == (20, 1e-4, 2e-4)


def test_numbers_of_options_are_tested_apart():
    [tests] = order_tests([[*items(0, 1), *items(0, 1, 2, options=3), *items(1, 1, options=2), *items(0, options=1)]])
    assert [(test.options, test.counts) for test in tests] == [
        (2, {"A": 0, "B": 2}),
        (3, {"A": 1, "B": 1, "C": 1}),
        (4, {"A": 1, "B": 1, "C": 0, "D": 0}),
    ]


def test_nothing_to_test():
    assert order_tests([[], items(0, options=1)]) == [[], []]
