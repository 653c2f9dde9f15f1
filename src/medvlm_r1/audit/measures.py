"""Measures with 95 % intervals for the probes: shares, differences and ratios.

Items of one patient or volume are one cluster. Their errors are correlated, so they count as fewer independent items.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence

from medvlm_r1.audit.probe import Judged, Measure
from medvlm_r1.audit.variant import REAL, AuditedItem
from medvlm_r1.evaluation.statistics import (
    FEWEST_SUBJECTS,
    clustered_wilson,
    paired_difference,
    paired_ratio,
)

FEWEST = 30
"""Fewest items of a probe with a verdict. With 0 changes among 30 answers the interval reaches 11 %, so fewer items
cannot exclude a threshold of a tenth."""

MOST_UNPARSED = 0.2
"""No verdict when more than 20 % of answers are unparsed: they could flip any 10 % threshold."""

NO_VERDICT = {"items": f"not run below {FEWEST}", "unparsed": f"no verdict above {MOST_UNPARSED}"}
"""Both limits as a probe lists them among its thresholds."""


def in_order(items: Sequence[AuditedItem]) -> list[AuditedItem]:
    """The items sorted by id, so that random draws do not depend on their order."""
    return sorted(items, key=lambda item: item.sample.id)


def ids(items: Iterable[AuditedItem]) -> list[str]:
    """Sample ids of items."""
    return [item.sample.id for item in items]


def too_few(count: str, needed: int | str = FEWEST) -> Judged:
    """Verdict and sentence for too few items, answers or subjects.

    Args:
        count: The number and what it counts: "12 answers with a confidence".
        needed: The least number.
    """
    return "not run", f"Too few for a verdict: {count}; at least {needed} are needed."


def too_unparsed(empty: Measure, no_verdict: str, answers: str = "answers") -> Judged | None:
    """Verdict and sentence for more than `MOST_UNPARSED` unparsed answers; None for fewer.

    Args:
        empty: Share of unparsed answers.
        no_verdict: What there is no verdict on: "no verdict on image use".
        answers: Which answers they are.
    """
    if empty.value <= MOST_UNPARSED:
        return None
    return "warn", f"{empty.value:.0%} of {empty.n} {answers} were not parsed: {no_verdict}."


def unparsed_note(empty: Measure) -> str:
    """Number of unparsed answers in a sentence that follows another; "" for none."""
    return f" {empty.count} of {empty.n} answers were not parsed." if empty.value else ""


def unparsed(items: Sequence[AuditedItem], names: Sequence[str]) -> tuple[Measure, list[str]]:
    """Share of unparsed answers to these variants, and the ids of their items."""
    pairs = [(item.parsed(name) is None, item) for item in items for name in names if name in item.answers]
    measure = share([(empty, item.cluster) for empty, item in pairs], "unparsed answers: neither the same nor another")
    return measure, list(dict.fromkeys(item.sample.id for empty, item in pairs if empty))


def share(pairs: Iterable[tuple[float, Hashable]], about: str) -> Measure:
    """A share, or a mean of fractions, with the interval of `clustered_wilson`; 0 of 0 without values.

    Args:
        pairs: Values with their clusters. An item may have several values or none.
        about: What the share is.
    """
    pairs = list(pairs)
    values, clusters = [value for value, _ in pairs], [label for _, label in pairs]
    n = len(values)
    return Measure(value=sum(values) / n if n else 0.0, n=n, ci95=clustered_wilson(values, clusters), about=about)


def share_of(items: Iterable[AuditedItem], verdict: Callable[[AuditedItem], float], about: str) -> Measure:
    """The share of items for which the verdict is true, or the mean of fractions; see `share`."""
    return share([(verdict(item), item.cluster) for item in items], about)


def accuracy(items: Iterable[AuditedItem], about: str, name: str = REAL) -> Measure:
    """The share of correct answers to a variant, among the items that have an answer to it."""
    return share_of([item for item in items if name in item.answers], lambda item: item.correct(name), about)


def difference(items: Sequence[AuditedItem], name: str, other: str, about: str) -> Measure:
    """Accuracy of one variant minus that of another on the same items, with the interval of `paired_difference`."""
    a, b, clusters = _correct(items, other, name)
    value, low, high = paired_difference(a, b, clusters)
    return Measure(value=value, n=len(a), ci95=(low, high), unit="difference", about=about)


def ratio(items: Sequence[AuditedItem], name: str, other: str, about: str) -> Measure | None:
    """Accuracy of one variant over that of another on the same items, with the interval of `paired_ratio`.

    None for a division by 0. With fewer than `FEWEST_SUBJECTS` subjects there is no interval: its simulated coverage
    was too low.
    """
    above, below, clusters = _correct(items, name, other)
    if not any(below):
        return None
    ends = paired_ratio(above, below, clusters) if len(set(clusters)) >= FEWEST_SUBJECTS else None
    return Measure(value=sum(above) / sum(below), n=len(below), ci95=ends, unit="ratio", about=about)


def _correct(items: Sequence[AuditedItem], a: str, b: str) -> tuple[list[bool], list[bool], list[str]]:
    """Correctness of both variants and the cluster, of the items that have both answers."""
    both = [item for item in items if a in item.answers and b in item.answers]
    return [item.correct(a) for item in both], [item.correct(b) for item in both], [item.cluster for item in both]
