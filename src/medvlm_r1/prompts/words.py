"""Read the word lists of the parsers from text files next to this module."""

import re
from pathlib import Path


def read_words(name: str) -> dict[str, str]:
    """Read a word list as one regular expression per role.

    Each line has a role and its alternatives. An indented line continues the previous line.
    """
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return dict(line.split(maxsplit=1) for line in re.sub(r"\n +", "|", text).strip().splitlines())
