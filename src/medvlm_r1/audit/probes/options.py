"""Does the order of the options matter? Every question under all cyclic shifts of its options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medvlm_r1.audit.measures import (
    FEWEST,
    MOST_UNPARSED,
    NO_VERDICT,
    cluster,
    in_order,
    share,
    share_of,
    share_of_pairs,
    too_few,
    unparsed,
)
from medvlm_r1.audit.partial_result import Part, concluded
from medvlm_r1.audit.probe import Asked, AsksNothing, Level, Measure, ProbeResult
from medvlm_r1.audit.probes.letter_bias import letter_bias, recalls, shift_name, shifted
from medvlm_r1.audit.variant import AuditedItem, Variant
from medvlm_r1.data.sample import LETTERS

FLIPS_FEW = 0.10
"""Flip rate up to which the order does not matter, at the interval's upper end: no reordering can then move an accuracy
by more than about the width of its own interval at 300 items (11 points)."""
FLIPS_MANY = 0.25
"""Flip rate from which it does, at the lower end. A guesser changes a half (two options) to three quarters (four) of
its answers, so at a quarter a third to a half of the answers are no better."""
BIAS_SMALL, BIAS_LARGE = 0.05, 0.20
"""Letter bias that warns and that fails, where beyond chance. Always the same letter is 0.43 of four, 0.50 of two,
so 0.20 is near half of the worst; 0.05 is a recall some 12 points higher at one letter of four than at the others."""
SIGNIFICANT = 0.01
"""The p value under which a letter bias is beyond chance: it is looked at in every audit, so one in twenty would be
too many false alarms."""


class OptionsProbe(AsksNothing):
    """CircularEval (MMBench, arXiv 2307.06281), flip rate and letter bias (arXiv 2309.03882)."""

    name = "options"

    def first(self, asked: Asked) -> Sequence[Variant]:
        """One variant per shift but the first; none for an open question."""
        options = asked.sample.options
        return [
            Variant(
                name=shift_name(shift),
                sample=replace(asked.sample, options=shifted(options, shift)),
                images=asked.images,
                note={"shift": shift},
            )
            for shift in range(1, len(options))
        ]

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """The measures and the verdict on "order"; items not asked in every order are left out and counted."""
        whole = in_order([item for item in items if len(item.sample.options) > 1 and _names(item) <= set(item.answers)])
        left_out = len(items) - len(whole)
        if not whole:
            return ProbeResult(name=self.name, verdict="not run", sentence="No item was asked in every order.")
        clusters = [cluster(item) for item in whole]
        circular = [all(item.right(name) for name in _names(item)) for item in whole]
        flips = {item.sample.id: _flips(item) for item in whole}
        pairs = [(value, cluster(item)) for item in whole for value in flips[item.sample.id]]
        compared = [item for item in whole if flips[item.sample.id]]
        measures = {
            "accuracy": share_of(whole, AuditedItem.right, "right as the question stands"),
            "circular_accuracy": share(circular, clusters, "right in every order of the options"),
            "flip_rate": share_of_pairs(pairs, "answers that name another option once the options are shifted"),
            "any_flip": share_of(
                compared,
                lambda item: any(flips[item.sample.id]),
                "items on which some order changes the option chosen",
            ),
            **letter_bias(whole),
        }
        measures["unparsed"], empty = unparsed(whole, sorted(set().union(*map(_names, whole))))
        found = Part(
            measures={name: one for name, one in measures.items() if one.n},
            items={
                "the order changes the answer": [item.sample.id for item in whole if any(flips[item.sample.id])],
                "right as it stands, but not in every order": [
                    item.sample.id for item, all_right in zip(whole, circular, strict=True) if item.right() > all_right
                ],
                "an answer could not be read": empty,
            },
            detail=_detail(whole),
        )
        return concluded(
            self.name,
            _judge(measures),
            found,
            thresholds={
                "flip_rate": f"pass up to {FLIPS_FEW} at the upper end, fail from {FLIPS_MANY} at the lower end",
                "letter_bias": f"fail from {BIAS_LARGE}, warn from {BIAS_SMALL}, where p < {SIGNIFICANT}",
                **NO_VERDICT,
            },
            left_out=f"{left_out} items that were not asked in every order were left out." if left_out else "",
        )


def _names(item: AuditedItem) -> set[str]:
    return {shift_name(shift) for shift in range(len(item.sample.options))}


def _flips(item: AuditedItem) -> list[bool]:
    """Per shift whether the option's text changed, where both answers could be read."""
    if item.real.letter is None:
        return []
    answers = [item.answers[shift_name(shift)] for shift in range(1, len(item.sample.options))]
    return [answer.option != item.real.option for answer in answers if answer.letter is not None]


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


def _judge(measures: Mapping[str, Measure]) -> tuple[Level, str]:
    empty, flips, circular = measures["unparsed"], measures["flip_rate"], measures["circular_accuracy"]
    if empty.value > MOST_UNPARSED:
        return "warn", f"{empty.value:.0%} of {empty.n} answers could not be read: no verdict on the order."
    if circular.n < FEWEST:
        return too_few(f"{circular.n} items asked in every order")
    low, high = flips.ends
    bias = measures["letter_bias"].value if "letter_bias" in measures else 0.0
    beyond = "letter_bias_p" in measures and measures["letter_bias_p"].value < SIGNIFICANT
    told = (
        f"{flips.value:.0%} [{low:.0%}, {high:.0%}] of the answers change with the order of the options; "
        f"{measures['accuracy'].value:.0%} are right as asked, {circular.value:.0%} in every order."
    )
    if beyond and bias >= BIAS_SMALL:
        told += f" Recall depends on the letter (standard deviation {bias:.2f})."
    if empty.value:
        told += f" {round(empty.value * empty.n)} of {empty.n} answers could not be read."
    if low >= FLIPS_MANY or (beyond and bias >= BIAS_LARGE):
        return "fail", f"The order matters: {told}"
    if high <= FLIPS_FEW and not (beyond and bias >= BIAS_SMALL):
        return "pass", f"The order does not matter: {told}"
    return "warn", f"The order matters somewhat: {told}"
