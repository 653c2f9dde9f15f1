"""When should it defer? Whether the model's confidence tells its right answers from its wrong ones.

Two confidences in the real answer: `stated`, the probability of its letter where the letter is written, after the whole
reasoning; and `vote`, the share of sampled answers that agree with it. The second needs no access to tokens.
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
from medvlm_r1.audit.partial_result import Part, concluded
from medvlm_r1.audit.probe import Asked, AsksNothing, Level, Measure, ProbeResult
from medvlm_r1.audit.variant import ANSWER_TAG, REAL, AuditedItem, Variant, VariantAnswer
from medvlm_r1.evaluation import calibration

VOTES = 5
"""Sampled answers per item; each costs a whole answer, and the spread of five already tells 1 from 3/5."""
STATED, VOTE = "stated", "vote"

SEPARATES = 0.70
"""AUROC from which deferring by confidence is worth it: of a right and a wrong answer the wrong one is deferred first
in seven of ten pairs, where drawing lots gives five."""
SURE = 0.90
"""Confidence that a reader takes for certain."""
TOO_SURE = 0.10
"""Share of answers that are wrong and certain from which no threshold can be left to the reader."""
RISKS = (0.05, 0.10)
FEW_WRONG = 10
"""Wrong (or right) answers below which an AUROC is luck."""


class ConfidenceProbe(AsksNothing):
    """Letter probabilities and votes; calibration, temperature, and deferring."""

    name = "confidence"

    def first(self, asked: Asked) -> Sequence[Variant]:
        """The sampled answers."""
        return [
            Variant(name=f"{VOTE}-{i}", sample=asked.sample, images=asked.images, temperature=1.0, seed=i)
            for i in range(VOTES)
        ]

    def then(self, asked: Asked, real: VariantAnswer) -> Sequence[Variant]:
        """The real text up to its letter; nothing where no answer tag was written."""
        before, tag, _ = real.text.partition(ANSWER_TAG)
        if not tag or real.option is None:
            return []
        made = Variant(name=STATED, sample=asked.sample, images=asked.images, prefix=before + tag, letter_only=True)
        return [made]

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """Figures of both confidences, and the verdict on the one that separates better."""
        items = in_order(items)
        answered = [item for item in items if item.real.option is not None]
        measures: dict[str, Measure] = {}
        measures["unparsed"], unread = unparsed(items, (REAL,))
        detail: dict[str, Any] = {}
        named: dict[str, list[str]] = {"the answer could not be read": unread}
        for kind in (STATED, VOTE):
            pairs = [(item, value) for item in answered if (value := confidence(item, kind)) is not None]
            if pairs:
                chosen, values = [item for item, _ in pairs], [value for _, value in pairs]
                measures |= {f"{kind}_{name}": found for name, found in _figures(chosen, values).items()}
                detail[kind] = _curves(chosen, values)
                named[f"wrong at a confidence of {SURE:.0%} or more ({kind})"] = [
                    item.sample.id for item, value in pairs if value >= SURE and not item.right()
                ]
        scaled, detail["temperature"] = _temperature([item for item in answered if STATED in item.answers])
        measures |= scaled
        return concluded(
            self.name,
            _judge(measures),
            Part(measures=measures, items=named, detail=detail),
            thresholds={
                "auroc": f"pass from {SEPARATES} at the lower end, fail below it at the upper end, of the better one",
                "confidently_wrong": f"no pass from {TOO_SURE} at the lower end",
                "accuracy": f"with fewer than {FEW_WRONG} wrong answers, pass where at most {RISKS[0]} at the upper end"
                f" are wrong, otherwise not run; not run with fewer than {FEW_WRONG} right ones",
                **NO_VERDICT,
            },
        )


def confidence(item: AuditedItem, kind: str) -> float | None:
    """The confidence in the real answer, `STATED` or `VOTE`; None where it was not asked for."""
    if kind == STATED:
        answer = item.answers.get(STATED)
        if answer is None or answer.probabilities is None or item.real.option is None:
            return None
        return answer.probabilities[item.sample.options.index(item.real.option)]
    votes = [item.answers[f"{VOTE}-{i}"] for i in range(VOTES) if f"{VOTE}-{i}" in item.answers]
    # A vote that cannot be read is one that does not agree.
    return sum(vote.option == item.real.option for vote in votes) / len(votes) if votes else None


def _figures(items: Sequence[AuditedItem], values: Sequence[float]) -> dict[str, Measure]:
    sure, right = np.asarray(values), np.array([float(item.right()) for item in items])
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
        "auroc": "chance that a right answer has more confidence than a wrong one",
        "ece": f"expected calibration error, {calibration.BINS} bins of equal mass",
        "brier": "mean of (confidence - right)^2",
        "aurc": "area under the risk-coverage curve",
        **{f"coverage_{100 * risk:.0f}": f"answers kept when at most {risk:.0%} of them are wrong" for risk in RISKS},
    }
    ends = calibration.intervals(statistics, clusters)
    found = {
        name: Measure(value=value, n=len(items), ci95=interval, unit="share" if "coverage" in name else "", about=text)
        for (name, text), value, interval in zip(about.items(), statistics(np.arange(len(items))), ends, strict=True)
        if value is not None
    }
    wrong = [
        (value >= SURE and not item.right(), label) for item, value, label in zip(items, values, clusters, strict=True)
    ]
    found["confidently_wrong"] = share_of_pairs(wrong, f"wrong at a confidence of {SURE:.0%} or more")
    found["accuracy"] = share_of(items, AuditedItem.right, "right, of those with this confidence")
    return found


def _curves(items: Sequence[AuditedItem], values: Sequence[float]) -> dict[str, Any]:
    right = [float(item.right()) for item in items]
    return {
        "reliability": [[b.confidence, b.right, b.n] for b in calibration.reliability(values, right)],
        "risk_coverage": [[k.threshold, k.coverage, k.risk] for k in calibration.risk_coverage(values, right)],
    }


def _temperature(items: Sequence[AuditedItem]) -> tuple[dict[str, Measure], dict[str, Any]]:
    """Temperature scaling: fitted on one half of the subjects, told on the other."""
    probabilities = [item.answers[STATED].probabilities or () for item in items]
    truth = [item.sample.options.index(item.sample.answer) for item in items]
    fit = calibration.halves([cluster(item) for item in items], seed=0)
    if not any(fit) or len(items) < FEWEST:
        return {}, {}
    temperature = calibration.fit_temperature(
        [row for row, chosen in zip(probabilities, fit, strict=True) if chosen],
        [index for index, chosen in zip(truth, fit, strict=True) if chosen],
    )
    rest = [place for place, chosen in enumerate(fit) if not chosen]
    held = [items[place] for place in rest]
    index = [truth[place] for place in rest]
    right = [float(item.right()) for item in held]
    measures = {
        "temperature": Measure(
            value=temperature, n=sum(fit), unit="", about="of the letter probabilities, fitted on half of the subjects"
        )
    }
    plain: list[Sequence[float]] = [probabilities[place] for place in rest]
    after: list[Sequence[float]] = [row.tolist() for row in calibration.tempered(plain, temperature)]
    for when, rows in (("before", plain), ("after", after)):
        chosen = [row[item.sample.options.index(item.real.option or "")] for row, item in zip(rows, held, strict=True)]
        for name, value in (
            ("ece", calibration.ece(chosen, right)),
            ("brier", calibration.brier(chosen, right)),
            ("nll", calibration.likelihood_loss(rows, index)),
        ):
            measures[f"{name}_{when}_scaling"] = Measure(
                value=value, n=len(held), unit="", about=f"{name} {when} temperature scaling, on the other half"
            )
    return measures, {"fitted_on": sum(fit), "told_on": len(held), "temperature": temperature}


def _judge(measures: Mapping[str, Measure]) -> tuple[Level, str]:
    kinds = [kind for kind in (STATED, VOTE) if f"{kind}_accuracy" in measures]
    empty = measures["unparsed"]
    if not kinds:
        return "not run", "No answer has a confidence: none could be read, or none was asked for."
    best = max(kinds, key=lambda kind: measures[f"{kind}_auroc"].value if f"{kind}_auroc" in measures else -1.0)
    accuracy = measures[f"{best}_accuracy"]
    right = round(accuracy.value * accuracy.n)
    wrong = accuracy.n - right
    if empty.value > MOST_UNPARSED:
        return "warn", f"{empty.value:.0%} of {empty.n} answers could not be read: no verdict on deferring."
    if accuracy.n < FEWEST:
        return too_few(f"{accuracy.n} answers with a confidence")
    sure = measures[f"{best}_confidently_wrong"]
    told = f"{sure.value:.0%} of {sure.n} answers are wrong at a confidence of {SURE:.0%} or more."
    if empty.value:
        told += f" {round(empty.value * empty.n)} of {empty.n} answers could not be read."
    if wrong < FEW_WRONG:
        # What could not be read is wrong too.
        if 1 - accuracy.ends[0] + empty.value <= RISKS[0]:
            return "pass", f"There is hardly anything to defer: {wrong} of {accuracy.n} answers are wrong."
        verdict, why = too_few(f"{wrong} wrong answers for confidence to find", FEW_WRONG)
        return verdict, f"{why} {told}"
    if right < FEW_WRONG:
        verdict, why = too_few(f"{right} right answers for confidence to find", FEW_WRONG)
        return verdict, f"{why} {told}"
    area = measures[f"{best}_auroc"]
    # All resamples of ten or more right and ten or more wrong answers agree only where the separation is perfect.
    low, high = area.ci95 or (area.value, area.value)
    how = {STATED: "the probability of its letter", VOTE: f"the vote of {VOTES} samples"}[best]
    told = (
        f"by {how}, AUROC {area.value:.2f} [{low:.2f}, {high:.2f}]; deferring by it keeps "
        f"{measures[f'{best}_coverage_5'].value:.0%} of the answers at 5 % wrong and "
        f"{measures[f'{best}_coverage_10'].value:.0%} at 10 %. {told}"
    )
    if high < SEPARATES:
        return "fail", f"Its confidence does not tell right from wrong: {told}"
    if low >= SEPARATES and sure.ends[0] < TOO_SURE:
        return "pass", f"Its confidence tells when to defer: {told}"
    return "warn", f"Its confidence tells somewhat when to defer: {told}"
