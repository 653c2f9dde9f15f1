"""Reader of a user's own questions: CSV, TSV, JSON Lines, JSON arrays and parquet, with any usual column names.

Columns: `image` (a path, or several: a list in JSON, parted by `|` in CSV; or the image itself, as the hub's parquet
files and base64 tables hold it; empty for a question without one), `question`, `answer` (the text of an option, its
letter or its number), and the options in one column or in one each. `modality`, `question_type`, `subject`, `split`,
`id`, and for volumes and files of several frames `frame`, `plane`, `slice`, `window` are optional. Every other column
is kept in the sample's record.
"""

import ast
import json
import math
import re
from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any, TypeVar

from medvlm_r1.data.images import View
from medvlm_r1.data.importing.draft import YOUR_OWN, Draft, Part, Row, Source
from medvlm_r1.data.importing.finder import FILE_VIEW
from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.modality import UNKNOWN, known_modality
from medvlm_r1.data.question import MIN_OPTIONS, question_faults
from medvlm_r1.data.readers.columns import NUMBERS, TEXTS, VIEW, Columns, find_columns, option_columns
from medvlm_r1.data.readers.fields import (
    answer_letter,
    as_image,
    bare_options,
    numbered_option,
    options_of,
    right_option,
    split_options,
    split_problem,
    tagged_answer,
    words,
)
from medvlm_r1.data.readers.layout import hub_tables
from medvlm_r1.data.rows import RowFaults
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.data.subjects import subject_column
from medvlm_r1.data.tables import rows_by_content
from medvlm_r1.errors import UserError

_SEPARATOR = "|"
_SEPARATORS = "separate them with '|', write a JSON list, or use one column each (option_A, option_B, ...)"
_PLACEHOLDER = re.compile(r"^(?:\s*<image>)+\s*|(?:\s*<image>)+\s*$")
Value = TypeVar("Value")


def _modality(row: Row, part: Part) -> str:
    column = find_columns(tuple(row), part.reading.columns).fields.get("modality")
    given = _text(row, column)
    return known_modality(given, column or "modality") if given else UNKNOWN


def _draft(row: Row, part: Part) -> Draft:
    columns = find_columns(tuple(row), part.reading.columns)
    if columns.faults:
        raise RowFaults(columns.faults)
    fields = columns.fields
    faults: list[str] = []

    def attempt(parse: Callable[..., Value], *arguments: Any) -> Value | None:
        """One field; what is wrong with it is reported together with the row's other faults."""
        try:
            return parse(*arguments)
        except ValueError as error:
            faults.append(str(error))
            return None

    row = {name: None if _is_nan(value) else value for name, value in row.items()}
    images = attempt(_images, row, columns)
    question = attempt(words, row, fields["question"])
    if images and question:
        # In other formats `<image>` before or after the question stands for the picture.
        question = _PLACEHOLDER.sub("", question)
    offered, answer = attempt(_options, row, columns), attempt(_answer, row, fields["answer"])
    matched = None
    if question is not None and offered is not None and answer is not None:
        options, first = offered
        first = first if part.reading.first_option is None else part.reading.first_option
        matched = attempt(_match, question, options, answer, first)
    texts = {name: attempt(_text, row, fields.get(name)) or "" for name in TEXTS}
    subject, subject_from = attempt(_subject, row, part) or ("", "")
    view = attempt(_view, row, fields)
    if matched is None or faults:
        unmatched = question_faults("?" if question is None else question, offered[0] if offered else ())
        raise RowFaults(dict.fromkeys([*faults, *unmatched]))
    question, options, answer = matched
    record = {name: _recorded(row[name]) for name in columns.others if name != subject_from}
    return Draft(
        question=question,
        options=options,
        answer=answer,
        images=images or (),
        view=view or FILE_VIEW,
        record={name: value for name, value in record.items() if value not in (None, "")},
        question_type=texts["question_type"],
        subject=subject,
        subject_column=subject_from,
        split=texts["split"],
        id=texts["id"],
    )


def _images(row: Row, columns: Columns) -> tuple[str | bytes, ...]:
    if "image" not in columns.fields:
        return tuple(as_image(row[name], name) for name in columns.images if row[name] not in (None, ""))
    name = columns.fields["image"]
    value = row[name]
    if isinstance(value, str):
        value = _listed(value, name) if value.startswith("[") else value.split(_SEPARATOR)
        value = [part.strip() for part in value] if value != [""] else None
    if value is None:
        return ()
    return tuple(as_image(item, name) for item in (value if isinstance(value, list) else [value]))


def _options(row: Row, columns: Columns) -> tuple[tuple[str, ...], int | None]:
    """The options, and the number of the first if their columns or keys have numbers."""
    name = columns.fields.get("options")
    value = None if name is None else row[name]
    apart = options_of(row, columns.options)
    if value in (None, "", []):
        return bare_options(apart), columns.first_option
    assert name is not None
    if apart:
        raise ValueError(
            f"options are given twice, in {name!r} and in {columns.options[0]!r}; keep one, or add --map options={name}"
        )
    if isinstance(value, str):
        value = _split(value, name)
    first = None
    value = _by_letter(value)
    if isinstance(value, dict):
        labels, first = _labels(value, name)
        value = [value[label] for label in labels]
    if not isinstance(value, list):
        raise ValueError(f"field {name!r} must be a list, saw {value!r}")
    while value and value[-1] in (None, ""):
        value = value[:-1]
    texts = [words({f"{name}[{index}]": item}, f"{name}[{index}]") for index, item in enumerate(value)]
    return bare_options(texts), first


def _split(text: str, name: str) -> Any:
    """Options in one text: JSON or a Python list, parted by `|`, or each with its letter in front."""
    text = text.strip()
    if text.startswith(("[", "{")):
        return _listed(text, name)
    if _SEPARATOR in text:
        return text.split(_SEPARATOR)
    before, options = split_options(text) or (text, ())
    if before or len(options) < MIN_OPTIONS:
        raise ValueError(f"field {name!r} holds one option, {text!r}; a question needs at least two: {_SEPARATORS}")
    return list(options)


def _listed(text: str, name: str) -> Any:
    """A list or object in a text, as JSON or as Python writes it. It is read as data, never run."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        # Python reads numpy's ['a' 'b'] as one text.
        if not (isinstance(value, list) and len(value) < MIN_OPTIONS and re.search(r"['\"]\s+['\"]", text)):
            return value
    raise ValueError(
        f"field {name!r} holds {text[:80]!r}, which is neither a JSON list nor a Python list; {_SEPARATORS}"
    )


def _by_letter(value: Any) -> Any:
    """Letter to option, of a list such as `[{"letter": "A", "content": "one"}, ...]`; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and len(item) == 2 for item in value):
        for label, text in permutations(value[0]):
            letters = [item.get(label) for item in value]
            if letters == list(LETTERS[: len(letters)]) and all(text in item for item in value):
                return {item[label]: item[text] for item in value}
    return value


def _labels(options: Mapping[str, Any], name: str) -> tuple[list[str], int | None]:
    """The keys of options given as an object, in order, and the first of them if they are numbers."""
    faults: list[str] = []
    columns, first = option_columns(options, faults)
    labels = [label for label in columns if options[label] not in (None, "")]
    if faults or set(options) != set(columns) or labels != list(columns[: len(labels)]):
        raise ValueError(f"field {name!r} has the keys {list(options)}; expected A, B, ... or 0, 1, ... without a gap")
    return labels, first


def _answer(row: Row, name: str) -> str:
    value = row[name]
    if value in (None, "", []):
        raise ValueError(f"field {name!r} is empty; every question needs its answer")
    # Several answers are refused below.
    return tagged_answer(words({name: value[0] if isinstance(value, list) and len(value) == 1 else value}, name))


def _match(question: str, options: tuple[str, ...], answer: str, first: int | None) -> tuple[str, tuple[str, ...], str]:
    """Question, options and answer, with options that stand in the question made options."""
    inside = split_options(question)
    if inside and (options == inside[1] or (not options and _names_one(answer, inside[1]))):
        question, options = split_problem(question)
    elif inside and sorted(inside[1]) == sorted(options):
        raise ValueError(f"the question lists the options in another order ({list(inside[1])}) than {list(options)}")
    letter = answer_letter(answer)
    text_at = options.index(answer) if letter and answer in options else None
    if text_at not in (None, LETTERS.find(letter or "")) and LETTERS.find(letter or "") < len(options):
        raise ValueError(
            f"answer {answer!r} is the text of option {LETTERS[text_at or 0]} and the letter of another; write letter "
            "and text, such as 'B) text'"
        )
    if options:
        return question, options, numbered_option(answer, options, first) or right_option(answer, options)
    if letter:
        raise ValueError(
            f"answer {answer!r} is a letter, but the row has no options to choose from. Options: {_SEPARATORS}. For an "
            "open question write the answer as a text"
        )
    return question, options, answer


def _names_one(answer: str, options: tuple[str, ...]) -> bool:
    try:
        return bool(right_option(answer, options))
    except ValueError:
        return False


def _subject(row: Row, part: Part) -> tuple[str, str]:
    """The subject and the column it is from, which `--map` may name."""
    chosen = dict(part.reading.columns).get("subject")
    return (_text(row, chosen), chosen) if chosen in row else subject_column(row)


def _text(row: Row, name: str | None) -> str:
    return "" if name is None or row[name] in (None, "") or _is_nan(row[name]) else words(row, name)


def _view(row: Row, fields: Mapping[str, str]) -> View:
    chosen: dict[str, Any] = {name: _text(row, fields.get(name)) for name in VIEW}
    chosen = {name: value for name, value in chosen.items() if value}
    for name in NUMBERS:
        if name in chosen:
            if not chosen[name].isdecimal():
                raise ValueError(f"column {name!r} must be a whole number from 0, saw {row[fields[name]]!r}")
            chosen[name] = int(chosen[name])
    try:
        return View(**chosen)
    except UserError as error:
        raise ValueError(str(error)) from error


def _is_nan(value: object) -> bool:
    """Whether a cell is the NaN that pandas leaves where there is nothing."""
    return isinstance(value, float) and math.isnan(value)


def _recorded(value: Any) -> Any:
    """A value as a record keeps it; None for what JSON cannot hold, such as the bytes of an image."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return value.isoformat() if hasattr(value, "isoformat") else None
    return value


def _find(source: Path) -> Source:
    if source.is_dir():
        tables = hub_tables(source)
        if not tables:
            raise UserError(f"{source}: a folder without parquet files; give the file that holds the questions")
        return Source(root=source, parts=tables)
    if not source.is_file():
        raise UserError(f"{source}: no such file; give the file that holds the questions")
    return Source(root=source.parent, parts=hub_tables(source) or [Part(file=source, rows=rows_by_content(source))])


def _importer(name: str) -> Importer:
    return Importer(
        name=name, origin=YOUR_OWN, license=YOUR_OWN, find=_find, modality=_modality, draft=_draft, own_columns=True
    )


OWN_READERS = {name: _importer(name) for name in ("csv", "tsv", "jsonl", "json", "parquet")}
"""One reader under several names: what a file holds is seen from its content."""
