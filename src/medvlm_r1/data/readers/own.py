"""Reader of a user's own questions: CSV, TSV, JSON Lines, JSON arrays and parquet, with any usual column names.

The required columns are `image`, `question` and `answer`. `image` is a path or several paths (a list in JSON, separated
by `|` in CSV). It may also contain the image itself, as in parquet files from the hub and in base64 tables, and is
empty for a question without an image. `answer` is the text, letter or number of the correct option, or an open answer.
The options are in one column, or in one column each. `modality`, `question_type`, `subject`, `split` and `id` are
optional, and so are `frame`, `plane`, `slice` and `window` for volumes and multi-frame files, and `boxes`. Every other
column is stored in the sample's record.
"""

import ast
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any, TypeVar

from medvlm_r1.data.images.picture import FILE_VIEW, View
from medvlm_r1.data.importing.boxes import parse_boxes_column
from medvlm_r1.data.importing.draft import YOUR_OWN, Draft, Part, Row, Source
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import UNKNOWN, known_modality
from medvlm_r1.data.names import did_you_mean, nearest
from medvlm_r1.data.readers import fields
from medvlm_r1.data.rows import RowFaults
from medvlm_r1.data.sample import LETTERS, MIN_OPTIONS, question_faults
from medvlm_r1.data.subjects import subject_column, subject_level
from medvlm_r1.disk import read_table
from medvlm_r1.errors import UsageError, UserError

NEEDED = ("image", "question", "answer")
TEXTS = ("question_type", "subject", "split", "id")
NUMBERS = {"frame", "slice"}
VIEW = ("frame", "slice", "plane", "window")
FIELDS = (*NEEDED, "options", "modality", *TEXTS, *VIEW, "boxes")

_OPTION_FIELDS = tuple(f"option_{letter}" for letter in LETTERS)
_NEAR = 0.85
# Column names in other data sets. They are only suggested, because their meaning differs between data sets.
_ALSO_CALLED = {field: names.split() for field, names in read_table(Path(__file__).with_name("column_names.tsv"))}
# Atomic groups: otherwise the final s of `choices` would be read as the letter of an option.
_OPTION = re.compile(
    r"((?:answer_?)?(?>options?|choices?|opts?|op|alternatives?|candidates?)|(?>answers?|ans)(?=[_.]?[a-z]$)|)"
    r"[_.]*\(?([a-z]|\d{1,2})\)?"
)
_LIKE_OPTION = re.compile(r"option|choice|distractor|(?:^|_)(?:alternative|candidate|opt)[a-j]?(?:_|\d|$)")
_NUMBERED_IMAGE = re.compile(r"(?:image|img)_?(\d{1,2})")


@dataclass(frozen=True, slots=True)
class Columns:
    """The fields that the columns of a table contain.

    Attributes:
        fields: Name of the column that contains each sample field.
        options: Columns that contain one option each, in order.
        first_option: Number in the name of the first option column; None if these columns have letters.
        images: Columns that contain one image each, if `image` is not in `fields`.
        others: Columns without a known meaning. They are stored in the record.
        faults: Problems with the column names.
    """

    fields: Mapping[str, str]
    options: tuple[str, ...]
    first_option: int | None
    images: tuple[str, ...]
    others: tuple[str, ...]
    faults: tuple[str, ...]


def parse_columns(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Parse `FIELD=COLUMN` arguments such as `image=image_path`: the column that contains each field of a sample.

    Raises:
        UsageError: An argument is not `FIELD=COLUMN`, a field is unknown, or a field has two columns.
    """
    columns: dict[str, str] = {}
    for text in texts:
        field, equals, column = text.partition("=")
        if not equals or not column:
            raise UsageError(f"--map {text!r}; wanted FIELD=COLUMN, such as image=image_path")
        if field not in FIELDS and field not in _OPTION_FIELDS:
            raise UsageError(f"--map {text!r}: there is no field {field!r}; {did_you_mean(field, FIELDS)}")
        if columns.setdefault(field, column) != column:
            raise UsageError(f"--map names two columns for {field!r}, {columns[field]!r} and {column!r}; give one")
    return tuple(columns.items())


@lru_cache(maxsize=256)
def find_columns(names: tuple[str, ...], chosen: tuple[tuple[str, str], ...] = ()) -> Columns:
    """Find the field that each column of a table contains, by the name of the column.

    Case, spaces and hyphens are ignored. Option columns may be lettered (`A`, `option_a`, `Choice A`, `opa`) or
    numbered from 0 or 1 (`option1`, `choice_1`). Columns named by a letter or number alone count as options only if at
    least the first two are present.

    Args:
        names: Names of the columns.
        chosen: Pairs of a field and its column, as specified by the user. They take priority over the column names.
    """
    faults = [
        f"there is no column {column!r}, which --map {field}={column} names; {did_you_mean(column, names)}"
        for field, column in chosen
        if column not in names
    ]
    mapped = {field for field, _ in chosen}
    fields = {field: column for field, column in chosen if column in names}
    # Exact field names take priority over other spellings.
    for name in sorted(names, key=lambda name: name not in FIELDS):
        field = {"images": "image"}.get(_key(name), _key(name))
        if field not in FIELDS or name in fields.values():
            continue
        if field not in fields:
            fields[field] = name
        elif field not in mapped:
            faults.append(f"columns {fields[field]!r} and {name!r} both name the {field}; add --map {field}=COLUMN")
    free = [name for name in names if name not in fields.values()]
    images: dict[int, str] = {}
    if "image" not in fields:
        images = {int(match[1]): name for name in free if (match := _NUMBERED_IMAGE.fullmatch(_key(name)))}
    options, first = tuple(fields.pop(field) for field in _OPTION_FIELDS if field in fields), None
    if not options and "options" not in mapped:
        options, first = option_columns(free, faults)
    others = tuple(name for name in free if name and name not in (*images.values(), *options))
    like = [name for name in others if _LIKE_OPTION.search(_key(name)) or _key(name) in _ALSO_CALLED["options"]]
    if like and not options and "options" not in fields:
        advice = f"add --map options={like[0]}" if _key(like[0]) in _ALSO_CALLED["options"] else "or in one, 'options'"
        faults.append(
            f"column {like[0]!r} seems to hold options, but its name is not understood; give all options in columns "
            f"option_A, option_B, ..., {advice}, or rename it if it holds something else"
        )
    faults += _missing([name for name in NEEDED if name not in fields and not (name == "image" and images)], others)
    for name in others:
        if name not in like and subject_level(name) is None:
            near = nearest(name, [field for field in FIELDS if field not in NEEDED], cutoff=_NEAR)
            if near is not None and near not in fields:
                faults.append(f"unknown column {name!r}; did you mean {near!r}? If not, name it otherwise")
    ordered = tuple(images[number] for number in sorted(images))
    return Columns(fields, options, first, ordered, others, tuple(faults))


def option_columns(names: Iterable[str], faults: list[str]) -> tuple[tuple[str, ...], int | None]:
    """Find the columns that contain one option each.

    Args:
        names: Names of the columns.
        faults: List to which problems with the names are added.

    Returns:
        The columns in order, and the number in the name of the first one. The number is None if they have letters.
    """
    styles: dict[tuple[str, bool], dict[int, str]] = {}
    for name in names:
        if match := _OPTION.fullmatch(_key(name)):
            prefix, label = match.groups()
            index = int(label) if label.isdecimal() else ord(label) - ord("a")
            first_name = styles.setdefault((prefix, label.isdecimal()), {}).setdefault(index, name)
            if first_name != name:
                faults.append(f"columns {first_name!r} and {name!r} are the same option; remove one")
    # A letter or number alone is an option only if its neighbor is present: x, y and z may be coordinates.
    styles = {
        (prefix, numbered): columns
        for (prefix, numbered), columns in styles.items()
        if prefix or {0, 1} <= columns.keys() or (numbered and {1, 2} <= columns.keys())
    }
    if len(styles) > 1:
        listed = " and ".join(repr(next(iter(columns.values()))) for columns in styles.values())
        faults.append(f"two sets of option columns, with {listed}; remove one, or add --map options=COLUMN")
    for (prefix, numbered), columns in styles.items():
        first = min(columns)
        run = list(takewhile(columns.__contains__, count(first)))
        beyond = [index for index in columns if index not in run and (prefix or index < len(LETTERS))]
        if beyond or first > int(numbered):
            listed = ", ".join(map(repr, columns.values()))
            faults.append(f"the option columns {listed} do not follow one another from the first; name them in order")
        return tuple(columns[index] for index in run), first if numbered else None
    return (), None


def _missing(fields: Sequence[str], names: Sequence[str]) -> list[str]:
    """Messages for required columns that are absent, with suggestions for columns that may be meant."""
    keys = {_key(name): name for name in reversed(names)}
    if len(fields) == len(NEEDED) and not keys.keys() & {name for f in fields for name in _ALSO_CALLED[f]}:
        return [
            f"fields {', '.join(map(repr, NEEDED))} are missing (the file has {', '.join(map(repr, names))}); the "
            "first line of a table must name its columns, separated by commas, semicolons or tabs"
        ]
    faults = []
    for field in fields:
        likely = next((keys[name] for name in _ALSO_CALLED[field] if name in keys), None) or nearest(field, names)
        if likely:
            hint = f"; did you mean {likely!r}, which the file has? Add --map {field}={likely}"
        else:
            available = ", ".join(map(repr, names)) or "no other columns"
            hint = f" (the file has {available}); choose one of the file's other columns with --map {field}=COLUMN"
        faults.append(f"field {field!r} is missing{hint}")
    return faults


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


_SEPARATORS = "separate them with '|', write a JSON list, or use one column each (option_A, option_B, ...)"
_PLACEHOLDER = re.compile(r"^(?:\s*<image>)+\s*|(?:\s*<image>)+\s*$")
_EMPTY: tuple[Any, ...] = (None, "", [])
Value = TypeVar("Value")


def _modality(row: Row, part: Part) -> str:
    column = find_columns(tuple(row), part.reading.columns).fields.get("modality")
    spelling = _text(row, column)
    return known_modality(spelling, column or "modality") if spelling else UNKNOWN


def _draft(row: Row, part: Part) -> Draft:
    columns = find_columns(tuple(row), part.reading.columns)
    if columns.faults:
        raise RowFaults(columns.faults)
    named = columns.fields
    faults: list[str] = []

    def attempt(parse: Callable[..., Value], *arguments: Any) -> Value | None:
        """Parse one field. A fault is collected, and reported together with the other faults of the row."""
        try:
            return parse(*arguments)
        except ValueError as error:
            faults.append(str(error))
            return None

    row = {name: None if _is_nan(value) else value for name, value in row.items()}
    images = attempt(_images, row, columns)
    question = attempt(fields.words, row, named["question"])
    if images and question:
        # In other formats `<image>` before or after the question stands for the image.
        question = _PLACEHOLDER.sub("", question)
    options, answer = attempt(_options, row, columns), attempt(_answer, row, named["answer"])
    matched = None
    if question is not None and options is not None and answer is not None:
        first = options[1] if part.reading.first_option is None else part.reading.first_option
        matched = attempt(_match, question, options[0], answer, first)
    values: dict[str, Any] = {name: attempt(_text, row, named.get(name)) or "" for name in TEXTS}
    subject, subject_from = attempt(_subject, row, part) or ("", "")
    view = attempt(_view, row, named)
    boxes = attempt(parse_boxes_column, row[named["boxes"]], named["boxes"]) if "boxes" in named else None
    if matched is None or faults:
        faults += question_faults("?" if question is None else question, options[0] if options else ())
        raise RowFaults(dict.fromkeys(faults))
    record = {name: _recorded(row[name]) for name in columns.others if name != subject_from}
    return Draft(
        question=matched[0],
        options=matched[1],
        answer=matched[2],
        images=images or (),
        view=view or FILE_VIEW,
        boxes=boxes,
        record={name: value for name, value in record.items() if value not in (None, "")},
        subject_column=subject_from,
        **{**values, "subject": subject},
    )


def _images(row: Row, columns: Columns) -> tuple[str | bytes, ...]:
    if "image" not in columns.fields:
        return tuple(fields.as_image(row[name], name) for name in columns.images if row[name] not in (None, ""))
    name = columns.fields["image"]
    value = row[name]
    if isinstance(value, str) and value:
        names = _listed(value, name) if value.startswith("[") else value.split("|")
        value = [part.strip() for part in names]
    if value in (None, ""):
        return ()
    return tuple(fields.as_image(item, name) for item in (value if isinstance(value, list) else [value]))


def _options(row: Row, columns: Columns) -> tuple[tuple[str, ...], int | None]:
    """Options of a row; and the number of the first one if their columns or keys have numbers."""
    name = columns.fields.get("options", "")
    value = row.get(name)
    apart = fields.options_of(row, columns.options)
    if value in _EMPTY:
        return fields.bare_options(apart), columns.first_option
    if apart:
        raise ValueError(
            f"options are given twice, in {name!r} and in {columns.options[0]!r}; keep one, or add --map options={name}"
        )
    if isinstance(value, str):
        value = _split(value.strip(), name)
    first = None
    if isinstance(value, dict):
        labels, first = _labels(value, name)
        value = [value[label] for label in labels]
    if not isinstance(value, list):
        raise ValueError(f"field {name!r} must be a list, saw {value!r}")
    while value and value[-1] in (None, ""):
        value = value[:-1]
    items = [fields.words({f"{name}[{index}]": item}, f"{name}[{index}]") for index, item in enumerate(value)]
    return fields.bare_options(items), first


def _split(value: str, name: str) -> Any:
    """Split a text with options: a JSON or Python list, texts separated by `|`, or texts that start with letters."""
    if value.startswith(("[", "{")):
        return _listed(value, name)
    if "|" in value:
        return value.split("|")
    before, options = fields.split_options(value) or (value, ())
    if before or not options:
        raise ValueError(f"field {name!r} holds one option, {value!r}; a question needs at least two: {_SEPARATORS}")
    return list(options)


def _listed(written: str, name: str) -> Any:
    """Parse a list or object that is written as JSON or as Python. The text is parsed as data and never executed."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(written)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        # Python parses numpy's ['a' 'b'] as one text, so this case is rejected.
        if not (isinstance(value, list) and len(value) < MIN_OPTIONS and re.search(r"['\"]\s+['\"]", written)):
            return value
    raise ValueError(
        f"field {name!r} holds {written[:80]!r}, which is neither a JSON list nor a Python list; {_SEPARATORS}"
    )


def _labels(options: Mapping[str, Any], name: str) -> tuple[list[str], int | None]:
    """Keys of options that are given as an object, in order; and the first key if the keys are numbers."""
    faults: list[str] = []
    columns, first = option_columns(options, faults)
    labels = [label for label in columns if options[label] not in (None, "")]
    if faults or set(options) != set(columns) or labels != list(columns[: len(labels)]):
        raise ValueError(f"field {name!r} has the keys {list(options)}; expected A, B, ... or 0, 1, ... without a gap")
    return labels, first


def _answer(row: Row, name: str) -> str:
    value = row[name]
    if value in _EMPTY:
        raise ValueError(f"field {name!r} is empty; every question needs its answer")
    # A list of several answers is rejected below.
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return fields.tagged_answer(fields.words({name: value}, name))


def _match(question: str, options: tuple[str, ...], answer: str, first: int | None) -> tuple[str, tuple[str, ...], str]:
    """Match the answer with an option; move options that the question lists out of it."""
    _, listed = fields.split_options(question) or ("", ())
    if listed and (options == listed or (not options and len(fields.named_options(answer, listed)) == 1)):
        question, options = fields.split_problem(question)
    elif listed and sorted(listed) == sorted(options):
        raise ValueError(f"the question lists the options in another order ({list(listed)}) than {list(options)}")
    letter = fields.answer_letter(answer)
    if not options:
        if letter:
            raise ValueError(
                f"answer {answer!r} is a letter, but the row has no options to choose from. Options: {_SEPARATORS}. "
                "For an open question write the answer as a text"
            )
        return question, options, answer
    if letter and answer in options and options.index(answer) != LETTERS.index(letter) < len(options):
        raise ValueError(
            f"answer {answer!r} is the text of option {LETTERS[options.index(answer)]} and the letter of another; "
            "write letter and text, such as 'B) text'"
        )
    return question, options, fields.numbered_option(answer, options, first) or fields.right_option(answer, options)


def _subject(row: Row, part: Part) -> tuple[str, str]:
    """Subject of a row, and the column that contains it. The user may choose the column with `--map`."""
    chosen = dict(part.reading.columns).get("subject")
    return (_text(row, chosen), chosen) if chosen in row else subject_column(row)


def _text(row: Row, name: str | None) -> str:
    value = None if name is None else row[name]
    return "" if value in (None, "") or _is_nan(value) else fields.words(row, str(name))


def _view(row: Row, named: Mapping[str, str]) -> View:
    chosen: dict[str, Any] = {name: value for name in VIEW if (value := _text(row, named.get(name)))}
    for name in NUMBERS & chosen.keys():
        if not chosen[name].isdecimal():
            raise ValueError(f"column {name!r} must be a whole number from 0, saw {row[named[name]]!r}")
        chosen[name] = int(chosen[name])
    try:
        return View(**chosen)
    except UserError as error:
        raise ValueError(str(error)) from error


def _is_nan(value: object) -> bool:
    """Whether a cell is NaN, which pandas writes for an empty cell."""
    return isinstance(value, float) and math.isnan(value)


def _recorded(value: Any) -> Any:
    """Convert a value for a record; None if JSON cannot represent it, such as the bytes of an image."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return value.isoformat() if hasattr(value, "isoformat") else None
    return value


def _find(source: Path) -> Source:
    if not source.exists():
        raise UserError(f"{source}: no such file; give the file that holds the questions")
    if tables := fields.find_tables(source):
        return tables
    if source.is_dir():
        raise UserError(f"{source}: a folder without parquet files; give the file that holds the questions")
    return Source(root=source.parent, parts=[Part(file=source)])


OWN_READERS = {
    name: Importer(
        name=name, origin=YOUR_OWN, license=YOUR_OWN, find=_find, modality=_modality, draft=_draft, own_columns=True
    )
    for name in ("csv", "tsv", "jsonl", "json", "parquet")
}
"""The same reader under several names. The content of a file decides how it is read."""
