"""Known cards, and the time a step takes on one.

Peaks are the vendor's, for dense bf16 matrix products with 32-bit sums; memory and bandwidth likewise. The efficiencies
are this project's assumptions, not measurements: no step of it was ever timed on these cards.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError

MATRIX_SHARE = 0.35
"""Assumed share of the peak that matrix products over many tokens reach (a prompt, a forward, a backward)."""
BANDWIDTH_SHARE = 0.5
"""Assumed share of the bandwidth at which weights and cache are read while completions are written, token by token."""
TOKEN_SECONDS = 0.02
"""Assumed time that transformers' generation needs for a token of all rows, whatever the card: its Python, and the
launch of some hundreds of small kernels. vLLM replays a recorded graph; none is assumed for it."""
LINK_SHARE = 0.7
"""Assumed share of the bandwidth between cards that sending reaches."""
NETWORK = 25e9
"""Assumed bytes a second that a card sends to another machine: 200 Gbit/s of network for each card."""
MACHINE_CARDS = 8
"""Assumed cards of a machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One kind of GPU."""

    name: str
    label: str
    memory: float
    """Bytes."""
    peak: float
    """Operations a second, dense bf16; 0 where nobody states it, and no time is estimated."""
    bandwidth: float
    """Bytes a second."""
    links: float
    """Bytes a second that a card sends to the others of its machine, one way, as the vendor states it."""
    source: str

    def matrix_seconds(self, operations: float) -> float:
        """Time of matrix products over many tokens."""
        return operations / (MATRIX_SHARE * self.peak)


_SEEN = "unverified: seen in tables that quote it, not in the document itself"
CPU = "cpu"
"""The name of `this_machine`."""
_GIB = 2.0**30
CARDS = {
    card.name: card
    for card in (
        Card(
            name="a100-80gb",
            label="A100 80GB",
            memory=80 * _GIB,
            peak=312e12,
            bandwidth=2.039e12,
            links=300e9,
            source=f"NVIDIA A100 data sheet, SXM (NVLink: half of 600 GB/s both ways); {_SEEN}",
        ),
        Card(
            name="h100-80gb",
            label="H100 80GB",
            memory=80 * _GIB,
            peak=989.4e12,
            bandwidth=3.35e12,
            links=450e9,
            source=f"NVIDIA H100 data sheet, SXM, the figure with sparsity halved (NVLink: half of 900 GB/s); {_SEEN}",
        ),
        Card(
            name="rtx-4090",
            label="RTX 4090 24GB",
            memory=24 * _GIB,
            peak=165.2e12,
            bandwidth=1.008e12,
            # No NVLink: 16 lanes of PCIe 4.0.
            links=31.5e9,
            # Twice the 82.6e12 of its 16,384 lanes at 2.52 GHz, which tables of its specification also give; half of
            # what it does with 16-bit sums.
            source=f"NVIDIA Ada GPU architecture whitepaper, 32-bit sums; {_SEEN}",
        ),
    )
}


def card_named(name: str) -> Card:
    """The card of a name, or `this_machine`.

    Raises:
        UsageError: There is none; the message names the nearest.
    """
    if name.lower() == CPU:
        return this_machine()
    if name.lower() not in CARDS:
        raise UsageError(f"unknown card {name!r}; {did_you_mean(name.lower(), [*CARDS, CPU])}")
    return CARDS[name.lower()]


def seconds(card: Card, *, operations: float, written: float, read: float, looped: float = 0.0) -> dict[str, float]:
    """Time of the work on one device: an estimate that leaves out communication and image decoding.

    Work over many tokens is limited by the matrix units. Writing completions goes token by token and reads the weights
    and the cache each time; it is limited by the slowest of the matrix units, the memory (the roofline of Williams et
    al., 2009) and, in transformers, the loop around them.

    Args:
        card: The card.
        operations: Over many tokens at once.
        written: Operations of writing completions token by token.
        read: Bytes read while doing so.
        looped: Tokens written one after the other by transformers' generation.

    Returns:
        Seconds for `matrix`, `writing` and both together (`step`).
    """
    matrix = card.matrix_seconds(operations)
    writing = max(card.matrix_seconds(written), read / (BANDWIDTH_SHARE * card.bandwidth), looped * TOKEN_SECONDS)
    return {"matrix": matrix, "writing": writing, "step": matrix + writing}


def this_machine() -> Card:
    """The CPU and main memory of this machine, for a run without a GPU; nothing is known of its speed."""
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Card(
        name=CPU, label="this CPU", memory=memory, peak=0.0, bandwidth=0.0, links=0.0, source="the operating system"
    )
