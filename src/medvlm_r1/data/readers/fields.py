"""Helpers of the readers: find the files of a source, and read and check the fields of a row.

Fields are texts, images, options with their letters, and answers in any form. Error messages name the field; the caller
adds file and row.
"""

import base64
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from medvlm_r1.data.importing.draft import Part, Source
from medvlm_r1.data.names import did_you_mean, folded
from medvlm_r1.data.sample import LETTERS, MIN_OPTIONS
from medvlm_r1.errors import UserError

_SPLITS = {"train": "train", "test": "test"}
_SPLITS |= dict.fromkeys(("val", "valid", "dev", "validate", "validation"), "validation")


def one_file(source: Path, *names: str) -> Source:
    """Find a source that is one file, or a folder that contains a file with one of the given names.

    Raises:
        UserError: There is no such file.
    """
    file = next((file for file in (source, *(source / name for name in names)) if file.is_file()), None)
    return Source(root=file.parent, parts=[Part(file=file)]) if file else no_source(source, *names)


def find_files(source: Path, folders: Sequence[str], *choices: Sequence[str]) -> Source:
    """Find a source that is one file, or a folder that contains files with the given names.

    Args:
        source: Path of the file or folder. Image names are relative to the folder.
        folders: Subfolders that may contain the files. The first one that exists is searched, otherwise the folder
            itself.
        choices: Sets of file names, with wildcards. The first set with an existing file is used.

    Raises:
        UserError: There is no such file.
    """
    if source.is_file():
        return Source(root=source.parent, parts=_parts_of([source], source.parent))
    base = next(base for base in (*(source / folder for folder in folders), source) if base.is_dir() or base == source)
    for names in choices:
        if files := [file for name in names for file in base.glob(name)]:
            return Source(root=source, parts=_parts_of(files, base))
    no_source(source, *("/".join(filter(None, (*folders[:1], name))) for names in choices for name in names))


def _parts_of(files: Iterable[Path], base: Path) -> list[Part]:
    """One part per file, in order of the paths; split and label come from the path below `base`."""
    parts: dict[str, Part] = {}
    for file in sorted(files):
        name = file.relative_to(base).with_suffix("").as_posix()
        label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        while label in parts:
            label += "-2"
        parts[label] = Part(file=file, split=_split_name(file), label=label)
    return list(parts.values())


def find_tables(source: Path) -> Source | None:
    """Find the tables of a data set in the layout of the Hugging Face hub or `datasets.save_to_disk`; None if none."""
    if source.suffix.lower() in (".parquet", ".arrow") and source.is_file():
        return Source(root=source.parent, parts=[Part(file=source, split=_split_name(source))])
    files = [file for suffix in ("parquet", "arrow") for file in source.rglob(f"*.{suffix}")]
    tables = _parts_of([file for file in files if not file.name.startswith("cache-")], source)
    return Source(root=source, parts=tables) if tables else None


def _split_name(file: Path) -> str:
    """Split named by the first or last word of the file name or by the folder; empty if there is none."""
    words = re.split(r"[^a-z]+", file.stem.lower())
    return next((_SPLITS[word] for word in (words[0], words[-1], file.parent.name.lower()) if word in _SPLITS), "")


def no_source(source: Path, *wanted: str) -> NoReturn:
    """Raise the error for a source that does not exist or contains no file of the format."""
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; give the place of what was downloaded")
    raise UserError(f"{source}: holds none of {', '.join(wanted)}; give the folder as it was downloaded, or the file")


# A file name of this length contains a dot, which base64 does not.
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
    """Return a required field.

    Raises:
        ValueError: The field is absent. The message suggests the most similar existing field.
    """
    if name not in row:
        raise ValueError(f"field {name!r} is missing; {did_you_mean(name, map(str, row))}")
    return row[name]


def text(row: Mapping[str, Any], name: str) -> str:
    """Return a field that must be text.

    Raises:
        ValueError: The field is absent or not text.
    """
    value = needed(row, name)
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} must be text, saw {value!r}")
    return value


def words(row: Mapping[str, Any], name: str) -> str:
    """Return a text field without surrounding white space. A number is converted to text.

    Some data sets store answers such as `5` as numbers.
    """
    value = needed(row, name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else text(row, name).strip()


def texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return a field that must be a list of texts.

    Raises:
        ValueError: The field is absent or not a list of texts.
    """
    values = needed(row, name)
    if not isinstance(values, list):
        raise ValueError(f"field {name!r} must be a list, saw {values!r}")
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{name!r} must be a list of texts, saw {value!r} in it")
    return tuple(values)


def present_fields(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Select the named fields that are present and not empty, for a sample's record."""
    return {name: row[name] for name in names if row.get(name) not in (None, "")}


def as_image(value: Any, name: str) -> str | bytes:
    """Parse an image field: a file name, the bytes of a file, base64 text, or the Hugging Face hub's dictionary.

    The dictionary has the form `{"bytes": ..., "path": ...}`. Base64 text is decoded to bytes.

    Args:
        value: The field, or an item of it.
        name: Name of the field, for the error message.

    Raises:
        ValueError: The value is none of these, or the base64 text is damaged.
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
    """Return a field that must be one of a few words. Case is ignored, and the result is in upper case.

    Raises:
        ValueError: The field is absent or has another value.
    """
    value = words(row, name).upper()
    if value not in known:
        raise ValueError(f"field {name!r} holds {row[name]!r}; wanted one of {', '.join(known)}")
    return value


def without_letter(option: str, letter: str) -> str:
    """Remove the given letter from the start of an option: ` A:text ` becomes `text`. Another letter is not removed."""
    return re.sub(rf"^\(?{letter}\s*[:.)]\s*", "", option.strip()).strip()


def bare_options(options: Sequence[str]) -> tuple[str, ...]:
    """Remove the leading letters (`A. text`) from the options if every option starts with its own letter."""
    bare = [without_letter(option, letter) for letter, option in zip(LETTERS, options, strict=False)]
    lettered = all(text and text != option.strip() for text, option in zip(bare, options, strict=False))
    return tuple(bare if lettered and len(bare) == len(options) else options)


def answer_letter(answer: str) -> str | None:
    """Letter of an answer that consists of a letter only (`B`, `b`, `(B)`, `Option B`); None for other answers."""
    match = _LETTER.fullmatch(unicodedata.normalize("NFKC", answer))
    return match[1].upper() if match else None


def tagged_answer(text: str) -> str:
    """Text between `<answer>` and `</answer>`; the whole text if there are no tags.

    Raises:
        ValueError: The text has more than one pair of tags.
    """
    tagged = _TAGGED.findall(text)
    if len(tagged) > 1:
        raise ValueError(f"the answer {text!r} holds several answers; expected one <answer> tag")
    return str(tagged[0] if tagged else text).strip()


def right_option(answer: str, options: Sequence[str], *, letter_first: bool = False) -> str:
    """Find the option that an answer names.

    Args:
        answer: Text of an option, its letter (`B`, `b`, `(B)`), or letter and text (`B: text`). Differences in case,
            white space and a closing full stop are ignored. An exact text takes precedence over a letter.
        options: Option texts without letters.
        letter_first: Whether the data set answers by letter. `B` is then option B even if the text of another option is
            "B".

    Raises:
        ValueError: The answer names no option, or its letter and its text name different options.
    """
    named = named_options(answer, options, letter_first=letter_first)
    if len(named) == 1:
        return named.pop()
    what = "names several of the options" if named else "is neither the text nor the letter of one of the options"
    raise ValueError(f"answer {answer!r} {what} {list(options)}")


def named_options(answer: str, options: Sequence[str], *, letter_first: bool = False) -> set[str]:
    """Find all options that an answer may name; see `right_option`."""
    if answer in options and not letter_first:
        return {answer}
    lettered = list(zip(LETTERS, options, strict=False))
    named = {option for letter, option in lettered if letter == answer_letter(answer)}
    if not (letter_first and named):
        named |= {o for letter, o in lettered if folded(o) in (folded(answer), folded(without_letter(answer, letter)))}
    return named


def numbered_option(answer: str, options: Sequence[str], first: int | None) -> str | None:
    """Find the option that a number names.

    Args:
        answer: The answer.
        options: Option texts without letters.
        first: Number of the first option; None if unknown.

    Returns:
        The option. None if the answer is not a number, or if `first` is None and the answer is the text of an option.

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
    """Split a text such as `question A) one B) two`, on one or several lines, into question and options.

    Returns:
        The text before the options, and the options. None if there is no sequence of letters A, B, ... in one style,
        because the options are then ambiguous.
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
                # Options on one line are separated by commas or semicolons; the last option has none.
                options = tuple(span.removesuffix(",").removesuffix(";").strip() for span in spans)
                if all(options):
                    return text[: marks[0].start()].strip(), options
    return None


def split_problem(problem: str) -> tuple[str, tuple[str, ...]]:
    """Split a text into question and options. A closing `Answer Choices:` is removed from the question.

    Raises:
        ValueError: The options are ambiguous, or no question precedes them.
    """
    question, options = split_options(problem) or ("", ())
    question = _CHOICES_FOLLOW.sub("", question)
    if not question:
        raise ValueError(f"the options cannot be read from the text {problem!r}; wanted 'question A) one B) two ...'")
    return question, options


def options_of(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    """Read options from columns that contain one each.

    Args:
        row: The row.
        columns: Names of the columns, in order. The last ones may be absent or empty, as in rows with fewer options.

    Returns:
        Option texts without surrounding white space.

    Raises:
        ValueError: A column is empty but a later one is not, or a column contains neither text nor a number.
    """
    filled = [name for name in columns if row.get(name) not in (None, "")]
    for name, column in zip(filled, columns, strict=False):
        if name != column:
            raise ValueError(f"option {column!r} is empty, but {filled[-1]!r} is not")
    return tuple(words(row, name) for name in filled)


def lettered_columns(row: Mapping[str, Any], pattern: str) -> tuple[str, ...]:
    """Read options from one column per letter, such as `option_A`, `option_B`, ...; `{}` stands for the letter."""
    return options_of(row, [pattern.format(letter) for letter in LETTERS])
