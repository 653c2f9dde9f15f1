"""For whom is it worse? The real answers by modality, type of question and number of options, clustered by subject."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

from medvlm_r1.audit.measures import FEWEST, cluster, in_order, share_of, too_few, unparsed
from medvlm_r1.audit.partial_result import Part, concluded
from medvlm_r1.audit.probe import AsksNothing, Level, Measure, ProbeResult
from medvlm_r1.audit.variant import REAL, AuditedItem
from medvlm_r1.evaluation.statistics import CONFIDENCE, clustered_se, clustered_wilson

LOWER = 0.10
"""How far below all other items a subgroup must stand to be named: ten points are about the width of an accuracy's own
interval at 300 items. The interval of the difference, corrected for the number of subgroups, must lie below 0 too."""

GROUPINGS: dict[str, Callable[[AuditedItem], str]] = {
    "modality": lambda item: item.sample.modality,
    "question type": lambda item: item.sample.question_type,
    "options": lambda item: str(len(item.sample.options)),
}
JUDGED = ("modality", "question type")
"""Questions with more options are harder for a guesser, so a lower accuracy there says nothing of the model."""


class SubgroupsProbe(AsksNothing):
    """Accuracy of the real answers by subgroup, with intervals for clustered items (arXiv 2411.00640)."""

    name = "subgroups"

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """The accuracies; a warning where a subgroup is clearly lower. There is nothing to fail.

        A subgroup is compared where it and all others together have `FEWEST` items each; without one, not run.
        """
        items = in_order(items)
        clusters = [cluster(item) for item in items]
        rights = [item.right() for item in items]
        subjects = sum(bool(item.sample.subject) for item in items)
        measures = {
            "accuracy": share_of(items, AuditedItem.right, "right as the question stands"),
            "clustered_se": Measure(
                value=clustered_se([float(right) for right in rights], clusters),
                n=len(items),
                unit="difference",
                about="standard error of the accuracy, items of one subject taken as one cluster",
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
                measures[name] = share_of(part, AuditedItem.right, f"right, {name}")
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
        return concluded(
            self.name,
            _judge(measures, groups, lower, set(pairs), subjects),
            Part(measures=measures, items={**wrong, "the answer could not be read": empty}),
            thresholds={
                "against the others": f"warn from {LOWER} lower, where the interval lies below 0; it is corrected for "
                f"{compared} subgroups",
                "items": f"compared from {FEWEST} items, with {FEWEST} others; not run where no subgroup has them",
            },
        )


def below_rest(part: Sequence[AuditedItem], rest: Sequence[AuditedItem], compared: int) -> Measure:
    """Accuracy of a subgroup minus that of all other items.

    Newcombe's interval of a difference of two shares (1998, Statistics in Medicine 17:873, method 10) from intervals
    for clustered items, at 95 % over all subgroups compared (Bonferroni). Subjects that are on both sides make it too
    wide, not too narrow.
    """
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / max(1, compared))
    means, ends = [], []
    for group in (part, rest):
        rights = [item.right() for item in group]
        means.append(sum(rights) / len(rights))
        ends.append(clustered_wilson(rights, [cluster(item) for item in group], z=z))
    (p, q), ((p_low, p_high), (q_low, q_high)) = means, ends
    return Measure(
        value=p - q,
        n=len(part),
        ci95=(p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)),
        unit="difference",
        about=f"its accuracy minus that of the others; interval at 95 % over {compared} subgroups",
    )


def _values(items: Sequence[AuditedItem], read: Callable[[AuditedItem], str]) -> list[str]:
    """Distinct values, numbers by size; an empty one (not known) is no subgroup."""
    return sorted({read(item) for item in items} - {""}, key=lambda value: (value.zfill(4), value))


def _wrong(groups: dict[str, dict[str, list[AuditedItem]]], name: str) -> list[str]:
    grouping, _, value = name.partition(": ")
    return [item.sample.id for item in groups[grouping][value] if not item.right()]


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
    told = f"Clearly lower: {named}." if lower else "No modality or type of question is clearly lower than the others."
    sizes = {f"{grouping}: {value}": len(part) for grouping in JUDGED for value, part in groups[grouping].items()}
    small = ", ".join(f"{name} {size}" for name, size in sizes.items() if name not in compared)
    if not compared:
        level, told = too_few(f"items of {small}", f"{FEWEST} of one modality or type of question and {FEWEST} others")
    elif small:
        told += f" Not compared, as fewer than {FEWEST} items or others: {small}."
    told += f" {overall.value:.0%} of {overall.n} are right over all, from {measures['clusters'].value:.0f} subjects."
    if subjects < overall.n:
        told += f" {overall.n - subjects} items name no subject and count as one each."
    if empty.value:
        told += f" {round(empty.value * empty.n)} answers could not be read and count as wrong."
    return level, told
