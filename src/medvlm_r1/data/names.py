"""Normalization of answers, and suggestions for misspelled names."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Find the known name that is most similar to a word; None if none is similar enough.

    `cutoff` is the minimum similarity, 1 for equal names (`difflib.SequenceMatcher.ratio`).
    """
    by_lower = {name.lower(): name for name in sorted(set(known))}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def folded(text: str) -> str:
    """Normalize an answer for comparison: ignore letter case, extra white space and a closing full stop."""
    return " ".join(text.casefold().split()).rstrip(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest a correction for a misspelled name.

    Returns:
        `did you mean 'x'?` if a known name is similar, otherwise `known: 'x', 'y'`. The text is the end of a message,
        so no full stop should follow.
    """
    names = sorted(set(known))
    near = nearest(word, names)
    return f"did you mean {near!r}?" if near else "known: " + (", ".join(map(repr, names)) or "none")
