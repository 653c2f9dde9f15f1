"""Blind baselines of a data set, tests of its option order, and giveaway options.

A baseline chooses an option for every question without the image, and receives a credit. The credit is 1 if it chooses
only the correct option, 1/m if it chooses m options that include the correct one, and otherwise 0. This is the expected
score if ties are broken at random.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medvlm_r1.data.option_prior import TIE, Choice, longest_option, option_key, option_prior
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.evaluation.statistics import wilson

CHANCE, MAJORITY, LONGEST = "chance", "majority", "longest"
PRIOR_FIT, PRIOR_LOO = "option_prior_fit", "option_prior_loo"
BASELINES = (CHANCE, MAJORITY, LONGEST, PRIOR_FIT, PRIOR_LOO)
"""Names of the baselines, as in the JSON output."""
SIGNIFICANT = 0.05
_DRAWS = 9_999


def blind_credits(items: Sequence[Choice], fit: Sequence[Choice] | None) -> dict[str, list[float]]:
    """Compute the credits of every baseline on each item.

    Chance receives the expected credit of a uniform guess: 1 / (number of options). If the leave-one-out option prior
    is clearly below chance, this is an artifact of a balanced data set (see `TIE`). In that case the prior is computed
    again, with ties between options that were correct nearly equally often.

    Args:
        items: Questions with options, of one modality.
        fit: Items on which the fitted option prior is estimated, none of them in `items`. If None, that baseline is
            skipped.

    Returns:
        For each baseline name, one credit per item.
    """
    chance = [1 / len(item.options) for item in items]
    credits = {CHANCE: chance, MAJORITY: majority_letter(items), LONGEST: longest_option(items)}
    if fit is not None:
        credits[PRIOR_FIT] = option_prior(fit, items)
    credits[PRIOR_LOO] = option_prior(items, items, leave_one_out=True)
    if wilson(min(sum(credits[PRIOR_LOO]), len(items)), len(items))[1] * len(items) < sum(chance):
        credits[PRIOR_LOO] = option_prior(items, items, leave_one_out=True, tie=TIE)
    return credits


def majority_letter(items: Sequence[Choice]) -> list[float]:
    """Compute the credits of a baseline that always chooses the letter that is correct most often.

    The letter is selected on the same items, so with few items the credits are slightly too high. Leave-one-out credits
    would be far too low on a balanced set: without the item itself, its letter is always the rarest.

    Args:
        items: Items to answer.

    Returns:
        One credit per item. Only the letters that the item offers are compared, and equally frequent letters tie.
    """
    right = letters_right(items)
    credit = []
    for item in items:
        counts = list(right.values())[: len(item.options)]
        own = counts[item.options.index(item.answer)]
        credit.append(1 / counts.count(own) if own == max(counts) else 0.0)
    return credit


def letters_right(items: Sequence[Choice]) -> dict[str, int]:
    """Count how often each letter is correct, from A to the last letter offered."""
    right = Counter(item.options.index(item.answer) for item in items)
    most = max((len(item.options) for item in items), default=0)
    return {LETTERS[index]: right[index] for index in range(most)}


@dataclass(frozen=True, slots=True)
class OrderTest:
    """Test of whether the correct option is equally often at each position.

    It covers the questions of one modality that have the same number of options.

    Attributes:
        options: Number of options, at least 2.
        counts: For each letter, how often it is correct.
        p: Probability of counts at least as uneven as these if all positions were equally likely.
        p_holm: `p` corrected for all tests of the audit (Holm 1979).
    """

    options: int
    counts: dict[str, int]
    p: float
    p_holm: float

    @property
    def n(self) -> int:
        """Number of questions."""
        return sum(self.counts.values())

    @property
    def uneven(self) -> bool:
        """Whether the positions differ significantly, at 5 % over all tests of the audit."""
        return self.p_holm < SIGNIFICANT

    @property
    def sentence(self) -> str:
        """The result of the test in words."""
        counts = ", ".join(f"{letter} {count}" for letter, count in self.counts.items())
        counts = f"({counts}; p = {self.p_holm:.2g})"
        if self.uneven:
            return f"The position of the correct option is uneven {counts}: the order is a giveaway."
        return f"The position of the correct option is not significantly uneven {counts}."


def order_tests(groups: Sequence[Sequence[Choice]]) -> list[list[OrderTest]]:
    """Run the order test on every group, separately for each number of options.

    Args:
        groups: Questions with options, one group per modality.

    Returns:
        For each group, its tests by increasing number of options. Questions with a single option are not tested.
    """
    tables = [
        [
            letters_right([item for item in items if len(item.options) == size])
            for size in sorted({len(item.options) for item in items} - {1})
        ]
        for items in groups
    ]
    p = [evenness(list(counts.values())) for group in tables for counts in group]
    corrected = iter(zip(p, holm(p), strict=True))
    return [[OrderTest(len(counts), counts, *next(corrected)) for counts in group] for group in tables]


def evenness(counts: Sequence[int]) -> float:
    """P value of a Monte Carlo multinomial test that all positions are equally likely.

    The statistic is Pearson's. Its distribution comes from 9,999 seeded draws, so that the test is also valid for few
    questions.

    Args:
        counts: Count of each position.

    Returns:
        (1 + number of draws at least as uneven) / 10,000.
    """
    k = len(counts)
    draws = np.random.default_rng(0).multinomial(sum(counts), [1 / k] * k, size=_DRAWS)
    # For equal expected counts, Pearson's statistic increases with the sum of squares, which has no rounding errors.
    squares = sum(count * count for count in counts)
    return (1 + int(np.count_nonzero((draws**2).sum(axis=1) >= squares))) / (_DRAWS + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction (Scandinavian Journal of Statistics 6:65, 1979).

    Args:
        p: One p value per test.

    Returns:
        Corrected p values in the same order, at most 1.
    """
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.take(p, order) * np.arange(len(p), 0, -1))
    return [float(value) for value in np.minimum(corrected, 1.0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveawayOption:
    """An option text, which may be correct far more or less often than guessing predicts.

    Attributes:
        text: Its first spelling. Texts that differ only in case, spaces or punctuation count as the same option.
        offered: Number of questions that offer it.
        right: Number of questions on which it is correct.
        expected: Expected value of `right` if every option of a question were equally likely.
        surprise: `right` minus `expected`, in standard deviations.
    """

    text: str
    offered: int
    right: int
    expected: float
    surprise: float

    @property
    def record(self) -> str:
        """A phrase with the number of times the option is correct and the number that guessing predicts."""
        times = f"{self.right} of {self.offered} times it was offered; guessing would give {self.expected:.1f}"
        return f"correct {times}" if self.right else f"never correct: {times}"


def giveaway_options(items: Sequence[Choice]) -> list[GiveawayOption]:
    """Return all option texts, sorted by decreasing absolute value of `surprise`."""
    texts: dict[str, str] = {}
    offered: dict[str, list[float]] = {}
    for item in items:
        for key, option in {option_key(option): option for option in reversed(item.options)}.items():
            texts.setdefault(key, option)
            offered.setdefault(key, []).append(1 / len(item.options))
    right = Counter(option_key(item.answer) for item in items)
    options = []
    for key, chances in offered.items():
        expected, spread = sum(chances), math.sqrt(sum(chance * (1 - chance) for chance in chances))
        surprise = (right[key] - expected) / spread if spread else 0.0
        options.append(
            GiveawayOption(
                text=texts[key], offered=len(chances), right=right[key], expected=expected, surprise=surprise
            )
        )
    return sorted(options, key=lambda option: (-abs(option.surprise), option.text))
