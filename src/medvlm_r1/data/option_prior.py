"""The option prior: how often an option text was correct when it was offered. It uses neither image nor question.

For generated questions, option sets are drawn until text-only baselines are at chance.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np

TIE = 0.5
"""Tie margin, in standard errors, for leave-one-out scoring of a data set by its own option prior.

On a balanced set, removing an item from the counts makes its own answer the option that was correct least often. Plain
leave-one-out therefore scores far below chance (Parker, Günter and Bedo 2007, BMC Bioinformatics 8:326). With a margin
of half a standard error, one removed case does not break a tie if each of four options was offered at least 11 times.
Giveaway options are still separated.
"""


class Choice(Protocol):
    """A question with options, one of which is correct."""

    @property
    def options(self) -> tuple[str, ...]:
        """Option texts."""
        ...

    @property
    def answer(self) -> str:
        """The correct option."""
        ...


def option_prior(
    fit: Iterable[Choice], items: Sequence[Choice], *, leave_one_out: bool = False, tie: float = 0.0
) -> list[float]:
    """Compute the credit of the option prior for each item.

    Args:
        fit: Items from which the counts are taken.
        items: Items to answer. With `leave_one_out`, each item is removed from the counts before it is answered.
        leave_one_out: Whether `items` are part of `fit`.
        tie: Tie margin, in standard errors of the difference at chance. Rates within this margin of the highest rate
            tie with it.

    Returns:
        For each item, 1 / (number of options that tie for the highest rate) if the correct option is among them,
        otherwise 0.
    """
    choices = favored_options(fit, items, leave_one_out=leave_one_out, tie=tie)
    return [
        1 / len(favored) if item.answer in favored else 0.0 for item, (favored, _) in zip(items, choices, strict=True)
    ]


def favored_options(
    fit: Iterable[Choice], items: Iterable[Choice], *, leave_one_out: bool = False, tie: float = 0.0
) -> Iterator[tuple[list[str], bool]]:
    """Find the options that the option prior favors.

    The rate of an option is (correct + 1/k) / (offered + 1) for an item with k options. The formula adds one case that
    is correct at chance, so an option that was never offered in `fit` has the chance rate. Texts that differ only in
    case, spaces or punctuation count as one option.

    Args:
        fit: Items from which the counts are taken.
        items: Items to answer.
        leave_one_out: As for `option_prior`.
        tie: As for `option_prior`.

    Yields:
        For each item, the options that tie for the highest rate, and whether that rate is above chance.
    """
    offered: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for item in fit:
        offered.update({option_key(option) for option in item.options})
        right[option_key(item.answer)] += 1
    own = int(leave_one_out)
    for item in items:
        answer, rates, chance = option_key(item.answer), [], 1 / len(item.options)
        for option in map(option_key, item.options):
            hits, cases = right[option] - own * (option == answer), offered[option] - own + 1
            rates.append(((hits + chance) / cases, cases))
        best, most = max(rates)
        favored = []
        for option, (rate, cases) in zip(item.options, rates, strict=True):
            margin = tie * math.sqrt(chance * (1 - chance) * (1 / cases + 1 / most))
            if best - rate <= margin:
                favored.append(option)
        yield favored, best > chance


@lru_cache(maxsize=4096)
def option_key(option: str) -> str:
    """Normalize an option text to its letters and digits, ignoring case. A text without any is returned stripped."""
    letters = "".join(character for character in option.casefold() if character.isalnum())
    return letters or option.strip()


def longest_option(items: Iterable[Choice]) -> list[float]:
    """Compute the credit of choosing the longest option of each item.

    Returns:
        For each item, 1 / (number of options that are the longest) if the correct one is among them, otherwise 0.
        Length is counted in characters. Consecutive white space counts as one character, and surrounding white space is
        ignored.
    """
    credit = []
    for item in items:
        lengths = [len(" ".join(option.split())) for option in item.options]
        longest = [option for option, length in zip(item.options, lengths, strict=True) if length == max(lengths)]
        credit.append(1 / len(longest) if item.answer in longest else 0.0)
    return credit


TOLERANCE = 0.018
_MOST_DRAWS = 400
Drawn = TypeVar("Drawn")


def subset(values: Sequence[str], least: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Random values in random order: at least `least`, at most `least + 2`, and most often the maximum number."""
    most = min(least + 2, len(values))
    count = most if rng.random() < 0.6 else int(rng.integers(least, most + 1))
    return shuffled(values, rng)[:count]


def shuffled(values: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """The values in random order."""
    return tuple(map(str, rng.permutation(values)))


def rerandomize(
    draw: Callable[[int], Drawn], deviation: Callable[[Drawn], float], tolerance: float = TOLERANCE
) -> Drawn:
    """Repeat a draw until its deviation is within the tolerance (re-randomization).

    Args:
        draw: Makes draw number 0, 1, 2 and so on.
        deviation: Deviation of a draw.
        tolerance: Largest acceptable deviation.

    Returns:
        The first acceptable draw; after 400 draws without one, the draw with the smallest deviation.
    """
    best = draw(0)
    least = deviation(best)
    for attempt in range(1, _MOST_DRAWS):
        if least <= tolerance:
            break
        drawn = draw(attempt)
        if (worst := deviation(drawn)) < least:
            least, best = worst, drawn
    return best


def imbalance(questions: Sequence[Choice], fits: Sequence[Sequence[Choice]] = ()) -> float:
    """Largest difference between the accuracy of a text-only baseline and chance, as a fraction.

    The baselines are the majority letter, the longest option, and the option prior with leave-one-out.

    Args:
        questions: Questions to answer without their images.
        fits: Further question sets. The option prior is fitted on each of them and applied to `questions`.
    """
    chance = np.mean([1 / len(q.options) for q in questions])
    letters = np.bincount([q.options.index(q.answer) for q in questions])
    credits = [option_prior(fit, questions) for fit in fits]
    credits += [option_prior(questions, questions, leave_one_out=True), longest_option(questions)]
    shares = [letters.max() / len(questions), *map(np.mean, credits)]
    return max(abs(float(share - chance)) for share in shares)
