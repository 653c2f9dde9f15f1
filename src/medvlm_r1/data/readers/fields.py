"""Fields of a row, taken with a check. The messages name the field; the caller adds file and row."""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medvlm_r1.data.importing.finder import Embedded
from medvlm_r1.data.names import did_you_mean

# A name of a file so long has a dot, which base64 has not.
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_LEAST_BASE64 = 100


def needed(row: Mapping[str, Any], name: str) -> Any:
    """A field that must be there.

    Raises:
        ValueError: It is not; the message names the nearest that is.
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
    """As `text`, without the white space around it; a number is taken as it reads.

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


def kept(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of the fields that are there and hold something, to be kept in a sample's record."""
    return {name: row[name] for name in names if row.get(name) not in (None, "")}


def image(row: Mapping[str, Any], name: str = "image") -> str | Embedded:
    """An image as the hub's tables hold it, `{"bytes": ..., "path": ...}`, or the name of a file.

    Raises:
        ValueError: It is neither.
    """
    return as_image(needed(row, name), name)


def as_image(value: Any, name: str) -> str | Embedded:
    """One image: the name of a file, its bytes, its base64 text, or the hub's `{"bytes": ..., "path": ...}`.

    Raises:
        ValueError: It is none of these, or the base64 text is damaged.
    """
    held = value
    if isinstance(value, dict):
        held = value["bytes"] if isinstance(value.get("bytes"), bytes) else value.get("path")
    if isinstance(held, bytes):
        return Embedded(held)
    if not isinstance(held, str) or not held.strip():
        raise ValueError(f"field {name!r} must be the name of a file or its bytes, saw {_short(value)}")
    head, comma, data = held.partition(",") if held.startswith("data:") else ("", "", held)
    if comma or (len(held) >= _LEAST_BASE64 and _BASE64.fullmatch(held)):
        try:
            return Embedded(base64.b64decode("".join(data.split()), validate=True))
        except ValueError as error:
            raise ValueError(f"field {name!r} holds damaged base64 ({error}): {_short(head or data)}") from error
    return held


def only(row: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    """A field that holds one of a few words, whatever their case.

    Raises:
        ValueError: It holds another.
    """
    value = words(row, name).upper()
    if value not in known:
        raise ValueError(f"field {name!r} holds {row[name]!r}; wanted one of {', '.join(known)}")
    return value


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."
