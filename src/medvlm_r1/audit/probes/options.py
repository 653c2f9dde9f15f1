"""Options probe: does the order of the options matter? Each question under all cyclic shifts of its options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medvlm_r1.audit.measures import (
    FEWEST,
    NO_VERDICT,
    accuracy,
    ids,
    in_order,
    share,
    share_of,
    too_few,
    too_unparsed,
    unparsed,
    unparsed_note,
)
from medvlm_r1.audit.probe import Judged, Measure, Probe, ProbeInput, ProbeResult
from medvlm_r1.audit.probes.letter_bias import letter_bias, recalls, shift_name, shifted
from medvlm_r1.audit.variant import AuditedItem, Variant
from medvlm_r1.data.sample import LETTERS

FLIPS_FEW = 0.10
"""Largest flip rate that passes, at the interval's upper end. No reordering then moves an accuracy by more than about
the width of its interval at 300 items (11 points)."""
FLIPS_MANY = 0.25
"""Flip rate that fails, at the interval's lower end. A guesser flips a half (two options) to three quarters (four) of
its answers, so at a quarter, a third to a half of the answers are no better than guesses."""
BIAS_SMALL, BIAS_LARGE = 0.05, 0.20
"""Letter bias that warns and that fails, where it is significant. Always the same letter gives 0.43 for four options
and 0.50 for two, so 0.20 is near half of the worst. 0.05 is a recall some 12 points higher at one letter of four."""
SIGNIFICANT = 0.01
"""Significance level of the letter bias. Every audit tests it, so 0.05 would give too many false alarms."""


class OptionsProbe(Probe):
    """CircularEval (MMBench, arXiv 2307.06281), flip rate and letter bias (arXiv 2309.03882)."""

    name = "options"

    def first(self, probe_input: ProbeInput) -> Sequence[Variant]:
        """One variant per shift except 0; none for an open question."""
        options = probe_input.sample.options
        return [
            probe_input.variant(
                shift_name(shift),
                sample=replace(probe_input.sample, options=shifted(options, shift)),
                note={"shift": shift},
            )
            for shift in range(1, len(options))
        ]

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """The measures and the verdict "order". Items without an answer for every order are excluded and counted."""
        whole = in_order([item for item in items if len(item.sample.options) > 1 and _names(item) <= set(item.answers)])
        if not whole:
            return self.result(("not run", "No item has an answer for every order."))
        flips = {item.sample.id: _flips(item) for item in whole}
        measures = {
            "accuracy": accuracy(whole, "correct with the options as they are"),
            "circular_accuracy": share_of(whole, _correct_in_every_order, "correct in every order of the options"),
            "flip_rate": share(
                [(flip, item.cluster) for item in whole for flip in flips[item.sample.id]],
                "answers that name another option once the options are shifted",
            ),
            "any_flip": share_of(
                [item for item in whole if flips[item.sample.id]],
                lambda item: any(flips[item.sample.id]),
                "items on which some order changes the option chosen",
            ),
            **letter_bias(whole),
        }
        measures["unparsed"], empty = unparsed(whole, sorted(set().union(*map(_names, whole))))
        excluded = len(items) - len(whole)
        return self.result(
            _judge(measures),
            excluded=f"{excluded} items without an answer for every order were excluded." if excluded else "",
            measures={name: measure for name, measure in measures.items() if measure.n},
            items={
                "the order changes the answer": ids(item for item in whole if any(flips[item.sample.id])),
                "correct as it is, but not in every order": ids(
                    item for item in whole if item.correct() and not _correct_in_every_order(item)
                ),
                "an answer was not parsed": empty,
            },
            detail=_detail(whole),
            thresholds={
                "flip_rate": f"pass up to {FLIPS_FEW} at the upper end, fail from {FLIPS_MANY} at the lower end",
                "letter_bias": f"fail from {BIAS_LARGE}, warn from {BIAS_SMALL}, where p < {SIGNIFICANT}",
                **NO_VERDICT,
            },
        )


def _names(item: AuditedItem) -> set[str]:
    return {shift_name(shift) for shift in range(len(item.sample.options))}


def _correct_in_every_order(item: AuditedItem) -> bool:
    return all(item.correct(name) for name in _names(item))


def _flips(item: AuditedItem) -> list[bool]:
    """Per shift whether the option's text changed, where both answers were parsed."""
    if item.real.letter is None:
        return []
    answers = [item.parsed(shift_name(shift)) for shift in range(1, len(item.sample.options))]
    return [answer.option != item.real.option for answer in answers if answer]


def _detail(items: Sequence[AuditedItem]) -> Mapping[str, Any]:
    chosen: dict[int, Counter[str]] = {}
    for item in items:
        counts = chosen.setdefault(len(item.sample.options), Counter())
        counts.update(item.answers[name].letter or "not read" for name in _names(item))
    return {
        "recall_by_letter": {
            str(size): dict(zip(LETTERS, table.mean(axis=0).tolist(), strict=False))
            for size, (table, _) in recalls(items).items()
        },
        "letters_chosen": {str(size): dict(sorted(counts.items())) for size, counts in sorted(chosen.items())},
    }


def _judge(measures: Mapping[str, Measure]) -> Judged:
    flips, circular, bias = measures["flip_rate"], measures["circular_accuracy"], measures["letter_bias"].value
    if no_verdict := too_unparsed(measures["unparsed"], "no verdict on the order"):
        return no_verdict
    if circular.n < FEWEST:
        return too_few(f"{circular.n} items with an answer for every order")
    low, high = flips.ends
    beyond = measures["letter_bias_p"].value < SIGNIFICANT
    summary = (
        f"{flips.value:.0%} {flips.interval()} of the answers change with the order of the options; "
        f"{measures['accuracy'].value:.0%} are correct as asked, {circular.value:.0%} in every order."
    )
    if beyond and bias >= BIAS_SMALL:
        summary += f" Recall depends on the letter (standard deviation {bias:.2f})."
    summary += unparsed_note(measures["unparsed"])
    if low >= FLIPS_MANY or (beyond and bias >= BIAS_LARGE):
        return "fail", f"The order matters: {summary}"
    if high <= FLIPS_FEW and not (beyond and bias >= BIAS_SMALL):
        return "pass", f"The order does not matter: {summary}"
    return "warn", f"The order matters somewhat: {summary}"
