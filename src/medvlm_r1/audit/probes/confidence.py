"""Confidence probe: is the model less confident when it is wrong, so that it can defer those answers?

Two confidences in the answer to the original question are measured. `stated` is the probability of the chosen letter
after the whole reasoning. `vote` is the share of sampled answers that choose the same option. Every server can generate
these samples.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlm_r1.audit.measures import (
    FEWEST,
    NO_VERDICT,
    accuracy,
    ids,
    no_verdict,
    share,
    too_few,
    unparsed,
    unparsed_note,
)
from medvlm_r1.audit.probe import Judged, Measure, Probe, ProbeInput, ProbeResult
from medvlm_r1.audit.variant import ANSWER_TAG, REAL, AuditedItem, Variant, VariantAnswer
from medvlm_r1.evaluation import calibration

VOTES = 5
"""Number of sampled answers per item. Each one costs a full generation. Five samples are enough to distinguish a
confidence of 5/5 from 3/5."""
STATED, VOTE = "stated", "vote"

SEPARATES = 0.70
"""Smallest AUROC that passes. At 0.70, the wrong answer has the lower confidence in seven of ten pairs of a correct and
a wrong answer, so it would be deferred first. Chance gives five of ten."""
SURE = 0.90
"""Confidence from which a reader takes an answer as certain."""
TOO_SURE = 0.10
"""Share of answers, wrong at a confidence of `SURE` or more, from which the probe does not pass. No confidence
threshold is then reliable."""
RISKS = (0.05, 0.10)
FEW_WRONG = 10
"""A verdict based on the AUROC needs at least this many wrong answers and this many correct answers."""


class ConfidenceProbe(Probe):
    """Letter probabilities and votes as confidences, their calibration, temperature scaling, and deferral."""

    name = "confidence"
    needs_options = True

    def first(self, probe_input: ProbeInput) -> Sequence[Variant]:
        """Make the variants whose answers are sampled."""
        return [probe_input.variant(f"{VOTE}-{i}", temperature=1.0, seed=i) for i in range(VOTES)]

    def then(self, probe_input: ProbeInput, real: VariantAnswer) -> Sequence[Variant]:
        """Make the variant that scores the letters after the original response, cut after its answer tag.

        There is no variant if the response has no answer tag or no parsed option.
        """
        before, tag, _ = real.text.partition(ANSWER_TAG)
        if not tag or real.option is None:
            return []
        return [probe_input.variant(STATED, prefix=before + tag, letter_only=True)]

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """Compute the measures of both confidences, and the verdict on the one with the higher AUROC."""
        answered = [item for item in items if item.real.option is not None]
        measures: dict[str, Measure] = {}
        measures["unparsed"], empty = unparsed(items, (REAL,))
        detail: dict[str, Any] = {}
        examples: dict[str, list[str]] = {"the answer was not parsed": empty}
        for kind in (STATED, VOTE):
            pairs = [(item, value) for item in answered if (value := confidence(item, kind)) is not None]
            if pairs:
                chosen, values = [item for item, _ in pairs], [value for _, value in pairs]
                measures |= {f"{kind}_{name}": measure for name, measure in _figures(chosen, values).items()}
                right = [item.correct() for item in chosen]
                detail[kind] = {
                    "reliability": calibration.reliability(values, right),
                    "risk_coverage": calibration.risk_coverage(values, right),
                }
                examples[f"wrong at a confidence of {100 * SURE:.0f} % or more ({kind})"] = ids(
                    item for item, value in pairs if value >= SURE and not item.correct()
                )
        scaled, detail["temperature"] = _temperature(
            [item for item in answered if confidence(item, STATED) is not None]
        )
        measures |= scaled
        return self.result(
            _judge(measures),
            measures=measures,
            items=examples,
            detail=detail,
            thresholds={
                "auroc": f"pass from {SEPARATES} at the lower end, fail below it at the upper end, of the better one",
                "confidently_wrong": f"no pass from {TOO_SURE} at the lower end",
                "accuracy": f"with fewer than {FEW_WRONG} wrong answers, pass where at most {RISKS[0]} at the upper end"
                f" are wrong, otherwise not run; not run with fewer than {FEW_WRONG} correct ones",
                **NO_VERDICT,
            },
        )


def confidence(item: AuditedItem, kind: str) -> float | None:
    """The confidence `STATED` or `VOTE` in the answer to the original question; None if it was not measured."""
    if kind == STATED:
        answer = item.answers.get(STATED)
        if answer is None or answer.probabilities is None or item.real.option is None:
            return None
        return answer.probabilities[_index(item, item.real.option)]
    votes = [item.answers[f"{VOTE}-{i}"] for i in range(VOTES) if f"{VOTE}-{i}" in item.answers]
    # An unparsed vote counts as disagreement.
    return sum(vote.option == item.real.option for vote in votes) / len(votes) if votes else None


_METRICS: dict[str, tuple[Callable[..., float | None], str]] = {
    "auroc": (calibration.auroc, "probability that a correct answer has a higher confidence than a wrong one"),
    "ece": (calibration.ece, f"expected calibration error, {calibration.BINS} bins of equal mass"),
    "brier": (calibration.brier, "mean of (confidence - correct)^2"),
    "aurc": (calibration.aurc, "area under the risk-coverage curve"),
    **{
        f"coverage_{100 * risk:.0f}": (
            partial(calibration.coverage_at_risk, risk=risk),
            f"share of answers kept when at most {100 * risk:.0f} % of them are wrong",
        )
        for risk in RISKS
    },
}
"""For each metric, its function of the confidences and the correctness of the answers, and its description."""


def _figures(items: Sequence[AuditedItem], values: Sequence[float]) -> dict[str, Measure]:
    confidences, right = np.asarray(values), np.array([float(item.correct()) for item in items])

    def statistics(index: NDArray[np.int64]) -> list[float | None]:
        return [metric(confidences[index], right[index]) for metric, _ in _METRICS.values()]

    ends = calibration.intervals(statistics, [item.cluster for item in items])
    rows = zip(_METRICS.items(), statistics(np.arange(len(items))), ends, strict=True)
    figures = {
        name: Measure(value=value, n=len(items), ci95=interval, unit="share" if "coverage" in name else "", about=about)
        for (name, (_, about)), value, interval in rows
        if value is not None
    }
    pairs = zip(items, values, strict=True)
    figures["confidently_wrong"] = share(
        [(value >= SURE and not item.correct(), item.cluster) for item, value in pairs],
        f"wrong at a confidence of {100 * SURE:.0f} % or more",
    )
    figures["accuracy"] = accuracy(items, "correct, among the answers with this confidence")
    return figures


def _temperature(items: Sequence[AuditedItem]) -> tuple[dict[str, Measure], dict[str, Any]]:
    """Temperature scaling, fitted on one half of the subjects and evaluated on the other half."""
    halves = calibration.halves([item.cluster for item in items], seed=0)
    if not any(halves) or len(items) < FEWEST:
        return {}, {}
    fit, rest = ([item for item, fitted in zip(items, halves, strict=True) if fitted == half] for half in (True, False))
    temperature = calibration.fit_temperature(*_probabilities(fit))
    about = "of the letter probabilities, fitted on half of the subjects"
    measures = {"temperature": Measure(value=temperature, n=len(fit), unit="", about=about)}
    right, answered = [item.correct() for item in rest], [_index(item, item.real.option) for item in rest]
    before, truth = _probabilities(rest)
    for when, rows in (("before", before), ("after", calibration.temperature_scale(before, temperature))):
        chosen = [row[index] for row, index in zip(rows, answered, strict=True)]
        values = {
            "ece": calibration.ece(chosen, right),
            "brier": calibration.brier(chosen, right),
            "nll": calibration.nll(rows, truth),
        }
        for name, value in values.items():
            about = f"{name} {when} temperature scaling, on the other half"
            measures[f"{name}_{when}_scaling"] = Measure(value=value, n=len(rest), unit="", about=about)
    return measures, {"fitted_on": len(fit), "told_on": len(rest), "temperature": temperature}


def _probabilities(items: Sequence[AuditedItem]) -> tuple[Sequence[Sequence[float]], list[int]]:
    """For each item, the letter probabilities and the index of the correct option."""
    rows = [item.answers[STATED].probabilities or () for item in items]
    return rows, [_index(item, item.sample.answer) for item in items]


def _index(item: AuditedItem, option: str | None) -> int:
    return item.sample.options.index(option or "")


def _judge(measures: Mapping[str, Measure]) -> Judged:
    kinds = [kind for kind in (STATED, VOTE) if f"{kind}_accuracy" in measures]
    empty = measures["unparsed"]
    if not kinds:
        return "not run", "No answer has a confidence: none was parsed, or none was measured."
    best = max(kinds, key=lambda kind: measures[f"{kind}_auroc"].value if f"{kind}_auroc" in measures else -1.0)
    correct, sure = measures[f"{best}_accuracy"], measures[f"{best}_confidently_wrong"]
    right, wrong = correct.count, correct.n - correct.count
    if unclear := no_verdict(empty, "no verdict on deferring", correct.n, "answers with a confidence"):
        return unclear
    summary = f"{sure.percent} of {sure.n} answers are {sure.about}.{unparsed_note(empty)}"
    # Unparsed answers count as wrong.
    if wrong < FEW_WRONG and 1 - correct.ends[0] + empty.value <= RISKS[0]:
        return "pass", f"There is hardly anything to defer: {wrong} of {correct.n} answers are wrong."
    for count, kind in ((wrong, "wrong"), (right, "correct")):
        if count < FEW_WRONG:
            verdict, reason = too_few(f"{count} {kind} answers for confidence to separate", FEW_WRONG)
            return verdict, f"{reason} {summary}"
    area = measures[f"{best}_auroc"]
    # There is no interval if all resamples agree, that is, if the separation is perfect.
    low, high = area.ci95 or (area.value, area.value)
    how = {STATED: "the probability of its letter", VOTE: f"the vote of {VOTES} samples"}[best]
    kept = [
        f"{measures[f'{best}_coverage_{100 * risk:.0f}'].percent} of the answers with {100 * risk:.0f} % wrong"
        for risk in RISKS
    ]
    summary = (
        f"by {how}, a correct answer ranks above a wrong one in {area.percent} ({100 * low:.0f} to {100 * high:.0f}) of"
        f" the pairs. Deferring the least confident keeps {' and '.join(kept)}. {summary}"
    )
    if high < SEPARATES:
        return "fail", f"Its confidence does not separate correct from wrong answers: {summary}"
    if low >= SEPARATES and sure.ends[0] < TOO_SURE:
        return "pass", f"Its confidence shows when to defer: {summary}"
    return "warn", f"Its confidence partly shows when to defer: {summary}"
