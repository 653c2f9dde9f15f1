"""Floating-point operations of a vision-language model, from its sizes alone.

A multiplication and an addition count as two. Matrix products and attention are counted, the rest (norms,
activations, rotations, the optimizer) is not: it is under 1 % of the operations at these widths. The backward pass of a
matrix product takes two products of the same size, one for the gradient of its input and one for that of its weight
(Kaplan et al., arXiv 2001.08361, section 2.1: forward 2 N, backward 4 N for each token); a frozen weight needs the
first alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A language model."""

    layers: int
    hidden: int
    query: int
    """Heads times the width of a head."""
    keys: int
    """Key/value heads times the width of a head."""
    inner: int
    """Width inside the feed-forward layers."""
    heads: int
    vocabulary: int
    weights: int
    """Of the linear layers that every token passes, the head left out."""
    adapters: int = 0
    """Of the low-rank adapters on them."""
    head_normed: bool = False
    """Queries and keys are normalised head by head (Qwen3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A vision tower over patches, and what turns patches into tokens."""

    blocks: int
    width: int
    inner: int
    heads: int
    norm: Literal["layer", "rms"]
    inner_kept: int
    """Tensors of width `inner` that a feed-forward layer keeps for its backward pass: 2 with GELU (before and after),
    3 with quick GELU (its sigmoid too), 4 with a gate (gate, its activation, up, and their product)."""
    merge: int
    """Patches of a token."""
    patch_weights: int
    """Of the linear layers (and the patch embedding) that every patch passes."""
    token_weights: int
    """Of the layers that every token passes."""
    whole: int
    """Blocks that attend to the whole image; the others attend inside windows."""
    window: int | None = None
    """Patches of a window."""
    patch_adapters: int = 0
    token_adapters: int = 0
    levels: int = 1
    """Feature vectors the language model is given for each token (Qwen3-VL adds its deepstack)."""


def causal(tokens: float) -> float:
    """Pairs of a query and a key it sees, when each token sees itself and what is before it: n (n + 1) / 2."""
    return tokens * (tokens + 1) / 2


def continued(before: float, tokens: float) -> float:
    """Pairs of the tokens that follow `before` others: each sees those, itself and what is between."""
    return before * tokens + causal(tokens)


@dataclass(frozen=True, slots=True)
class Forward:
    """Operations of a forward pass by how its backward pass treats them."""

    linear: float = 0.0
    """In products with the model's own weights."""
    adapters: float = 0.0
    """In products with adapters."""
    attention: float = 0.0
    """In products of activations with activations."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.linear + self.adapters + self.attention

    @property
    def plain(self) -> float:
        """With the adapters off."""
        return self.linear + self.attention

    def backward(self, *, trained: bool) -> float:
        """Operations of the backward pass.

        Args:
            trained: Whether the model's own weights are; adapters are always, where there are any.
        """
        return (2 if trained else 1) * self.linear + 2 * self.adapters + 2 * self.attention


def text_forward(text: Text, tokens: float, pairs: float) -> Forward:
    """The language model over tokens, without its head.

    Every weight is used once for a token (2 operations). In every layer each pair of a query and a key it sees takes a
    product of `query` elements for the score and another for the weighted sum: 4 times `query` operations.

    Args:
        text: The language model.
        tokens: Tokens that pass it.
        pairs: Pairs of tokens that attend to each other (`causal`, `continued`).
    """
    return Forward(
        linear=2.0 * text.weights * tokens,
        adapters=2.0 * text.adapters * tokens,
        attention=4.0 * text.layers * text.query * pairs,
    )


def tower_forward(tower: Tower, patches: float) -> Forward:
    """The tower over one image.

    Patches of an image see each other both ways: n * n pairs in a block over the whole image, at most n * window in a
    block over windows (the last window of a row or column may be smaller, which is not taken off).

    Args:
        tower: The tower.
        patches: Patches of the image.
    """
    tokens = patches / tower.merge
    seen = tower.whole * patches * patches
    if tower.window is not None:
        seen += (tower.blocks - tower.whole) * patches * min(patches, tower.window)
    return Forward(
        linear=2.0 * (tower.patch_weights * patches + tower.token_weights * tokens),
        adapters=2.0 * (tower.patch_adapters * patches + tower.token_adapters * tokens),
        attention=4.0 * tower.width * seen,
    )


def head_forward(text: Text, tokens: float) -> float:
    """The head over the tokens that predict one: 2 times `hidden` times `vocabulary` for each."""
    return 2.0 * text.hidden * text.vocabulary * tokens


def head_backward(text: Text, tokens: float, *, trained: bool) -> float:
    """TRL's tiled head computes the logits again, then the gradients of its input and, if trained, of its weight."""
    return (3 if trained else 2) * head_forward(text, tokens)
