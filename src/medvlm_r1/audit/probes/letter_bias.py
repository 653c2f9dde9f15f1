"""Letter bias: how much recall depends on the letter the right option stands at (arXiv 2309.03882)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvlm_r1.audit.measures import Floats, bootstrap, cluster, cluster_sums
from medvlm_r1.audit.probe import Measure
from medvlm_r1.audit.variant import REAL, AuditedItem

_PERMUTATIONS = 1_999


def shift_name(shift: int) -> str:
    """Name of the variant of a shift; that of no shift is the real question."""
    return f"shift-{shift}" if shift else REAL


def shifted(options: tuple[str, ...], shift: int) -> tuple[str, ...]:
    """The options with the first `shift` of them moved to the end."""
    return options[shift:] + options[:shift]


def recalls(items: Sequence[AuditedItem]) -> dict[int, tuple[Floats, list[str]]]:
    """Right or not by the letter the right option stood at, apart by the number of options.

    Every item has its right option at every letter once, so items with more options, which are harder, weigh on all
    letters alike.

    Returns:
        By number of options k: (items, k) of 0 and 1, column j for the j-th letter, and the items' clusters.
    """
    found: dict[int, tuple[Floats, list[str]]] = {}
    for size in sorted({len(item.sample.options) for item in items}):
        group = [i for i in items if len(i.sample.options) == size]
        table = np.zeros((len(group), size))
        for row, item in enumerate(group):
            place = item.sample.options.index(item.sample.answer)
            for shift in range(size):
                table[row, (place - shift) % size] = item.right(shift_name(shift))
        found[size] = table, [cluster(item) for item in group]
    return found


def letter_bias(items: Sequence[AuditedItem]) -> dict[str, Measure]:
    """Standard deviation over letters of recall, the mean over numbers of options by items.

    Luck alone spreads recalls too. How much, is seen by permuting each subject's own outcomes over the letters, which
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
    for table, clusters in tables.values():
        # Items of one subject err together: a draw moves the letters of all of them alike.
        whole = cluster_sums(table, clusters)
        for part in np.array_split(lucky, 20):  # views; a part at a time bounds the memory
            copies = np.broadcast_to(whole, (len(part), *whole.shape))
            part += rng.permuted(copies, axis=2).sum(axis=1).std(axis=1) / n
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
