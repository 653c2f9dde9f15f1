"""Word lists of the parsers, as text files beside this module."""

import re
from pathlib import Path


def read_words(name: str) -> dict[str, str]:
    """Regular expressions by role: each line has a role and its alternatives; an indented line continues the last."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return dict(line.split(maxsplit=1) for line in re.sub(r"\n +", "|", text).strip().splitlines())
