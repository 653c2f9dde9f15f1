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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from medvlm_r1.data.images.picture import FILE_VIEW, View
from medvlm_r1.data.importing.boxes import parse_boxes_column
from medvlm_r1.data.importing.draft import YOUR_OWN, Draft, Part, Row, Source
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import UNKNOWN, known_modality
from medvlm_r1.data.readers import fields
from medvlm_r1.data.readers.columns import NUMBERS, TEXTS, VIEW, Columns, find_columns, option_columns
from medvlm_r1.data.readers.layout import find_tables
from medvlm_r1.data.rows import RowFaults
from medvlm_r1.data.sample import LETTERS, MIN_OPTIONS, question_faults
from medvlm_r1.data.subjects import subject_column
from medvlm_r1.errors import UserError

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
    if listed and (options == listed or (not options and _names_one(answer, listed))):
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


def _names_one(answer: str, options: tuple[str, ...]) -> bool:
    try:
        return bool(fields.right_option(answer, options))
    except ValueError:
        return False


def _subject(row: Row, part: Part) -> tuple[str, str]:
    """Subject of a row, and the column that contains it. The user may choose the column with `--map`."""
    chosen = dict(part.reading.columns).get("subject")
    return (_text(row, chosen), chosen) if chosen in row else subject_column(row)


def _text(row: Row, name: str | None) -> str:
    value = None if name is None else row[name]
    return "" if value in (None, "") or _is_nan(value) else fields.words(row, str(name))


def _view(row: Row, named: Mapping[str, str]) -> View:
    values = {name: _text(row, named.get(name)) for name in VIEW}
    chosen: dict[str, Any] = {name: value for name, value in values.items() if value}
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
    if tables := find_tables(source):
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
