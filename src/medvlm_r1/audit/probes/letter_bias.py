"""Letter bias: how much recall depends on the letter of the correct option (arXiv 2309.03882)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvlm_r1.audit.measures import Floats, bootstrap, cluster_sums
from medvlm_r1.audit.probe import Measure
from medvlm_r1.audit.variant import REAL, AuditedItem

_PERMUTATIONS = 1_999


def shift_name(shift: int) -> str:
    """Name of the variant of a shift. Shift 0 is the real question."""
    return f"shift-{shift}" if shift else REAL


def shifted(options: tuple[str, ...], shift: int) -> tuple[str, ...]:
    """The options with the first `shift` of them moved to the end."""
    return options[shift:] + options[:shift]


def recalls(items: Sequence[AuditedItem]) -> dict[int, tuple[Floats, list[str]]]:
    """Correctness by the letter of the correct option, separately for each number of options.

    Every item has its correct option at every letter once. Items with more options, which are harder, therefore count
    equally for all letters.

    Returns:
        By number of options k: (items, k) of 0 and 1, column j for the j-th letter, and the items' clusters.
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


def letter_bias(items: Sequence[AuditedItem]) -> dict[str, Measure]:
    """Standard deviation of recall over letters, averaged over the numbers of options, weighted by items.

    Recalls differ by chance too. Permuting each subject's outcomes over the letters shows by how much, because that
    changes nothing if the letter does not matter. `letter_bias_by_luck` is the mean over 1,999 permutations, and
    `letter_bias_p` the share of them at least as large. The interval is a bootstrap's. It contains the chance variation
    twice, so it is biased upwards and does not reach 0.
    """
    tables = recalls(items)
    n = len(items)
    # One row of sums per cluster: a column per letter of each number of options, and one for the number of items.
    width = sum(size + 1 for size in tables)
    blocks, labels, starts, start = [], [], {}, 0
    for size, (table, clusters) in tables.items():
        block = np.zeros((len(table), width))
        block[:, start : start + size] = table
        block[:, start + size] = 1
        blocks.append(block)
        labels += clusters
        starts[size] = start
        start += size + 1
    sums = cluster_sums(np.concatenate(blocks), labels)

    def statistic(totals: Floats) -> Floats:
        spread, weight = np.zeros(len(totals)), np.zeros(len(totals))
        for size, first in starts.items():
            count = totals[:, first + size]
            # A draw without items of some number of options adds 0 for it.
            recall = totals[:, first : first + size] / np.maximum(count, 1)[:, None]
            spread += count * recall.std(axis=1)
            weight += count
        return spread / weight

    seen = float(statistic(sums.sum(axis=0, keepdims=True))[0])
    rng = np.random.default_rng(0)
    lucky = np.zeros(_PERMUTATIONS)
    for table, clusters in tables.values():
        # Items of one subject are not independent: a draw permutes all of them alike.
        whole = cluster_sums(table, clusters)
        for block in np.array_split(lucky, 20):  # views; one block at a time bounds the memory
            copies = np.broadcast_to(whole, (len(block), *whole.shape))
            block += rng.permuted(copies, axis=2).sum(axis=1).std(axis=1) / n
    p = (1 + int(np.count_nonzero(lucky >= seen - 1e-12))) / (_PERMUTATIONS + 1)
    about = "standard deviation of recall over letters"
    return {
        "letter_bias": Measure(value=seen, n=n, ci95=bootstrap(sums, statistic), unit="", about=about),
        "letter_bias_by_luck": Measure(
            value=float(lucky.mean()), n=n, unit="", about="what it would be if the letter did not matter"
        ),
        "letter_bias_p": Measure(
            value=p, n=n, unit="", about="probability of one as large if the letter did not matter"
        ),
    }
