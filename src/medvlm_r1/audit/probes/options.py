"""Options probe: does the order of the options matter?

Each question is repeated with all cyclic shifts of its options.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medvlm_r1.audit.measures import NO_VERDICT, accuracy, ids, no_verdict, share, share_of, unparsed, unparsed_note
from medvlm_r1.audit.probe import Judged, Measure, Probe, ProbeInput, ProbeResult
from medvlm_r1.audit.variant import REAL, AuditedItem, Variant
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.evaluation.calibration import intervals
from medvlm_r1.evaluation.statistics import cluster_numbers

Floats = NDArray[np.float64]

FLIPS_FEW = 0.10
"""Largest flip rate that passes, compared with the upper end of its interval. The flip rate is the share of answers
that name another option once the options are shifted. At this limit, reordering moves an accuracy by no more than about
the width of its interval at 300 items (11 points)."""
FLIPS_MANY = 0.25
"""Flip rate that fails, compared with the lower end of its interval. A guesser flips one half (two options) to three
quarters (four options) of its answers. At a flip rate of one quarter, a third to a half of the answers are therefore no
better than guesses."""
BIAS_SMALL, BIAS_LARGE = 0.05, 0.20
"""Letter bias from which the probe warns, and letter bias from which it fails, if the bias is significant. A model that
always chooses the same letter has a bias of 0.43 with four options and 0.50 with two, so 0.20 is nearly half of the
worst case. A bias of 0.05 corresponds to a recall about 12 points higher at one letter of four."""
SIGNIFICANT = 0.01
"""Significance level of the letter bias. Every audit tests it, so 0.05 would give too many false alarms."""
_PERMUTATIONS = 1_999
_DRAWS = 4_000
"""Number of bootstrap resamples. The ends of an interval then vary by about 0.04 standard errors between seeds."""


def shift_name(shift: int) -> str:
    """Name of the variant whose options are shifted by `shift`. Shift 0 is the original question."""
    return f"shift-{shift}" if shift else REAL


def shifted(options: tuple[str, ...], shift: int) -> tuple[str, ...]:
    """Move the first `shift` options to the end."""
    return options[shift:] + options[:shift]


class OptionsProbe(Probe):
    """CircularEval (MMBench, arXiv 2307.06281), flip rate and letter bias (arXiv 2309.03882)."""

    name = "options"
    needs_options = True

    def first(self, probe_input: ProbeInput) -> Sequence[Variant]:
        """Make one variant for each shift except 0; none for an open question."""
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
        """Compute the measures and the verdict "order".

        Items with a missing answer for at least one order are excluded and counted.
        """
        whole = [item for item in items if len(item.sample.options) > 1 and _names(item) <= set(item.answers)]
        if not whole:
            return self.result(("not run", "No item has an answer for every order."))
        flips = {item.sample.id: _flips(item) for item in whole}
        tables = recalls(whole)
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
            **letter_bias(tables),
        }
        measures["unparsed"], empty = unparsed(whole, sorted(set().union(*map(_names, whole))))
        chosen: dict[int, Counter[str]] = {size: Counter() for size in tables}
        for item in whole:
            chosen[len(item.sample.options)].update(item.answers[name].letter or "not read" for name in _names(item))
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
            detail={
                "recall_by_letter": {
                    str(size): dict(zip(LETTERS, table.mean(axis=0).tolist(), strict=False))
                    for size, (table, _) in tables.items()
                },
                "letters_chosen": {str(size): dict(sorted(counts.items())) for size, counts in chosen.items()},
            },
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
    """For each shift with a parsed answer, whether the chosen option differs from the original answer.

    The list is empty if the original answer was not parsed.
    """
    if item.real.letter is None:
        return []
    answers = [item.parsed(shift_name(shift)) for shift in range(1, len(item.sample.options))]
    return [answer.option != item.real.option for answer in answers if answer]


def _judge(measures: Mapping[str, Measure]) -> Judged:
    flips, circular, bias = measures["flip_rate"], measures["circular_accuracy"], measures["letter_bias"].value
    counted = "items with an answer for every order"
    if unclear := no_verdict(measures["unparsed"], "no verdict on the order", circular.n, counted):
        return unclear
    low, high = flips.ends
    beyond = measures["letter_bias_p"].value < SIGNIFICANT
    summary = (
        f"{flips.span} of the answers change with the order of the options; "
        f"{measures['accuracy'].percent} are correct as asked, {circular.percent} in every order."
    )
    if beyond and bias >= BIAS_SMALL:
        summary += " It is more often correct at some letters than at others."
    summary += unparsed_note(measures["unparsed"])
    if low >= FLIPS_MANY or (beyond and bias >= BIAS_LARGE):
        return "fail", f"The order matters: {summary}"
    if high <= FLIPS_FEW and not (beyond and bias >= BIAS_SMALL):
        return "pass", f"The order does not matter: {summary}"
    return "warn", f"The order matters somewhat: {summary}"


def recalls(items: Sequence[AuditedItem]) -> dict[int, tuple[Floats, list[str]]]:
    """Correctness by the letter of the correct option, separately for each number of options.

    Over the shifts of an item, its correct option has every letter exactly once. The difficulty of an item therefore
    affects all letters equally.

    Returns:
        For each number of options k, a table of shape (items, k) and the items' clusters. Column j is 1 where the
        answer was correct with the correct option at the j-th letter, otherwise 0.
    """
    tables: dict[int, tuple[Floats, list[str]]] = {}
    for size in sorted({len(item.sample.options) for item in items}):
        group = [item for item in items if len(item.sample.options) == size]
        table = np.zeros((len(group), size))
        for row, item in enumerate(group):
            index = item.sample.options.index(item.sample.answer)
            for shift in range(size):
                table[row, (index - shift) % size] = item.correct(shift_name(shift))
        tables[size] = table, [item.cluster for item in group]
    return tables


def letter_bias(tables: Mapping[int, tuple[Floats, list[str]]]) -> dict[str, Measure]:
    """Standard deviation of recall over letters, averaged over the numbers of options, weighted by items.

    Recall also varies over letters by chance. To measure this variation, each subject's outcomes are permuted over the
    letters, which makes no systematic difference if the letter does not matter. `letter_bias_by_luck` is the mean over
    1,999 permutations. `letter_bias_p` is the share of permutations with a bias at least as large as the observed one.
    The bootstrap interval includes the chance variation twice, so it is biased upward and does not reach 0.

    Args:
        tables: The return value of `recalls`.
    """
    clusters = [label for _, labels in tables.values() for label in labels]
    n = len(clusters)

    def spread(index: NDArray[np.int64]) -> list[float]:
        # The standard deviation of recall times n_k / n is the standard deviation of the number of hits divided by n.
        total, start = 0.0, 0
        for table, _ in tables.values():
            rows = index[(index >= start) & (index < start + len(table))] - start
            total += float(table[rows].sum(axis=0).std())
            start += len(table)
        return [total / len(index)]

    [value], [interval] = spread(np.arange(n)), intervals(spread, clusters, resamples=_DRAWS)
    rng = np.random.default_rng(0)
    lucky = np.zeros(_PERMUTATIONS)
    for table, labels in tables.values():
        # Items of one subject are not independent, so a draw applies the same permutation to all of them.
        numbers = cluster_numbers(labels)
        whole = np.array([table[numbers == number].sum(axis=0) for number in range(numbers.max() + 1)])
        for block in np.array_split(lucky, 20):  # views; one block at a time bounds the memory
            copies = np.broadcast_to(whole, (len(block), *whole.shape))
            block += rng.permuted(copies, axis=2).sum(axis=1).std(axis=1) / n
    p = (1 + int(np.count_nonzero(lucky >= value - 1e-12))) / (_PERMUTATIONS + 1)
    figures: tuple[tuple[str, float, tuple[float, float] | None, str], ...] = (
        ("letter_bias", value, interval, "standard deviation of recall over letters"),
        ("letter_bias_by_luck", float(lucky.mean()), None, "what it would be if the letter did not matter"),
        ("letter_bias_p", p, None, "probability of one as large if the letter did not matter"),
    )
    return {name: Measure(value=number, n=n, ci95=ci95, unit="", about=about) for name, number, ci95, about in figures}
