"""The longest option: test writers tend to word the right answer at greater length."""

from __future__ import annotations

from collections.abc import Iterable

from medvlm_r1.data.option_prior import Choice


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
