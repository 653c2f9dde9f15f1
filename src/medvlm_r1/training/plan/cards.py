"""Known cards, and the time a step takes on one.

Peaks are the vendor's, for dense bf16 matrix products with 32-bit sums; memory and bandwidth likewise. The efficiencies
are this project's assumptions, not measurements: no step of it was ever timed on these cards.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One kind of GPU."""

    name: str
    label: str
    memory: float
    """Bytes."""
    peak: float
    """Operations a second, dense bf16."""
    bandwidth: float
    """Bytes a second."""
    source: str


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
            source="NVIDIA A100 data sheet, SXM",
        ),
        Card(
            name="h100-80gb",
            label="H100 80GB",
            memory=80 * _GIB,
            peak=989.4e12,
            bandwidth=3.35e12,
            source="NVIDIA H100 data sheet, SXM; the figure with sparsity halved",
        ),
        Card(
            name="rtx-4090",
            label="RTX 4090 24GB",
            memory=24 * _GIB,
            peak=165.2e12,
            bandwidth=1.008e12,
            source="NVIDIA Ada GPU architecture whitepaper, FP32 accumulate",
        ),
    )
}


def card_named(name: str) -> Card:
    """The card of a name.

    Raises:
        UsageError: There is none; the message names the nearest.
    """
    if name.lower() not in CARDS:
        raise UsageError(f"unknown card {name!r}; {did_you_mean(name.lower(), CARDS)}")
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
    matrix = operations / (MATRIX_SHARE * card.peak)
    writing = max(
        written / (MATRIX_SHARE * card.peak), read / (BANDWIDTH_SHARE * card.bandwidth), looped * TOKEN_SECONDS
    )
    return {"matrix": matrix, "writing": writing, "step": matrix + writing}
