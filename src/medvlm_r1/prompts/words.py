"""Read word lists, from text files next to this module, and patterns."""

import re
from collections.abc import Mapping
from pathlib import Path


def read_words(name: str) -> dict[str, str]:
    """Read a word list as one regular expression per role.

    Each line has a role and its alternatives. An indented line continues the previous line.
    """
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return dict(line.split(maxsplit=1) for line in re.sub(r"\n +", "|", text).strip().splitlines())


def read_patterns(file: Path, roles: Mapping[str, str] | None = None) -> dict[str, re.Pattern[str]]:
    """Read regular expressions by name. Their case is ignored, and `<role>` stands for the words of a role.

    Each line has a name, a tab and a pattern. A line that begins with # is a comment.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if not line.startswith("#")]
    filled = {key: re.sub(r"<(\w+)>", lambda role: (roles or {}).get(role[1], role[0]), text) for key, text in pairs}
    return {key: re.compile(text, re.IGNORECASE) for key, text in filled.items()}
