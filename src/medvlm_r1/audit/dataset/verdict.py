"""Verdict on one modality of a data set: can its questions be answered without the image?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from medvlm_r1.audit.dataset.blind import CHANCE, LONGEST, MAJORITY, PRIOR_FIT, PRIOR_LOO
from medvlm_r1.evaluation.statistics import clustered_wilson, wilson

MARGIN = 10.0
"""Percentage points above chance from which a data set fails."""

HOPELESS = 80.0
"""Percent of a blind baseline from which no accuracy is evidence of image use."""

THRESHOLDS = {
    "fail": f"the interval of a blind baseline lies {MARGIN:.0f} points or more above chance",
    "warn": "the interval of a blind baseline lies above chance, by less than that",
    "not run": f"no interval lies above chance, but one reaches {MARGIN:.0f} points above: too few questions",
    "pass": f"no interval lies above chance, and none reaches {MARGIN:.0f} points above it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """The accuracy of one baseline.

    Attributes:
        n: Number of questions.
        percent: Mean credit, percent.
        ci95: 95 % interval, percent. That of chance is the figure itself: chance is known, not estimated.
    """

    n: int
    percent: float
    ci95: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The joint verdict of the baselines.

    Attributes:
        level: "fail", "warn", "not run" or "pass"; see `THRESHOLDS`.
        baseline: The decisive one: its interval has the highest lower end, or for "not run" the highest upper end.
        sentence: The verdict in words.
    """

    level: str
    baseline: str
    sentence: str


def figure(credits: Sequence[float], clusters: Sequence[Hashable], *, known: bool = False) -> Figure:
    """Mean credit with its Wilson interval, with the effective sample size of questions on one subject.

    A credit of 1/m has less variance than a correct answer with probability 1/m, so ties make the interval too wide,
    not too narrow.

    Args:
        credits: One per question, at least one.
        clusters: The subject of each.
        known: The mean is known from the questions, not estimated, as for chance.
    """
    n = len(credits)
    # The sum of n thirds can exceed n by a rounding error.
    right = min(sum(credits), float(n))
    low, high = (right / n, right / n) if known else clustered_wilson(credits, clusters)
    return Figure(n=n, percent=100 * right / n, ci95=(100 * low, 100 * high))


def questions_needed(chance: float) -> int:
    """The fewest questions that show a baseline at `chance` (percent) to be within the margin."""
    n = 1
    while 100 * wilson(chance / 100 * n, n)[1] >= chance + MARGIN and chance + MARGIN <= 100:
        n += 1
    return n


def label(baseline: str, fit: str | None = None) -> str:
    """A baseline in words; `fit` names what the fitted option prior was counted on."""
    return {
        CHANCE: "chance",
        MAJORITY: "majority letter",
        LONGEST: "longest option",
        PRIOR_FIT: f"option prior fitted on {fit or 'other questions'}",
        PRIOR_LOO: "option prior, leave one out",
    }[baseline]


def judge(
    modality: str, figures: Mapping[str, Figure], fit: str | None = None, *, letters_uneven: bool = True
) -> Verdict:
    """Judge one modality.

    Args:
        modality: Its name, for the sentence.
        figures: By baseline; chance and at least one other that counts.
        fit: What the fitted option prior was counted on, for the sentence.
        letters_uneven: Whether the correct letters are uneven beyond chance. Otherwise the majority letter does not
            count: it was chosen on the answers themselves, which its interval does not account for.
    """
    chance = figures[CHANCE].percent
    excluded = {CHANCE} if letters_uneven else {CHANCE, MAJORITY}
    blind = {name: accuracy for name, accuracy in figures.items() if name not in excluded}
    best = max(blind, key=lambda name: (blind[name].ci95[0], blind[name].percent))
    highest = max(blind, key=lambda name: blind[name].ci95[1])
    low, high = blind[best].ci95[0], blind[highest].ci95[1]
    # A baseline exactly at a threshold must not change sides by a rounding error.
    above = low > chance + 1e-9
    if not above and high >= chance + MARGIN:
        best = highest
    n, percent = blind[best].n, blind[best].percent
    source = f"{label(best, fit)}; chance {chance:.0f} %"
    answerable = f"{percent:.0f} % of the {modality} questions can be answered without the image ({source}): "
    if low >= chance + MARGIN - 1e-9:
        accuracy = "an accuracy on this set" if percent >= HOPELESS else "an accuracy no better than that"
        return Verdict(level="fail", baseline=best, sentence=f"{answerable}{accuracy} is no evidence of image use.")
    if above:
        sentence = f"{answerable}compare an accuracy with that figure, not with chance."
        return Verdict(level="warn", baseline=best, sentence=sentence)
    if high >= chance + MARGIN:
        questions = f"One {modality} question is" if n == 1 else f"{n} {modality} questions are"
        sentence = (
            f"{questions} too few for a verdict; at least {questions_needed(chance)} are needed. "
            f"A blind baseline gets {percent:.0f} % ({source}), and up to {high:.0f} % would fit."
        )
        return Verdict(level="not run", baseline=best, sentence=sentence)
    sentence = (
        f"No blind baseline beats chance on the {n} {modality} questions: "
        f"the best of them gets {percent:.0f} % ({source})."
    )
    return Verdict(level="pass", baseline=best, sentence=sentence)
