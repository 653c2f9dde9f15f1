"""The option prior: how often an option text was right when it was offered. It sees neither image nor question."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

TIE = 0.5
"""The margin for ties with which a set is judged by leaving each item out of its own counts.

On a balanced set an item's own answer is, without itself, always the option that was right least often, so that plain
leave-one-out scores far below chance (Parker, Günter and Bedo 2007, BMC Bioinformatics 8:326). Half a standard error
holds that one missing case from 11 offers of each of four options on, and still separates giveaway options.
"""


class Choice(Protocol):
    """Anything with options and a correct one."""

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
    """Credits of the option prior, one per item.

    Args:
        fit: Items the counts are taken from.
        items: Items to answer. With `leave_one_out` each is taken out of the counts before it is answered.
        leave_one_out: Whether `items` are part of `fit`.
        tie: Standard errors of the difference at chance by which a rate may lie below the highest and still tie.

    Returns:
        Per item 1 / (number of options that tie for the highest rate) if the right one is among them, else 0. A rate is
        (right + 1/k) / (offered + 1) for an item of k options. This adds one case that is correct at chance, so that an
        option never offered in `fit` counts as chance. Texts that differ only in case, spaces or punctuation are one
        option.
    """
    offered: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for item in fit:
        offered.update({option_key(option) for option in item.options})
        right[option_key(item.answer)] += 1
    credit = []
    own = int(leave_one_out)
    for item in items:
        answer, rates, chance = option_key(item.answer), [], 1 / len(item.options)
        for option in map(option_key, item.options):
            hits, cases = right[option] - own * (option == answer), offered[option] - own + 1
            rates.append(((hits + chance) / cases, cases))
        best, most = max(rates)
        winners = []
        for option, (rate, cases) in zip(item.options, rates, strict=True):
            margin = tie * math.sqrt(chance * (1 - chance) * (1 / cases + 1 / most))
            if best - rate <= margin:
                winners.append(option)
        credit.append(1 / len(winners) if item.answer in winners else 0.0)
    return credit


def option_key(option: str) -> str:
    """Normal form of an option text: letters and digits, case folded; the text itself if it has none."""
    letters = "".join(character for character in option.casefold() if character.isalnum())
    return letters or option.strip()


def longest_option(items: Iterable[Choice]) -> list[float]:
    """Credit of choosing the longest option text of each item.

    Args:
        items: Items to answer.

    Returns:
        Per item 1 / (number of options that are the longest) if the right one is among them, else 0. Length is counted
        in characters; a run of white space counts as one, at the ends as none.
    """
    credit = []
    for item in items:
        lengths = [len(" ".join(option.split())) for option in item.options]
        longest = [option for option, length in zip(item.options, lengths, strict=True) if length == max(lengths)]
        credit.append(1 / len(longest) if item.answer in longest else 0.0)
    return credit
