"""Options that carry their letters, and answers given as a letter or as a text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from medvlm_r1.data.names import folded
from medvlm_r1.data.readers.fields import words
from medvlm_r1.data.sample import LETTERS

_STYLES = (r"\(([A-J])\)", r"([A-J])\)", r"([A-J])\.(?=\s)", r"([A-J]):")
_LEAST_OPTIONS = 2


def without_letter(option: str, letter: str) -> str:
    """An option's text without the letter in front of it: ` A:text ` to `text`. Another letter is left alone."""
    return re.sub(rf"^\(?{letter}\s*[:.)]\s*", "", option.strip()).strip()


def bare_options(options: Sequence[str]) -> tuple[str, ...]:
    """The options without the letters in front of them (`A. text`), where every one carries its own letter."""
    bare = tuple(without_letter(option, letter) for letter, option in zip(LETTERS, options, strict=False))
    carried = len(bare) == len(options) and all(
        text and text != option.strip() for text, option in zip(bare, options, strict=True)
    )
    return bare if carried else tuple(options)


def right_option(answer: str, options: Sequence[str], *, letter_first: bool = False) -> str:
    """The option an answer names.

    Args:
        answer: The text of an option as it stands; else its letter (`B`, `b`, `(B)`), the letter before the text
            (`B: text`), or the text but for case, white space and a full stop.
        options: Texts without letters.
        letter_first: The set answers by letter: a `B` is option B even if another option reads "B".

    Raises:
        ValueError: It names none, or letter and text name different ones.
    """
    if answer in options and not letter_first:
        return answer
    letter = answer.strip().strip("().:").strip().upper()
    named = {option for place, option in zip(LETTERS, options, strict=False) if letter == place}
    if letter_first and named:
        return named.pop()
    for place, option in zip(LETTERS, options, strict=False):
        if folded(option) in (folded(answer), folded(without_letter(answer, place))):
            named.add(option)
    if len(named) == 1:
        return named.pop()
    what = "names several of the options" if named else "is neither the text nor the letter of one of the options"
    raise ValueError(f"answer {answer!r} {what} {list(options)}")


def split_problem(problem: str) -> tuple[str, tuple[str, ...]]:
    """Question and options of a text that holds both, `question A) one B) two` on one line or several.

    Raises:
        ValueError: The options cannot be told apart for sure: no run of letters A, B, ... in one style is there, or
            more than one.
    """
    for start in (r"(?:^|(?<=[\s,;?]))", r"^\s*"):
        for style in _STYLES:
            marks = list(re.finditer(start + style, problem, re.MULTILINE))
            letters = "".join(mark[1] for mark in marks)
            if len(marks) >= _LEAST_OPTIONS and letters == LETTERS[: len(marks)]:
                ends = [mark.start() for mark in marks[1:]] + [len(problem)]
                texts = [problem[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
                # On one line a comma parts the options; the last one has none.
                options = tuple(text.strip().removesuffix(",").removesuffix(";").strip() for text in texts)
                question = problem[: marks[0].start()].strip()
                if question and all(options):
                    return question, options
    raise ValueError(f"the options cannot be read out of the text {problem!r}; wanted 'question A) one B) two ...'")


def lettered_columns(row: Mapping[str, Any], *patterns: str) -> tuple[str, ...]:
    """Options kept in one column each, such as `option_A`, `option_B`, ...

    Args:
        row: The row.
        patterns: Names of the columns with `{}` for the letter; the first that has an A is used.

    Returns:
        The texts without white space around them; empty when there is no such column. The last ones may be absent or
        empty, as in rows with fewer options.

    Raises:
        ValueError: A column is empty with a filled one behind it, or holds no text.
    """
    pattern = next((pattern for pattern in patterns if pattern.format("A") in row), None)
    if pattern is None:
        return ()
    columns = [pattern.format(letter) for letter in LETTERS]
    filled = [name for name in columns if row.get(name) not in (None, "")]
    options = tuple(words(row, name) for name in filled)
    if filled != columns[: len(filled)]:
        gap = next(name for name, wanted in zip(columns, filled, strict=False) if name != wanted)
        raise ValueError(f"option {gap!r} is empty, but {filled[-1]!r} is not")
    return options
