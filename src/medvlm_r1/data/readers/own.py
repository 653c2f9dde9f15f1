"""The project's own formats: JSON Lines and CSV, for questions of one's own.

Columns: `image` (a path, or several: a list in JSON, parted by `|` in CSV; empty for a question without one),
`question`, `answer` (the text of an option or its letter), and the options as `options` (a list, or parted by `|`) or
as `option_A`, `option_B`, ... or `A`, `B`, ...; without options the question is open. Further ones that are known:
`modality`, `question_type`, `subject`, `split`, `id`, and for volumes and files of several frames `frame`, `plane`,
`slice`, `window`. Every other column is kept in the sample's record.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from medvlm_r1.data.draft import YOUR_OWN, Draft, Part, Row, Source
from medvlm_r1.data.finder import FILE_VIEW, checked_view
from medvlm_r1.data.images import View
from medvlm_r1.data.importing import Importer
from medvlm_r1.data.modality import UNKNOWN, known_modality
from medvlm_r1.data.names import nearest
from medvlm_r1.data.readers.fields import needed, texts, words
from medvlm_r1.data.readers.lettered import lettered_columns, right_option
from medvlm_r1.data.rows import read_json_lines
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.data.subjects import subject_column, subject_level
from medvlm_r1.data.tables import Rows, read_csv
from medvlm_r1.errors import UserError

_SEPARATOR = "|"
_NEAR = 0.85
_NEEDED = ("image", "question", "answer")
_TEXTS = ("question_type", "subject", "split", "id")
_NUMBERS = ("frame", "slice")
_VIEW = (*_NUMBERS, "plane", "window")
_LETTERED = ("option_{}", "{}")
_KNOWN = frozenset((*_NEEDED, "options", "modality", *_TEXTS, *_VIEW)) | {
    pattern.format(letter) for pattern in _LETTERED for letter in LETTERS
}


def _modality(row: Row, part: Part) -> str:
    _check_columns(row)
    given = _optional(row, "modality")
    return known_modality(given, "modality") if given else UNKNOWN


def _draft(row: Row, part: Part) -> Draft:
    options = _several(row, "options") if row.get("options") else lettered_columns(row, *_LETTERED)
    answer = words(row, "answer")
    subject, column = subject_column(row)
    return Draft(
        question=words(row, "question"),
        options=options,
        answer=right_option(answer, options) if options else answer,
        images=_several(row, "image"),
        view=_view(row),
        record={
            name: value
            for name, value in row.items()
            if name not in _KNOWN and name != column and value not in (None, "")
        },
        question_type=_optional(row, "question_type"),
        subject=subject,
        subject_column=column,
        split=_optional(row, "split"),
        id=_optional(row, "id"),
    )


def _check_columns(row: Row) -> None:
    """A column whose name is nearly one that is known would be lost in the record."""
    for name in _NEEDED:
        needed(row, name)
    for name in row:
        near = None if name in _KNOWN or subject_level(name) is not None else _misspelt(name)
        if near is not None and near not in row:
            raise ValueError(f"unknown column {name!r}; did you mean {near!r}? If not, name it otherwise")


@lru_cache(maxsize=256)
def _misspelt(name: str) -> str | None:
    return nearest(name, ("options", "modality", *_TEXTS, *_VIEW), cutoff=_NEAR)


def _several(row: Row, name: str) -> tuple[str, ...]:
    value = row[name]
    if isinstance(value, list):
        return texts(row, name)
    if value in (None, ""):
        return ()
    return tuple(part.strip() for part in words(row, name).split(_SEPARATOR))


def _optional(row: Row, name: str) -> str:
    return "" if row.get(name) is None else words(row, name)


def _view(row: Row) -> View:
    chosen: dict[str, Any] = {name: _optional(row, name) for name in _VIEW}
    chosen = {name: value for name, value in chosen.items() if value}
    for name in _NUMBERS:
        if name in chosen:
            if not chosen[name].isdecimal():
                raise ValueError(f"column {name!r} must be a whole number from 0, saw {row[name]!r}")
            chosen[name] = int(chosen[name])
    return checked_view(**chosen) if chosen else FILE_VIEW


def _importer(name: str, rows: Callable[[Path], Rows]) -> Importer:
    def find(source: Path) -> Source:
        if source.is_dir():
            raise UserError(f"{source}: a folder; give the {name.upper()} file that holds the questions")
        if not source.is_file():
            raise UserError(f"{source}: no such file; give the {name.upper()} file that holds the questions")
        return Source(root=source.parent, parts=[Part(file=source, rows=rows)])

    return Importer(name=name, origin=YOUR_OWN, license=YOUR_OWN, find=find, modality=_modality, draft=_draft)


import_jsonl = _importer("jsonl", read_json_lines)
import_csv = _importer("csv", read_csv)
