"""Measures with 95 % intervals for the probes: shares, differences and ratios.

Items of one patient or volume form a cluster. Their errors are correlated, so they count as fewer independent items.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence

from medvlm_r1.audit.probe import Judged, Measure
from medvlm_r1.audit.variant import REAL, AuditedItem
from medvlm_r1.evaluation.statistics import (
    CONFIDENCE,
    FEWEST_SUBJECTS,
    clustered_wilson,
    paired_difference,
    paired_ratio,
)

FEWEST = 30
"""Fewest items with which a probe gives a verdict. If 0 of 30 answers change, the upper end of the interval is 11 %.
Fewer items therefore cannot exclude a rate of 10 %."""

MOST_UNPARSED = 0.2
"""Largest share of unparsed answers with which a probe gives a verdict. A larger share could change the outcome at any
10 % threshold."""

TOO_FEW = "Too few for a verdict"
"""Beginning of the sentence of `too_few`."""

UNMEASURED = Measure(value=0.0, n=0)
"""Placeholder for a measure that a probe does not have."""

NO_VERDICT = {"items": f"not run below {FEWEST}", "unparsed": f"no verdict above {MOST_UNPARSED}"}
"""`FEWEST` and `MOST_UNPARSED` in words, for the thresholds of a probe's result."""


def ids(items: Iterable[AuditedItem]) -> list[str]:
    """Sample ids of the items."""
    return [item.sample.id for item in items]


def too_few(count: str, needed: int | str = FEWEST) -> Judged:
    """Return the verdict "not run" and its sentence, for too few items, answers or subjects.

    Args:
        count: The number and its noun, such as "12 answers with a confidence".
        needed: The smallest number needed.
    """
    return "not run", f"{TOO_FEW}: {count}; at least {needed} are needed."


def too_unparsed(empty: Measure, end: str, answers: str = "answers") -> Judged | None:
    """Return the verdict "warn" and its sentence if more than `MOST_UNPARSED` are unparsed, otherwise None.

    Args:
        empty: Share of unparsed answers.
        end: End of the sentence, such as "no verdict on image use".
        answers: The noun for the answers in the sentence.
    """
    if empty.value <= MOST_UNPARSED:
        return None
    return "warn", f"{empty.percent} of {empty.n} {answers} were not parsed: {end}."


def no_verdict(empty: Measure, end: str, n: int, count: str, answers: str = "answers") -> Judged | None:
    """Return `too_unparsed(empty, end, answers)`, or `too_few` if fewer than `FEWEST` are counted, otherwise None.

    Args:
        empty: Share of unparsed answers.
        end: End of the sentence on unparsed answers.
        n: The number that is compared with `FEWEST`.
        count: What `n` counts, such as "answers with a confidence".
        answers: The noun for the answers in the sentence on unparsed answers.
    """
    return too_unparsed(empty, end, answers) or (too_few(f"{n} {count}") if n < FEWEST else None)


def unparsed_note(empty: Measure) -> str:
    """Sentence with the number of unparsed answers, after a leading space; "" if there are none."""
    return f" {empty.count} of {empty.n} answers were not parsed." if empty.value else ""


def unparsed(items: Sequence[AuditedItem], names: Sequence[str]) -> tuple[Measure, list[str]]:
    """Share of unparsed answers to the variants `names`, and the ids of the items with an unparsed answer."""
    pairs = [(item.parsed(name) is None, item) for item in items for name in names if name in item.answers]
    measure = share([(empty, item.cluster) for empty, item in pairs], "unparsed answers: neither the same nor another")
    return measure, list(dict.fromkeys(item.sample.id for empty, item in pairs if empty))


def share(pairs: Iterable[tuple[float, Hashable]], about: str, confidence: float = CONFIDENCE) -> Measure:
    """A share, or a mean of fractions, with the interval of `clustered_wilson`. Without values, both share and n are 0.

    Args:
        pairs: Values with their clusters. An item may have several values or none.
        about: Description of the share.
        confidence: Confidence level of the interval.
    """
    pairs = list(pairs)
    values, clusters = [value for value, _ in pairs], [label for _, label in pairs]
    n = len(values)
    return Measure(
        value=sum(values) / n if n else 0.0,
        n=n,
        ci95=clustered_wilson(values, clusters, confidence=confidence),
        about=about,
    )


def share_of(items: Iterable[AuditedItem], verdict: Callable[[AuditedItem], float], about: str) -> Measure:
    """Share of items for which `verdict` returns True, or the mean if it returns fractions; see `share`."""
    return share([(verdict(item), item.cluster) for item in items], about)


def accuracy(items: Iterable[AuditedItem], about: str, name: str = REAL) -> Measure:
    """Share of correct answers to the variant `name`, among the items that have an answer to it."""
    return share_of([item for item in items if name in item.answers], lambda item: item.correct(name), about)


def difference(
    items: Sequence[AuditedItem],
    name: str,
    other: str,
    about: str,
    hit: Callable[[AuditedItem, str], bool] = AuditedItem.correct,
) -> Measure:
    """Accuracy of variant `name` minus that of `other` on the same items, with the interval of `paired_difference`.

    `hit` decides what is counted instead of correct answers, such as `AuditedItem.same`.
    """
    a, b, clusters = _hits(items, other, name, hit)
    value, low, high = paired_difference(a, b, clusters)
    return Measure(value=value, n=len(a), ci95=(low, high), unit="difference", about=about)


def ratio(items: Sequence[AuditedItem], name: str, other: str, about: str) -> Measure | None:
    """Accuracy of variant `name` divided by that of `other` on the same items, with the interval of `paired_ratio`.

    Returns None if the divisor is 0. With fewer than `FEWEST_SUBJECTS` subjects there is no interval, because its
    coverage was too low in simulations.
    """
    above, below, clusters = _hits(items, name, other, AuditedItem.correct)
    if not any(below):
        return None
    ends = paired_ratio(above, below, clusters) if len(set(clusters)) >= FEWEST_SUBJECTS else None
    return Measure(value=sum(above) / sum(below), n=len(below), ci95=ends, unit="ratio", about=about)


def unpaired_difference(a: Measure, b: Measure, about: str) -> Measure:
    """Share `a` minus share `b` of different items, with Newcombe's interval (1998, Statistics in Medicine 17:873).

    It is computed from the intervals of both (method 10). If a subject has items in both groups, it is conservative
    (wider than necessary).
    """
    (a_low, a_high), (b_low, b_high) = a.ends, b.ends
    gap = a.value - b.value
    low = gap - math.hypot(a.value - a_low, b_high - b.value)
    high = gap + math.hypot(a_high - a.value, b.value - b_low)
    return Measure(value=gap, n=a.n, ci95=(low, high), unit="difference", about=about)


def _hits(
    items: Sequence[AuditedItem], a: str, b: str, hit: Callable[[AuditedItem, str], bool]
) -> tuple[list[bool], list[bool], list[str]]:
    """Whether the answers to variants `a` and `b` are hits, and the clusters, of the items that have both answers."""
    both = [item for item in items if a in item.answers and b in item.answers]
    return [hit(item, a) for item in both], [hit(item, b) for item in both], [item.cluster for item in both]
