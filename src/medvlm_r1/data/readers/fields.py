"""Checked fields of a row: texts, images, options with their letters, and answers in any form.

The messages name the field; the caller adds file and row.
"""

import base64
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from medvlm_r1.data.names import did_you_mean, folded
from medvlm_r1.data.sample import LETTERS, MIN_OPTIONS

# A file name of this length has a dot, which base64 does not.
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{100,}={0,2}\s*")
_STYLES = (r"\(([A-J])\)", r"([A-J])\)", r"([A-J])\.(?=\s)", r"([A-J]):")
# A letter alone, as answers write it: B, b, (B), B., [B], **B**, Option B, option_b, choice B.
_LETTER = re.compile(
    r"[\s(\[*_'\"]*(?:(?:option|choice|opt|answer)[\s_.-]*)?[(\[]?([A-J])[\s)\].:*_'\"]*", re.IGNORECASE
)
_NUMBER = re.compile(r"\s*\+?(\d+)(?:\.0+)?\s*")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_CHOICES_FOLLOW = re.compile(r"\s*\b(?:answer\s+)?(?:choices|options)\s*(?:are)?\s*:?\s*$", re.IGNORECASE)


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
        ValueError: It is absent or something else.
    """
    value = needed(row, name)
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} must be text, saw {value!r}")
    return value


def words(row: Mapping[str, Any], name: str) -> str:
    """As `text`, without surrounding white space. A number becomes text: some releases store answers such as `5` so."""
    value = needed(row, name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else text(row, name).strip()


def texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A field that must be a list of texts.

    Raises:
        ValueError: It is absent or something else.
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


def as_image(value: Any, name: str) -> str | bytes:
    """One image: the name of a file, its bytes, its base64 text, or the hub's `{"bytes": ..., "path": ...}`.

    Args:
        value: The field, or an item of it.
        name: Name of the field, for the message.

    Raises:
        ValueError: It is none of these, or the base64 text is damaged.
    """
    content = value
    if isinstance(value, dict):
        content = value["bytes"] if isinstance(value.get("bytes"), bytes) else value.get("path")
    if isinstance(content, bytes):
        return content
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"field {name!r} must be the name of a file or its bytes, saw {repr(value)[:80]}")
    is_uri = content.startswith("data:")
    if is_uri or _BASE64.fullmatch(content):
        data = content.partition(",")[2] if is_uri else content
        try:
            return base64.b64decode("".join(data.split()), validate=True)
        except ValueError as error:
            raise ValueError(f"field {name!r} holds damaged base64 ({error}): {content[:80]!r}") from error
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


def without_letter(option: str, letter: str) -> str:
    """An option's text without the letter in front of it: ` A:text ` to `text`. Another letter is left alone."""
    return re.sub(rf"^\(?{letter}\s*[:.)]\s*", "", option.strip()).strip()


def bare_options(options: Sequence[str]) -> tuple[str, ...]:
    """The options without leading letters (`A. text`), if every option has its own letter."""
    bare = [without_letter(option, letter) for letter, option in zip(LETTERS, options, strict=False)]
    lettered = all(text and text != option.strip() for text, option in zip(bare, options, strict=False))
    return tuple(bare if lettered and len(bare) == len(options) else options)


def answer_letter(answer: str) -> str | None:
    """The letter of an answer that is only a letter (`B`, `b`, `(B)`, `Option B`); otherwise None."""
    match = _LETTER.fullmatch(unicodedata.normalize("NFKC", answer))
    return match[1].upper() if match else None


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
    lettered = list(zip(LETTERS, options, strict=False))
    named = {option for letter, option in lettered if letter == answer_letter(answer)}
    if not (letter_first and named):
        named |= {o for letter, o in lettered if folded(o) in (folded(answer), folded(without_letter(answer, letter)))}
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
    match = _NUMBER.fullmatch(answer)
    if match is None or (first is None and folded(answer) in map(folded, options)):
        return None
    if first is None:
        raise ValueError(
            f"answer {answer!r} is a number, and the file does not say whether options are counted from 0 or from 1; "
            "add --first-option 0 or --first-option 1"
        )
    last = first + len(options) - 1
    if not first <= int(match[1]) <= last:
        raise ValueError(f"answer {answer!r} is not a number from {first} to {last}, as the options have")
    return options[int(match[1]) - first]


def split_options(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Split a text into what precedes the options and the options: `A) one B) two` on one line or several.

    Returns:
        None if the options are ambiguous: there is no sequence of letters A, B, ... in one style.
    """
    if "A" not in text:
        return None
    for start in (r"(?:^|(?<=[\s,;?]))", r"^\s*"):
        for style in _STYLES:
            marks = list(re.finditer(start + style, text, re.MULTILINE))
            letters = "".join(mark[1] for mark in marks)
            if len(marks) >= MIN_OPTIONS and letters == LETTERS[: len(marks)]:
                ends = [mark.start() for mark in marks[1:]] + [len(text)]
                spans = [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
                # On one line a comma separates the options; the last one has none.
                options = tuple(span.removesuffix(",").removesuffix(";").strip() for span in spans)
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
    for name, column in zip(filled, columns, strict=False):
        if name != column:
            raise ValueError(f"option {column!r} is empty, but {filled[-1]!r} is not")
    return tuple(words(row, name) for name in filled)


def lettered_columns(row: Mapping[str, Any], pattern: str) -> tuple[str, ...]:
    """Options from one column per letter, such as `option_A`, `option_B`, ...; `{}` stands for the letter."""
    return options_of(row, [pattern.format(letter) for letter in LETTERS])
