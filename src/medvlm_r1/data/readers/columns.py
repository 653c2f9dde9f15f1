"""Find the field that each column of a user's table contains, under any usual column name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, takewhile

from medvlm_r1.data.names import did_you_mean, nearest
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.data.subjects import subject_level
from medvlm_r1.errors import UsageError

NEEDED = ("image", "question", "answer")
TEXTS = ("question_type", "subject", "split", "id")
NUMBERS = {"frame", "slice"}
VIEW = ("frame", "slice", "plane", "window")
FIELDS = (*NEEDED, "options", "modality", *TEXTS, *VIEW, "boxes")

_OPTION_FIELDS = tuple(f"option_{letter}" for letter in LETTERS)
_NEAR = 0.85
# Column names in other data sets. They are only suggested, because their meaning differs between data sets.
_ALSO_CALLED = {
    "image": (
        *("image_path", "img_path", "image_file", "image_name", "img_name", "img", "file_name", "filename", "file"),
        *("filepath", "file_path", "path", "figure_path", "picture", "image_id"),
    ),
    "question": ("problem", "query", "prompt", "question_text", "text"),
    "answer": (
        *("answer_label", "label", "gt_answer", "solution", "correct_answer", "correct_option", "answer_letter"),
        *("answer_idx", "answer_index", "correct", "cop", "ground_truth", "gt", "target", "response"),
    ),
    "options": ("choices", "candidates", "alternatives", "answer_choices", "multiple_choices", "answers"),
}
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
