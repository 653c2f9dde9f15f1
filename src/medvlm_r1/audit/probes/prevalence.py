"""Prevalence probe: does the model recognize presence and absence, or does it lean to one of them?

If few answers are positive, a model that nearly always answers "No" has a high accuracy. Sensitivity and specificity
show this, because they do not depend on the prevalence (Altman and Bland 1994, BMJ 308:1552). The probe uses the
answers to the original questions and their labels. Answers are compared by their texts, so the letters of the options
may move.
"""

import re
from collections.abc import Mapping, Sequence

from medvlm_r1.audit.measures import NO_VERDICT, ids, no_verdict, share, too_few, unpaired_difference, unparsed
from medvlm_r1.audit.probe import Judged, Measure, Probe, ProbeResult
from medvlm_r1.audit.variant import REAL, AuditedItem
from medvlm_r1.evaluation.statistics import paired_difference

COIN = 0.50
"""Sensitivity or specificity below which the probe fails: a coin toss would recognize more items of that class."""
LEANS = 0.20
"""Difference between sensitivity and specificity from which the probe warns, if its interval excludes 0. Twenty points
are about the width of the 95 % interval of a share at 60 items: the positive ones of 300 at a prevalence of 20 %."""
FEWEST_EACH = 10
"""A verdict needs at least this many items with a positive and with a negative label."""

_ABSENT = re.compile(
    r"\W*(?:no|none|normal|absent|absence|negative|healthy|unremarkable|without)\b(?!\W+of the\b)", re.IGNORECASE
)


def absent_option(options: Sequence[str]) -> str | None:
    """The option that denies what the question asks for, such as "No" or "no finding".

    Returns:
        The only such option; None if there are none or several, or no other option.
    """
    absent = [option for option in options if _ABSENT.match(option)]
    return absent[0] if len(absent) == 1 < len(options) else None


class PrevalenceProbe(Probe):
    """Sensitivity, specificity, and the share of positive answers compared with the prevalence. It needs no variants.

    An item is positive if its correct option is not the `absent_option`. An answer is positive if it chooses any option
    except `absent_option`.
    """

    name = "prevalence"
    needs_options = True

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """Compute the measures and the verdict. Items without an `absent_option` are excluded and counted."""
        usable = [(item, absent) for item in items if (absent := absent_option(item.sample.options))]
        if not usable:
            return self.result(("not run", 'No question offers an option such as "No" or "no finding".'))
        empty, lost = unparsed([item for item, _ in usable], (REAL,))
        # For each parsed answer: the item, whether its label is positive, and whether the answer is.
        rows = [(i, i.sample.answer != absent, i.real.option != absent) for i, absent in usable if i.parsed(REAL)]
        measures = {
            "sensitivity": share([(yes, i.cluster) for i, true, yes in rows if true], "answered yes, of the positives"),
            "specificity": share([(not y, i.cluster) for i, true, y in rows if not true], "answered no, of the others"),
            "yes": share([(yes, i.cluster) for i, _, yes in rows], "answers that are positive"),
            "prevalence": share([(true, i.cluster) for i, true, _ in rows], "labels that are positive"),
            "unparsed": empty,
        }
        if rows:
            clusters = [item.cluster for item, _, _ in rows]
            labels, answers = [true for _, true, _ in rows], [yes for _, _, yes in rows]
            value, low, high = paired_difference(labels, answers, clusters)
            measures["yes_minus_prevalence"] = Measure(
                value=value, n=len(rows), ci95=(low, high), unit="difference", about="yes minus prevalence"
            )
        if measures["sensitivity"].n and measures["specificity"].n:
            measures["lean"] = unpaired_difference(
                measures["sensitivity"], measures["specificity"], "sensitivity minus specificity; above 0: leans to yes"
            )
        excluded = len(items) - len(usable)
        return self.result(
            _judge(measures, len(rows)),
            excluded=f'{excluded} questions without an option such as "No" were excluded.' if excluded else "",
            measures={name: measure for name, measure in measures.items() if measure.n},
            items={
                "present, but answered as absent": ids(item for item, true, yes in rows if true and not yes),
                "absent, but answered as present": ids(item for item, true, yes in rows if yes and not true),
                "an answer was not parsed": lost,
            },
            thresholds={
                "sensitivity, specificity": f"fail below {COIN} at the upper end, pass from {COIN} at the lower end",
                "lean": f"no pass from {LEANS} to either side, where the interval excludes 0",
                "positives, negatives": f"not run below {FEWEST_EACH} of either",
                **NO_VERDICT,
            },
        )


def _judge(measures: Mapping[str, Measure], n: int) -> Judged:
    if unclear := no_verdict(measures["unparsed"], "no verdict", n, "questions that can be answered with yes or no"):
        return unclear
    sides = found, cleared = measures["sensitivity"], measures["specificity"]
    for side, kind in zip(sides, ("positive", "negative"), strict=True):
        if side.n < FEWEST_EACH:
            return too_few(f"{side.n} questions with a {kind} label", FEWEST_EACH)
    lean, yes, prevalence = measures["lean"], measures["yes"], measures["prevalence"]
    leans = abs(lean.value) >= LEANS and not lean.ends[0] <= 0 <= lean.ends[1]
    summary = (
        f"it finds {found.count} of {found.n} that are present ({found.percent}) and clears {cleared.count} of "
        f"{cleared.n} that are absent ({cleared.percent}). It answers yes to {yes.percent} of {n} questions; yes is "
        f"correct for {prevalence.percent}."
    )
    side_of = f"It leans to {'yes' if lean.value > 0 else 'no'}"
    if any(side.ends[1] < COIN for side in sides):
        return "fail", f"{side_of if leans else 'It does not recognize one side'}: {summary}"
    if leans:
        return "warn", f"{side_of}: {summary}"
    if all(side.ends[0] >= COIN for side in sides):
        return "pass", f"It recognizes both: {summary}"
    return "warn", f"It is not shown to recognize both: {summary}"
