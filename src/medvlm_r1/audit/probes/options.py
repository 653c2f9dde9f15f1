"""Does the order of the options matter? Every question under all cyclic shifts of its options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medvlm_r1.audit.measures import (
    FEWEST,
    MOST_UNPARSED,
    Floats,
    bootstrap,
    cluster,
    cluster_sums,
    in_order,
    share,
    unparsed,
)
from medvlm_r1.audit.probe import Asked, Level, Measure, ProbeResult
from medvlm_r1.audit.variant import REAL, AuditedItem, Variant, VariantAnswer
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

_PERMUTATIONS = 1_999


class OptionsProbe:
    """CircularEval (MMBench, arXiv 2307.06281), flip rate and letter bias (arXiv 2309.03882)."""

    name = "options"
    local = False

    def first(self, asked: Asked) -> Sequence[Variant]:
        """One variant per shift but the first; none where there is only one option."""
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

    def then(self, asked: Asked, real: VariantAnswer) -> Sequence[Variant]:
        """None."""
        return []

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
            "accuracy": share([item.right() for item in whole], clusters, "right as the question stands"),
            "circular_accuracy": share(circular, clusters, "right in every order of the options"),
            "flip_rate": share(
                [value for value, _ in pairs],
                [label for _, label in pairs],
                "answers that name another option once the options are shifted",
            ),
            "any_flip": share(
                [any(flips[item.sample.id]) for item in compared],
                [cluster(item) for item in compared],
                "items on which some order changes the option chosen",
            ),
            **letter_bias(whole),
        }
        measures["unparsed"], empty = unparsed(whole, sorted(set().union(*map(_names, whole))))
        verdict, sentence = _judge(measures)
        if left_out:
            sentence += f" {left_out} items that were not asked in every order were left out."
        return ProbeResult(
            name=self.name,
            verdict=verdict,
            sentence=sentence,
            measures={name: found for name, found in measures.items() if found.n},
            items={
                "the order changes the answer": [item.sample.id for item in whole if any(flips[item.sample.id])],
                "right as it stands, but not in every order": [
                    item.sample.id for item, all_right in zip(whole, circular, strict=True) if item.right() > all_right
                ],
                "an answer could not be read": empty,
            },
            detail=_detail(whole),
            thresholds={
                "flip_rate": f"pass up to {FLIPS_FEW} at the upper end, fail from {FLIPS_MANY} at the lower end",
                "letter_bias": f"fail from {BIAS_LARGE}, warn from {BIAS_SMALL}, where p < {SIGNIFICANT}",
                "items": f"no verdict below {FEWEST}",
                "unparsed": f"no verdict above {MOST_UNPARSED}",
            },
        )


def shift_name(shift: int) -> str:
    """Name of the variant of a shift; that of no shift is the real question."""
    return f"shift-{shift}" if shift else REAL


def shifted(options: tuple[str, ...], shift: int) -> tuple[str, ...]:
    """The options with the first `shift` of them moved to the end."""
    return options[shift:] + options[:shift]


def recalls(items: Sequence[AuditedItem]) -> dict[int, tuple[Floats, list[str]]]:
    """Right or not by the letter the right option stood at, apart by the number of options.

    Every item has its right option at every letter once, so items with more options, which are harder, weigh on all
    letters alike. Items that offer one text twice are left out: their right option stands at two letters.

    Returns:
        By number of options k: (items, k) of 0 and 1, column j for the j-th letter, and the items' clusters.
    """
    found: dict[int, tuple[Floats, list[str]]] = {}
    for size in sorted({len(item.sample.options) for item in items}):
        group = [i for i in items if len(i.sample.options) == size and len(set(i.sample.options)) == size]
        if not group:
            continue
        table = np.zeros((len(group), size))
        for row, item in enumerate(group):
            place = item.sample.options.index(item.sample.answer)
            for shift in range(size):
                table[row, (place - shift) % size] = item.right(shift_name(shift))
        found[size] = table, [cluster(item) for item in group]
    return found


def letter_bias(items: Sequence[AuditedItem]) -> dict[str, Measure]:
    """Standard deviation over letters of recall, the mean over numbers of options by items.

    Luck alone spreads recalls too. How much, is seen by permuting each item's own outcomes over the letters, which
    changes nothing if the letter does not matter: `letter_bias_by_luck` is the mean of what that gives and
    `letter_bias_p` the share of 1,999 permutations at least as large. The interval is a bootstrap's; it holds the luck
    of the sample twice, so it tends upwards and does not reach 0.
    """
    tables = recalls(items)
    if not tables:
        return {}
    n = sum(len(table) for table, _ in tables.values())
    # One row of sums per cluster, with a column for each letter of each number of options and one for their items.
    columns, labels = [], []
    width = sum(size + 1 for size in tables)
    start = 0
    starts = {}
    for size, (table, clusters) in tables.items():
        block = np.zeros((len(table), width))
        block[:, start : start + size] = table
        block[:, start + size] = 1
        columns.append(block)
        labels += clusters
        starts[size] = start
        start += size + 1
    sums = cluster_sums(np.concatenate(columns), labels)

    def statistic(totals: Floats) -> Floats:
        spread, weight = np.zeros(len(totals)), np.zeros(len(totals))
        for size, first in starts.items():
            count = totals[:, first + size]
            # A number of options that a draw has no item of adds nothing: its sums are 0 over 1.
            recall = totals[:, first : first + size] / np.maximum(count, 1)[:, None]
            spread += count * recall.std(axis=1)
            weight += count
        return spread / weight

    seen = float(statistic(sums.sum(axis=0, keepdims=True))[0])
    rng = np.random.default_rng(0)
    lucky = np.zeros(_PERMUTATIONS)
    for table, _ in tables.values():
        for part in np.array_split(lucky, 20):  # views; a part at a time bounds the memory
            copies = np.broadcast_to(table, (len(part), *table.shape))
            part += len(table) * rng.permuted(copies, axis=2).mean(axis=1).std(axis=1) / n
    p = (1 + int(np.count_nonzero(lucky >= seen - 1e-12))) / (_PERMUTATIONS + 1)
    return {
        "letter_bias": Measure(
            value=seen, n=n, ci95=bootstrap(sums, statistic), unit="", about="standard deviation over letters of recall"
        ),
        "letter_bias_by_luck": Measure(
            value=float(lucky.mean()), n=n, unit="", about="what it would be if the letter did not matter"
        ),
        "letter_bias_p": Measure(value=p, n=n, unit="", about="chance of one as large if the letter did not matter"),
    }


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
        return "warn", f"{circular.n} items asked in every order: too few to tell whether the order matters."
    assert flips.ci95 is not None
    low, high = flips.ci95
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
