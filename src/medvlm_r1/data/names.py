"""Normal form of a name, and the known name nearest to an unknown one."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that a word is most similar to; None if none is similar enough.

    Args:
        word: The name as it was written.
        known: The names there are.
        cutoff: Minimum similarity, 1 for equal names (`difflib.SequenceMatcher.ratio`).
    """
    by_lower = {name.lower(): name for name in sorted(set(known))}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def folded(text: str) -> str:
    """Normal form of an answer: letter case, white space and a closing full stop are ignored."""
    return " ".join(text.casefold().split()).rstrip(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggestion for a misspelled name.

    Args:
        word: The name as it was written.
        known: The names there are.

    Returns:
        `did you mean 'x'?` when one is near, else `known: 'x', 'y'`. Ends a message: no full stop follows.
    """
    names = sorted(set(known))
    near = nearest(word, names)
    return f"did you mean {near!r}?" if near else "known: " + (", ".join(map(repr, names)) or "none")
