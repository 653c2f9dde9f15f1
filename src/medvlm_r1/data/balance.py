"""Random option sets, and draws that are repeated until text-only baselines are at chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from medvlm_r1.data.option_prior import Choice, longest_option, option_prior

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
