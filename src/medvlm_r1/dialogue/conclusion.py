"""The option that a reasoning settles on, read without looking at the answer that follows it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.dialogue.lenient import WINDOW, letter_in_prose

# "B knee yes", "B) knee: yes", "(B) knee - no": an option weighed. White space in one place only where nothing stands
# between, or a long run of it would be shared out in every way.
_WEIGHED = r"(?<!\w)\(?{letter}\)?[.):]?\s+{option}\s*(?:[:,-]\s*)?(?P<verdict>yes|no)\b"


def concluded_letter(reasoning: str, options: Sequence[str]) -> str | None:
    """The letter a reasoning ends at.

    Only the last `WINDOW` characters are read.

    Args:
        reasoning: Text inside the reasoning tag.
        options: Option texts of the question.

    Returns:
        The one option weighed with "yes", where options are weighed one by one ("A brain no, B knee yes"); where none
        is weighed, what `letter_in_prose` reads in it (a stated letter, or the one option named in the last sentence);
        None where nothing, or more than one thing, is concluded.
    """
    text = reasoning[-WINDOW:]
    verdicts = {letter: found[-1]["verdict"].casefold() for letter, found in weighings(text, options).items()}
    if not verdicts:
        return letter_in_prose(text, options)
    chosen = [letter for letter, verdict in verdicts.items() if verdict == "yes"]
    return chosen[0] if len(chosen) == 1 else None


def weighings(text: str, options: Sequence[str]) -> dict[str, list[re.Match[str]]]:
    """Where the options are weighed with yes or no ("A brain no, B knee yes").

    Args:
        text: A reasoning or a part of it.
        options: Option texts of the question.

    Returns:
        The matches by letter, in order, for the letters that are weighed; the group `verdict` is the yes or no.
    """
    found = {
        letter: list(
            re.finditer(_WEIGHED.format(letter=letter, option=re.escape(option[:WINDOW])), text, flags=re.IGNORECASE)
        )
        for letter, option in zip(LETTERS, options, strict=False)
    }
    return {letter: matches for letter, matches in found.items() if matches}


def contradicts(reasoning: str | None, letter: str | None, options: Sequence[str]) -> bool | None:
    """Whether reasoning and answer are at odds (arXiv 2505.23945); None where either says nothing."""
    concluded = None if reasoning is None else concluded_letter(reasoning, options)
    return None if concluded is None or letter is None else concluded != letter
