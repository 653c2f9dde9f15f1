"""Blind baselines: each chooses an option for every question without the image, and earns a credit.

The credit is 1 for the correct option alone, 1/m for a tie of m options that includes it, otherwise 0. That is the
expected score of breaking ties at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medvlm_r1.data.option_prior import TIE, Choice, longest_option, option_prior
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.evaluation.statistics import wilson

CHANCE, MAJORITY, LONGEST = "chance", "majority", "longest"
PRIOR_FIT, PRIOR_LOO = "option_prior_fit", "option_prior_loo"
BASELINES = (CHANCE, MAJORITY, LONGEST, PRIOR_FIT, PRIOR_LOO)
"""Names of the baselines, as in the JSON."""


def blind_credits(items: Sequence[Choice], fit: Sequence[Choice] | None) -> dict[str, list[float]]:
    """Credits of every baseline on each item.

    Args:
        items: Questions with options, of one modality.
        fit: Items on which the fitted option prior is counted, none of them in `items`; None skips that baseline.

    Returns:
        Name of the baseline to one credit per item.
    """
    credits = {CHANCE: chance(items), MAJORITY: majority_letter(items), LONGEST: longest_option(items)}
    if fit is not None:
        credits[PRIOR_FIT] = option_prior(fit, items)
    credits[PRIOR_LOO] = prior_left_out(items)
    return credits


def prior_left_out(items: Sequence[Choice]) -> list[float]:
    """Credits of the leave-one-out option prior.

    If they are clearly below chance, that is an artifact of balance (see `TIE`), and nearly equal options tie.
    """
    plain = option_prior(items, items, leave_one_out=True)
    upper = wilson(min(sum(plain), len(plain)), len(plain))[1]
    artifact = upper * len(plain) < sum(chance(items))
    return option_prior(items, items, leave_one_out=True, tie=TIE) if artifact else plain


def chance(items: Sequence[Choice]) -> list[float]:
    """Expected credit of a uniform guess: 1 / (number of options)."""
    return [1 / len(item.options) for item in items]


def majority_letter(items: Sequence[Choice]) -> list[float]:
    """Credits of choosing on every item the letter that is correct most often.

    The letter is chosen on the same items, so on few items the credit is somewhat too high. Leave-one-out would be far
    too low on a balanced set, where without the item itself its letter is always the rarest.

    Args:
        items: Items to answer.

    Returns:
        Per item the credit of the most frequent correct letter among the offered ones; equally frequent letters tie.
    """
    right = Counter(item.options.index(item.answer) for item in items)
    credit = []
    for item in items:
        counts = [right[index] for index in range(len(item.options))]
        best = max(counts)
        credit.append(1 / counts.count(best) if right[item.options.index(item.answer)] == best else 0.0)
    return credit


def letters_right(items: Sequence[Choice]) -> dict[str, int]:
    """How often each letter is correct, from A to the last one offered."""
    right = Counter(item.options.index(item.answer) for item in items)
    most = max((len(item.options) for item in items), default=0)
    return {LETTERS[index]: right[index] for index in range(most)}
