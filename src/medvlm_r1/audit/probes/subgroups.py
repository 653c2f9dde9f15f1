"""Subgroups probe: accuracy by modality, question type and number of options, with intervals clustered by subject."""

import math
from collections.abc import Callable, Mapping, Sequence

from medvlm_r1.audit.measures import FEWEST, accuracy, ids, too_few, unparsed
from medvlm_r1.audit.probe import Judged, Level, Measure, Probe, ProbeResult
from medvlm_r1.audit.variant import REAL, AuditedItem
from medvlm_r1.evaluation.statistics import CONFIDENCE, clustered_se, clustered_wilson

LOWER = 0.10
"""Smallest difference from all other items for a subgroup to count as lower. Ten points are about the width of the 95 %
interval of an accuracy at 300 items. The interval of the difference, corrected for the number of subgroups, must also
lie below 0."""

GROUPINGS: dict[str, Callable[[AuditedItem], str]] = {
    "modality": lambda item: item.sample.modality,
    "question type": lambda item: item.sample.question_type,
    "options": lambda item: str(len(item.sample.options)),
}
JUDGED = ("modality", "question type")
"""Groupings that affect the verdict. The number of options does not: guessing is harder with more options, so a lower
accuracy is expected there."""


class SubgroupsProbe(Probe):
    """Accuracy on the original questions by subgroup, with intervals for clustered items (arXiv 2411.00640)."""

    name = "subgroups"

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """Compute the accuracies, with a warning if a subgroup is clearly lower. The probe never fails.

        A subgroup is compared if it has at least `FEWEST` items and there are at least `FEWEST` other items. If there
        is no such subgroup, the verdict is "not run".
        """
        clusters = [item.cluster for item in items]
        measures = {
            "accuracy": accuracy(items, "correct with the question as it is"),
            "clustered_se": Measure(
                value=clustered_se([float(item.correct()) for item in items], clusters),
                n=len(items),
                unit="difference",
                about="standard error of the accuracy, clustered by subject",
            ),
            "clusters": Measure(value=float(len(set(clusters))), n=len(items), unit="", about="subjects"),
        }
        groups: dict[str, list[AuditedItem]] = {}
        pairs: dict[str, tuple[list[AuditedItem], list[AuditedItem]]] = {}
        small = []
        for grouping, read in GROUPINGS.items():
            known = [item for item in items if read(item)]
            # Sort numbers by value.
            for value in sorted({read(item) for item in known}, key=lambda value: (value.zfill(4), value)):
                name = f"{grouping}: {value}"
                groups[name] = [item for item in known if read(item) == value]
                rest = [item for item in known if read(item) != value]
                measures[name] = accuracy(groups[name], f"correct, {name}")
                if grouping in JUDGED and min(len(groups[name]), len(rest)) >= FEWEST:
                    pairs[name] = groups[name], rest
                elif grouping in JUDGED:
                    small.append(f"{name} {len(groups[name])}")
        lower = {}
        for name, (group, rest) in pairs.items():
            gap = below_rest(group, rest, len(pairs))
            measures[f"{name}, against the others"] = gap
            if gap.value <= -LOWER and gap.ends[1] < 0:
                lower[name] = gap
        measures["unparsed"], empty = unparsed(items, (REAL,))
        without = sum(not item.sample.subject for item in items)
        notes = [f"{without} items have no subject and count as one each."] if without else []
        notes += [f"{len(empty)} answers were not parsed and count as wrong."] if empty else []
        wrong = {f"wrong, {name}": ids(item for item in groups[name] if not item.correct()) for name in lower}
        return self.result(
            _judge(measures, lower, small, compared=bool(pairs)),
            excluded=" ".join(notes),
            measures=measures,
            items={**wrong, "the answer was not parsed": empty},
            thresholds={
                "against the others": f"warn from {LOWER} lower, where the interval is below 0; it is corrected for "
                f"{len(pairs)} subgroups",
                "items": f"compared from {FEWEST} items, with {FEWEST} others; not run where no subgroup has them",
            },
        )


def below_rest(group: Sequence[AuditedItem], rest: Sequence[AuditedItem], compared: int) -> Measure:
    """Accuracy of a subgroup minus that of all other items.

    The interval is Newcombe's for the difference of two shares (1998, Statistics in Medicine 17:873, method 10). It is
    computed from the clustered Wilson intervals of both, at a joint level of 95 % over all compared subgroups
    (Bonferroni). If a subject has items both in the subgroup and outside it, the interval is conservative (wider than
    necessary).

    Args:
        group: The items of the subgroup.
        rest: All other items.
        compared: Number of subgroups that are compared.
    """
    confidence = 1 - (1 - CONFIDENCE) / max(1, compared)
    means, ends = [], []
    for items in (group, rest):
        correct = [item.correct() for item in items]
        means.append(sum(correct) / len(correct))
        ends.append(clustered_wilson(correct, [item.cluster for item in items], confidence=confidence))
    (p, q), ((p_low, p_high), (q_low, q_high)) = means, ends
    return Measure(
        value=p - q,
        n=len(group),
        ci95=(p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)),
        unit="difference",
        about=f"its accuracy minus that of the others; interval at 95 % over {compared} subgroups",
    )


def _judge(
    measures: Mapping[str, Measure], lower: Mapping[str, Measure], small: Sequence[str], *, compared: bool
) -> Judged:
    """Verdict and sentence. `lower` has the differences of the lower subgroups, `small` those with too few items."""
    overall = measures["accuracy"]
    named = "; ".join(
        f"{name} {measures[name].value:.0%} of {measures[name].n}, {-100 * gap.value:.0f} points below the others"
        for name, gap in lower.items()
    )
    level: Level = "warn" if lower else "pass"
    summary = (
        f"Clearly lower: {named}." if lower else "No modality or type of question is clearly lower than the others."
    )
    if not compared:
        needed = f"{FEWEST} of one modality or type of question and {FEWEST} others"
        level, summary = too_few(f"items of {', '.join(small)}", needed)
    elif small:
        summary += f" Not compared, as fewer than {FEWEST} items or others: {', '.join(small)}."
    return level, (
        f"{summary} {overall.value:.0%} of {overall.n} are correct over all, from {measures['clusters'].value:.0f} "
        "subjects."
    )
