"""Subgroups probe: accuracy by modality, question type and number of options, clustered by subject."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

from medvlm_r1.audit.measures import FEWEST, cluster, in_order, share_of, too_few, unparsed
from medvlm_r1.audit.partial_result import PartialResult, finalize
from medvlm_r1.audit.probe import Level, Measure, ProbeBase, ProbeResult
from medvlm_r1.audit.variant import REAL, AuditedItem
from medvlm_r1.evaluation.statistics import CONFIDENCE, clustered_se, clustered_wilson

LOWER = 0.10
"""Least difference to all other items for a subgroup to count as lower: ten points, about the width of an accuracy's
interval at 300 items. The interval of the difference, corrected for the number of subgroups, must also be below 0."""

GROUPINGS: dict[str, Callable[[AuditedItem], str]] = {
    "modality": lambda item: item.sample.modality,
    "question type": lambda item: item.sample.question_type,
    "options": lambda item: str(len(item.sample.options)),
}
JUDGED = ("modality", "question type")
"""Groupings with a verdict. More options are harder for a guesser, so a lower accuracy there is no finding."""


class SubgroupsProbe(ProbeBase):
    """Accuracy of the real answers by subgroup, with intervals for clustered items (arXiv 2411.00640)."""

    name = "subgroups"

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """The accuracies, with a warning where a subgroup is clearly lower. The probe never fails.

        A subgroup is compared if it has at least `FEWEST` items and so have all others together. Without such a
        subgroup the probe is not run.
        """
        items = in_order(items)
        clusters = [cluster(item) for item in items]
        verdicts = [item.correct() for item in items]
        subjects = sum(bool(item.sample.subject) for item in items)
        measures = {
            "accuracy": share_of(items, AuditedItem.correct, "correct with the question as it is"),
            "clustered_se": Measure(
                value=clustered_se([float(verdict) for verdict in verdicts], clusters),
                n=len(items),
                unit="difference",
                about="standard error of the accuracy, clustered by subject",
            ),
            "clusters": Measure(value=float(len(set(clusters))), n=len(items), unit="", about="subjects"),
        }
        groups = {
            grouping: {value: [item for item in items if read(item) == value] for value in _values(items, read)}
            for grouping, read in GROUPINGS.items()
        }
        lower = {}
        pairs: dict[str, tuple[list[AuditedItem], list[AuditedItem]]] = {}
        for grouping, parts in groups.items():
            for value, part in parts.items():
                name = f"{grouping}: {value}"
                measures[name] = share_of(part, AuditedItem.correct, f"correct, {name}")
                rest = [item for other, group in parts.items() if other != value for item in group]
                if grouping in JUDGED and min(len(part), len(rest)) >= FEWEST:
                    pairs[name] = part, rest
        compared = len(pairs)
        for name, (part, rest) in pairs.items():
            found = below_rest(part, rest, compared)
            measures[f"{name}, against the others"] = found
            if found.value <= -LOWER and found.ends[1] < 0:
                lower[name] = found
        measures["unparsed"], empty = unparsed(items, (REAL,))
        wrong = {f"wrong, {name}": _wrong(groups, name) for name in lower}
        return finalize(
            self.name,
            _judge(measures, groups, lower, set(pairs), subjects),
            PartialResult(measures=measures, items={**wrong, "the answer was not parsed": empty}),
            thresholds={
                "against the others": f"warn from {LOWER} lower, where the interval is below 0; it is corrected for "
                f"{compared} subgroups",
                "items": f"compared from {FEWEST} items, with {FEWEST} others; not run where no subgroup has them",
            },
        )


def below_rest(part: Sequence[AuditedItem], rest: Sequence[AuditedItem], compared: int) -> Measure:
    """Accuracy of a subgroup minus that of all other items.

    The interval is Newcombe's for a difference of two shares (1998, Statistics in Medicine 17:873, method 10), from
    intervals for clustered items, at 95 % over all compared subgroups (Bonferroni). Subjects on both sides make it too
    wide, not too narrow.
    """
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / max(1, compared))
    means, ends = [], []
    for group in (part, rest):
        verdicts = [item.correct() for item in group]
        means.append(sum(verdicts) / len(verdicts))
        ends.append(clustered_wilson(verdicts, [cluster(item) for item in group], z=z))
    (p, q), ((p_low, p_high), (q_low, q_high)) = means, ends
    return Measure(
        value=p - q,
        n=len(part),
        ci95=(p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)),
        unit="difference",
        about=f"its accuracy minus that of the others; interval at 95 % over {compared} subgroups",
    )


def _values(items: Sequence[AuditedItem], read: Callable[[AuditedItem], str]) -> list[str]:
    """Distinct values, numbers by size, without the empty (unknown) one."""
    return sorted({read(item) for item in items} - {""}, key=lambda value: (value.zfill(4), value))


def _wrong(groups: dict[str, dict[str, list[AuditedItem]]], name: str) -> list[str]:
    grouping, _, value = name.partition(": ")
    return [item.sample.id for item in groups[grouping][value] if not item.correct()]


def _judge(
    measures: dict[str, Measure],
    groups: dict[str, dict[str, list[AuditedItem]]],
    lower: dict[str, Measure],
    compared: set[str],
    subjects: int,
) -> tuple[Level, str]:
    overall, empty = measures["accuracy"], measures["unparsed"]
    named = "; ".join(
        f"{name} {measures[name].value:.0%} of {measures[name].n}, {-100 * found.value:.0f} points below the others"
        for name, found in lower.items()
    )
    level: Level = "warn" if lower else "pass"
    summary = (
        f"Clearly lower: {named}." if lower else "No modality or type of question is clearly lower than the others."
    )
    sizes = {f"{grouping}: {value}": len(part) for grouping in JUDGED for value, part in groups[grouping].items()}
    small = ", ".join(f"{name} {size}" for name, size in sizes.items() if name not in compared)
    if not compared:
        level, summary = too_few(
            f"items of {small}", f"{FEWEST} of one modality or type of question and {FEWEST} others"
        )
    elif small:
        summary += f" Not compared, as fewer than {FEWEST} items or others: {small}."
    summary += (
        f" {overall.value:.0%} of {overall.n} are correct over all, from {measures['clusters'].value:.0f} subjects."
    )
    if subjects < overall.n:
        summary += f" {overall.n - subjects} items have no subject and count as one each."
    if empty.value:
        summary += f" {round(empty.value * empty.n)} answers were not parsed and count as wrong."
    return level, summary
