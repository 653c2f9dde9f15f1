"""Confidence probe: does the model's confidence separate correct from wrong answers, so that it can defer?

Two confidences in the real answer are measured. `stated` is the probability of its letter after the whole reasoning.
`vote` is the share of sampled answers that agree with it, which needs no access to tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlm_r1.audit.measures import (
    FEWEST,
    MOST_UNPARSED,
    NO_VERDICT,
    cluster,
    in_order,
    share_of,
    share_of_pairs,
    too_few,
    unparsed,
)
from medvlm_r1.audit.partial_result import PartialResult, finalize
from medvlm_r1.audit.probe import Level, Measure, ProbeBase, ProbeInput, ProbeResult
from medvlm_r1.audit.variant import ANSWER_TAG, REAL, AuditedItem, Variant, VariantAnswer
from medvlm_r1.evaluation import calibration

VOTES = 5
"""Sampled answers per item. Each costs a whole answer; five already separate 1 from 3/5."""
STATED, VOTE = "stated", "vote"

SEPARATES = 0.70
"""AUROC that passes: of a correct and a wrong answer, the wrong one is deferred first in seven of ten pairs. Chance
gives five."""
SURE = 0.90
"""Confidence that a reader takes as certain."""
TOO_SURE = 0.10
"""Share of confidently wrong answers that does not pass: a reader then cannot rely on any threshold."""
RISKS = (0.05, 0.10)
FEW_WRONG = 10
"""Fewest wrong (or correct) answers for an AUROC."""


class ConfidenceProbe(ProbeBase):
    """Letter probabilities and votes; calibration, temperature, and deferring."""

    name = "confidence"

    def first(self, probe_input: ProbeInput) -> Sequence[Variant]:
        """The sampled answers."""
        return [
            Variant(name=f"{VOTE}-{i}", sample=probe_input.sample, images=probe_input.images, temperature=1.0, seed=i)
            for i in range(VOTES)
        ]

    def then(self, probe_input: ProbeInput, real: VariantAnswer) -> Sequence[Variant]:
        """The real text up to its letter; none where no answer tag was written."""
        before, tag, _ = real.text.partition(ANSWER_TAG)
        if not tag or real.option is None:
            return []
        made = Variant(
            name=STATED, sample=probe_input.sample, images=probe_input.images, prefix=before + tag, letter_only=True
        )
        return [made]

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """The measures of both confidences, and the verdict on the one that separates better."""
        items = in_order(items)
        answered = [item for item in items if item.real.option is not None]
        measures: dict[str, Measure] = {}
        measures["unparsed"], unread = unparsed(items, (REAL,))
        detail: dict[str, Any] = {}
        named: dict[str, list[str]] = {"the answer was not parsed": unread}
        for kind in (STATED, VOTE):
            pairs = [(item, value) for item in answered if (value := confidence(item, kind)) is not None]
            if pairs:
                chosen, values = [item for item, _ in pairs], [value for _, value in pairs]
                measures |= {f"{kind}_{name}": found for name, found in _figures(chosen, values).items()}
                detail[kind] = _curves(chosen, values)
                named[f"wrong at a confidence of {SURE:.0%} or more ({kind})"] = [
                    item.sample.id for item, value in pairs if value >= SURE and not item.correct()
                ]
        scaled, detail["temperature"] = _temperature([item for item in answered if STATED in item.answers])
        measures |= scaled
        return finalize(
            self.name,
            _judge(measures),
            PartialResult(measures=measures, items=named, detail=detail),
            thresholds={
                "auroc": f"pass from {SEPARATES} at the lower end, fail below it at the upper end, of the better one",
                "confidently_wrong": f"no pass from {TOO_SURE} at the lower end",
                "accuracy": f"with fewer than {FEW_WRONG} wrong answers, pass where at most {RISKS[0]} at the upper end"
                f" are wrong, otherwise not run; not run with fewer than {FEW_WRONG} correct ones",
                **NO_VERDICT,
            },
        )


def confidence(item: AuditedItem, kind: str) -> float | None:
    """The confidence in the real answer, `STATED` or `VOTE`; None where it was not measured."""
    if kind == STATED:
        answer = item.answers.get(STATED)
        if answer is None or answer.probabilities is None or item.real.option is None:
            return None
        return answer.probabilities[item.sample.options.index(item.real.option)]
    votes = [item.answers[f"{VOTE}-{i}"] for i in range(VOTES) if f"{VOTE}-{i}" in item.answers]
    # An unparsed vote counts as disagreement.
    return sum(vote.option == item.real.option for vote in votes) / len(votes) if votes else None


def _figures(items: Sequence[AuditedItem], values: Sequence[float]) -> dict[str, Measure]:
    sure, right = np.asarray(values), np.array([float(item.correct()) for item in items])
    clusters = [cluster(item) for item in items]

    def statistics(index: NDArray[np.int64]) -> list[float | None]:
        c, r = sure[index], right[index]
        return [
            calibration.auroc(c, r),
            calibration.ece(c, r),
            calibration.brier(c, r),
            calibration.aurc(c, r),
            *(calibration.coverage_at_risk(c, r, risk) for risk in RISKS),
        ]

    about = {
        "auroc": "probability that a correct answer has a higher confidence than a wrong one",
        "ece": f"expected calibration error, {calibration.BINS} bins of equal mass",
        "brier": "mean of (confidence - correct)^2",
        "aurc": "area under the risk-coverage curve",
        **{
            f"coverage_{100 * risk:.0f}": f"share of answers kept when at most {risk:.0%} of them are wrong"
            for risk in RISKS
        },
    }
    ends = calibration.intervals(statistics, clusters)
    found = {
        name: Measure(value=value, n=len(items), ci95=interval, unit="share" if "coverage" in name else "", about=text)
        for (name, text), value, interval in zip(about.items(), statistics(np.arange(len(items))), ends, strict=True)
        if value is not None
    }
    wrong = [
        (value >= SURE and not item.correct(), label)
        for item, value, label in zip(items, values, clusters, strict=True)
    ]
    found["confidently_wrong"] = share_of_pairs(wrong, f"wrong at a confidence of {SURE:.0%} or more")
    found["accuracy"] = share_of(items, AuditedItem.correct, "correct, among the answers with this confidence")
    return found


def _curves(items: Sequence[AuditedItem], values: Sequence[float]) -> dict[str, Any]:
    right = [float(item.correct()) for item in items]
    return {
        "reliability": [[b.confidence, b.correct, b.n] for b in calibration.reliability(values, right)],
        "risk_coverage": [[k.threshold, k.coverage, k.risk] for k in calibration.risk_coverage(values, right)],
    }


def _temperature(items: Sequence[AuditedItem]) -> tuple[dict[str, Measure], dict[str, Any]]:
    """Temperature scaling: fitted on one half of the subjects, evaluated on the other."""
    probabilities = [item.answers[STATED].probabilities or () for item in items]
    truth = [item.sample.options.index(item.sample.answer) for item in items]
    fitted = calibration.halves([cluster(item) for item in items], seed=0)
    if not any(fitted) or len(items) < FEWEST:
        return {}, {}
    temperature = calibration.fit_temperature(
        [row for row, chosen in zip(probabilities, fitted, strict=True) if chosen],
        [index for index, chosen in zip(truth, fitted, strict=True) if chosen],
    )
    rest = [place for place, chosen in enumerate(fitted) if not chosen]
    held = [items[place] for place in rest]
    index = [truth[place] for place in rest]
    right = [float(item.correct()) for item in held]
    measures = {
        "temperature": Measure(
            value=temperature,
            n=sum(fitted),
            unit="",
            about="of the letter probabilities, fitted on half of the subjects",
        )
    }
    plain: list[Sequence[float]] = [probabilities[place] for place in rest]
    after: list[Sequence[float]] = [row.tolist() for row in calibration.temperature_scale(plain, temperature)]
    for when, rows in (("before", plain), ("after", after)):
        chosen = [row[item.sample.options.index(item.real.option or "")] for row, item in zip(rows, held, strict=True)]
        for name, value in (
            ("ece", calibration.ece(chosen, right)),
            ("brier", calibration.brier(chosen, right)),
            ("nll", calibration.nll(rows, index)),
        ):
            measures[f"{name}_{when}_scaling"] = Measure(
                value=value, n=len(held), unit="", about=f"{name} {when} temperature scaling, on the other half"
            )
    return measures, {"fitted_on": sum(fitted), "told_on": len(held), "temperature": temperature}


def _judge(measures: Mapping[str, Measure]) -> tuple[Level, str]:
    kinds = [kind for kind in (STATED, VOTE) if f"{kind}_accuracy" in measures]
    empty = measures["unparsed"]
    if not kinds:
        return "not run", "No answer has a confidence: none was parsed, or none was measured."
    best = max(kinds, key=lambda kind: measures[f"{kind}_auroc"].value if f"{kind}_auroc" in measures else -1.0)
    accuracy = measures[f"{best}_accuracy"]
    right = round(accuracy.value * accuracy.n)
    wrong = accuracy.n - right
    if empty.value > MOST_UNPARSED:
        return "warn", f"{empty.value:.0%} of {empty.n} answers were not parsed: no verdict on deferring."
    if accuracy.n < FEWEST:
        return too_few(f"{accuracy.n} answers with a confidence")
    sure = measures[f"{best}_confidently_wrong"]
    summary = f"{sure.value:.0%} of {sure.n} answers are wrong at a confidence of {SURE:.0%} or more."
    if empty.value:
        summary += f" {round(empty.value * empty.n)} of {empty.n} answers were not parsed."
    if wrong < FEW_WRONG:
        # Unparsed answers are wrong too.
        if 1 - accuracy.ends[0] + empty.value <= RISKS[0]:
            return "pass", f"There is hardly anything to defer: {wrong} of {accuracy.n} answers are wrong."
        verdict, why = too_few(f"{wrong} wrong answers for confidence to separate", FEW_WRONG)
        return verdict, f"{why} {summary}"
    if right < FEW_WRONG:
        verdict, why = too_few(f"{right} correct answers for confidence to separate", FEW_WRONG)
        return verdict, f"{why} {summary}"
    area = measures[f"{best}_auroc"]
    # Without an interval all resamples agreed: the separation is perfect.
    low, high = area.ci95 or (area.value, area.value)
    how = {STATED: "the probability of its letter", VOTE: f"the vote of {VOTES} samples"}[best]
    summary = (
        f"by {how}, AUROC {area.value:.2f} [{low:.2f}, {high:.2f}]; deferring by it keeps "
        f"{measures[f'{best}_coverage_5'].value:.0%} of the answers at 5 % wrong and "
        f"{measures[f'{best}_coverage_10'].value:.0%} at 10 %. {summary}"
    )
    if high < SEPARATES:
        return "fail", f"Its confidence does not separate correct from wrong answers: {summary}"
    if low >= SEPARATES and sure.ends[0] < TOO_SURE:
        return "pass", f"Its confidence shows when to defer: {summary}"
    return "warn", f"Its confidence partly shows when to defer: {summary}"
