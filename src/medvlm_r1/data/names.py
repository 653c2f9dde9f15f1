"""The nearest known name, for messages about a name that is not known."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Phrase that helps with a misspelt name.

    Args:
        word: The name as it was written.
        known: The names there are.

    Returns:
        `did you mean 'x'?` when one is near, else `known: 'x', 'y'`. Ends a message: no full stop follows.
    """
    names = sorted(set(known))
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    if near:
        return f"did you mean {by_lower[near[0]]!r}?"
    return "known: " + (", ".join(repr(name) for name in names) or "none")
