"""The option prior: how often an option text was right when it was offered. It sees neither image nor question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol


class Choice(Protocol):
    """Anything with options and a right one."""

    @property
    def options(self) -> tuple[str, ...]: ...

    @property
    def answer(self) -> str: ...


def option_prior(fit: Iterable[Choice], items: Sequence[Choice], *, leave_one_out: bool = False) -> list[float]:
    """Credit of the option prior on each item.

    Args:
        fit: Items the counts are taken from.
        items: Items to answer. With `leave_one_out` each is taken out of the counts before it is answered.
        leave_one_out: Whether `items` are part of `fit`.

    Returns:
        Per item 1 / (number of options that share the highest rate) if the right one is among them, else 0. An option
        never offered in `fit` has rate 0.
    """
    offered: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for item in fit:
        offered.update(item.options)
        right[item.answer] += 1
    credit = []
    own = 1 if leave_one_out else 0
    for item in items:
        rates = []
        for option in item.options:
            seen = offered[option] - own
            hits = right[option] - (own if option == item.answer else 0)
            rates.append(hits / seen if seen else 0.0)
        best = max(rates)
        winners = [option for option, rate in zip(item.options, rates, strict=True) if rate == best]
        credit.append(1 / len(winners) if item.answer in winners else 0.0)
    return credit
