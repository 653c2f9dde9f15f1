"""Checked fields of a row: texts, images, options with their letters, and answers in any form.

The messages name the field; the caller adds file and row.
"""

import base64
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from medvlm_r1.data.names import did_you_mean, folded
from medvlm_r1.data.question import MIN_OPTIONS
from medvlm_r1.data.sample import LETTERS

# A name of a file so long has a dot, which base64 has not.
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_LEAST_BASE64 = 100


def needed(row: Mapping[str, Any], name: str) -> Any:
    """A required field.

    Raises:
        ValueError: It is absent; the message names the nearest existing field.
    """
    if name not in row:
        raise ValueError(f"field {name!r} is missing; {did_you_mean(name, map(str, row))}")
    return row[name]


def text(row: Mapping[str, Any], name: str) -> str:
    """A field that must be text.

    Raises:
        ValueError: It is not there or something else.
    """
    value = needed(row, name)
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} must be text, saw {value!r}")
    return value


def words(row: Mapping[str, Any], name: str) -> str:
    """As `text`, without surrounding white space; a number becomes text.

    Answers such as `5` are numbers in some releases.
    """
    value = needed(row, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text(row, name).strip()


def texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A field that must be a list of texts.

    Raises:
        ValueError: It is not there or something else.
    """
    values = needed(row, name)
    if not isinstance(values, list):
        raise ValueError(f"field {name!r} must be a list, saw {values!r}")
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{name!r} must be a list of texts, saw {value!r} in it")
    return tuple(values)


def present_fields(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The existing, non-empty ones among the fields, for a sample's record."""
    return {name: row[name] for name in names if row.get(name) not in (None, "")}


def image(row: Mapping[str, Any], name: str = "image") -> str | bytes:
    """An image in the form of the hub's tables, `{"bytes": ..., "path": ...}`, or a file name.

    Raises:
        ValueError: It is neither.
    """
    return as_image(needed(row, name), name)


def as_image(value: Any, name: str) -> str | bytes:
    """One image: the name of a file, its bytes, its base64 text, or the hub's `{"bytes": ..., "path": ...}`.

    Raises:
        ValueError: It is none of these, or the base64 text is damaged.
    """
    content = value
    if isinstance(value, dict):
        content = value["bytes"] if isinstance(value.get("bytes"), bytes) else value.get("path")
    if isinstance(content, bytes):
        return content
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"field {name!r} must be the name of a file or its bytes, saw {_short(value)}")
    head, comma, data = content.partition(",") if content.startswith("data:") else ("", "", content)
    if comma or (len(content) >= _LEAST_BASE64 and _BASE64.fullmatch(content)):
        try:
            return base64.b64decode("".join(data.split()), validate=True)
        except ValueError as error:
            raise ValueError(f"field {name!r} holds damaged base64 ({error}): {_short(head or data)}") from error
    return content


def only(row: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    """A field with one of a few words, in any case.

    Raises:
        ValueError: It has another value.
    """
    value = words(row, name).upper()
    if value not in known:
        raise ValueError(f"field {name!r} holds {row[name]!r}; wanted one of {', '.join(known)}")
    return value


def _short(value: Any) -> str:
    text_of_value = repr(value)
    return text_of_value if len(text_of_value) <= 80 else f"{text_of_value[:80]}..."


_STYLES = (r"\(([A-J])\)", r"([A-J])\)", r"([A-J])\.(?=\s)", r"([A-J]):")
_FIRST = re.compile(r"A[).:]")
# A letter alone, as answers write it: B, b, (B), B., [B], **B**, Option B, option_b, choice B.
_LETTER = re.compile(
    r"[\s(\[*_'\"]*(?:(?:option|choice|opt|answer)[\s_.-]*)?[(\[]?([A-J])[\s)\].:*_'\"]*", re.IGNORECASE
)
_NUMBER = re.compile(r"\s*\+?(\d+)(?:\.0+)?\s*")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_CHOICES_FOLLOW = re.compile(r"\s*\b(?:answer\s+)?(?:choices|options)\s*(?:are)?\s*:?\s*$", re.IGNORECASE)


def without_letter(option: str, letter: str) -> str:
    """An option's text without the letter in front of it: ` A:text ` to `text`. Another letter is left alone."""
    return re.sub(rf"^\(?{letter}\s*[:.)]\s*", "", option.strip()).strip()


def bare_options(options: Sequence[str]) -> tuple[str, ...]:
    """The options without leading letters (`A. text`), if every option has its own letter."""
    if not options or not options[0].lstrip(" (").startswith("A"):
        return tuple(options)
    bare = tuple(without_letter(option, letter) for letter, option in zip(LETTERS, options, strict=False))
    carried = len(bare) == len(options) and all(
        text and text != option.strip() for text, option in zip(bare, options, strict=True)
    )
    return bare if carried else tuple(options)


def answer_letter(answer: str) -> str | None:
    """The letter of an answer that is only a letter (`B`, `b`, `(B)`, `Option B`); otherwise None."""
    match = _LETTER.fullmatch(unicodedata.normalize("NFKC", answer))
    return match[1].upper() if match else None


def answer_number(answer: str) -> int | None:
    """The number of an answer that is a whole number (`2`, `2.0`); otherwise None."""
    match = _NUMBER.fullmatch(answer)
    return int(match[1]) if match else None


def tagged_answer(text: str) -> str:
    """The text between `<answer>` and `</answer>`; the whole text if it has no tags.

    Raises:
        ValueError: It holds several answers.
    """
    tagged = _TAGGED.findall(text)
    if len(tagged) > 1:
        raise ValueError(f"the answer {text!r} holds several answers; expected one <answer> tag")
    return str(tagged[0] if tagged else text).strip()


def right_option(answer: str, options: Sequence[str], *, letter_first: bool = False) -> str:
    """The option an answer names.

    Args:
        answer: Text of an option; otherwise its letter (`B`, `b`, `(B)`), the letter before the text (`B: text`), or
            the text with another case, white space or a full stop.
        options: Texts without letters.
        letter_first: Whether the set answers by letter: `B` is then option B even if the text of another option is "B".

    Raises:
        ValueError: It names none, or letter and text name different ones.
    """
    if answer in options and not letter_first:
        return answer
    letter = answer_letter(answer)
    named = {option for label, option in zip(LETTERS, options, strict=False) if letter == label}
    if letter_first and named:
        return named.pop()
    for label, option in zip(LETTERS, options, strict=False):
        if folded(option) in (folded(answer), folded(without_letter(answer, label))):
            named.add(option)
    if len(named) == 1:
        return named.pop()
    what = "names several of the options" if named else "is neither the text nor the letter of one of the options"
    raise ValueError(f"answer {answer!r} {what} {list(options)}")


def numbered_option(answer: str, options: Sequence[str], first: int | None) -> str | None:
    """The option that a number names; None if the answer is not a number or is the text of an option.

    Args:
        answer: The answer.
        options: Texts without letters.
        first: Number of the first option; None if unknown.

    Raises:
        ValueError: The number of the first option is unknown, or no option has this number.
    """
    number = answer_number(answer)
    if number is None or (first is None and any(folded(option) == folded(answer) for option in options)):
        return None
    if first is None:
        raise ValueError(
            f"answer {answer!r} is a number, and the file does not say whether options are counted from 0 or from 1; "
            "add --first-option 0 or --first-option 1"
        )
    if not first <= number < first + len(options):
        raise ValueError(
            f"answer {answer!r} is not a number from {first} to {first + len(options) - 1}, as the options have"
        )
    return options[number - first]


def split_options(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Split a text into what precedes the options and the options: `A) one B) two` on one line or several.

    Returns:
        None if the options are ambiguous: there is no sequence of letters A, B, ... in one style.
    """
    if not _FIRST.search(text):
        return None
    for start in (r"(?:^|(?<=[\s,;?]))", r"^\s*"):
        for style in _STYLES:
            marks = list(re.finditer(start + style, text, re.MULTILINE))
            letters = "".join(mark[1] for mark in marks)
            if len(marks) >= MIN_OPTIONS and letters == LETTERS[: len(marks)]:
                ends = [mark.start() for mark in marks[1:]] + [len(text)]
                texts = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
                # On one line a comma parts the options; the last one has none.
                options = tuple(text.strip().removesuffix(",").removesuffix(";").strip() for text in texts)
                if all(options):
                    return text[: marks[0].start()].strip(), options
    return None


def split_problem(problem: str) -> tuple[str, tuple[str, ...]]:
    """Question and options of a text that holds both. A closing `Answer Choices:` is not part of the question.

    Raises:
        ValueError: The options are ambiguous, or nothing precedes them.
    """
    question, options = split_options(problem) or ("", ())
    question = _CHOICES_FOLLOW.sub("", question)
    if not question:
        raise ValueError(f"the options cannot be read from the text {problem!r}; wanted 'question A) one B) two ...'")
    return question, options


def options_of(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    """Options from one column each.

    Args:
        row: The row.
        columns: The columns in order. The last ones may be absent or empty, as in rows with fewer options.

    Returns:
        The texts without white space around them.

    Raises:
        ValueError: A column before a filled one is empty, or a column has no text.
    """
    filled = [name for name in columns if row.get(name) not in (None, "")]
    options = tuple(words(row, name) for name in filled)
    if filled != list(columns[: len(filled)]):
        gap = next(name for name, wanted in zip(columns, filled, strict=False) if name != wanted)
        raise ValueError(f"option {gap!r} is empty, but {filled[-1]!r} is not")
    return options


def lettered_columns(row: Mapping[str, Any], pattern: str) -> tuple[str, ...]:
    """Options from one column per letter, such as `option_A`, `option_B`, ...; `{}` stands for the letter."""
    return options_of(row, [pattern.format(letter) for letter in LETTERS])
