"""Segmented structures: names given by the user, and the class names of TotalSegmentator (`structures.csv`).

TotalSegmentator (Wasserthal et al. 2023, Radiology: Artificial Intelligence 5:e230024) names its classes in
`map_to_binary.py`. Parts of one organ, such as the lobes of a lung, have the same name here and count as one structure.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medvlm_r1.data.paths import explain_os_error
from medvlm_r1.data.rows import bad_row
from medvlm_r1.data.tables import rows_of
from medvlm_r1.errors import UserError

Names = Mapping[str, Mapping[str, str]]
"""Rows of a names file by label: `name`, and optionally `group` and `kind`."""
SIDES = ("left", "right")
_KINDS = ("organ", "lesion")
with Path(__file__).with_name("structures.csv").open(encoding="utf-8", newline="") as _file:
    _KNOWN = {row["key"]: row for row in csv.DictReader(_file)}


class Structure(NamedTuple):
    """A segmented structure.

    Attributes:
        name: Name without the side, as in the options.
        side: Side of the patient, "left" or "right", if the name states it; otherwise empty.
        group: Body region, such as "chest"; empty for a structure that extends over several, or if it is unknown.
        lesion: Whether it is a lesion and not an organ.
    """

    name: str
    side: str
    group: str
    lesion: bool

    @property
    def text(self) -> str:
        """Name with the side."""
        return f"{self.side} {self.name}".strip()


def find_structure(label: object, stored: str, names: Names) -> Structure:
    """Find the structure of a label.

    Args:
        label: Number in a label map, segment number, or file name without suffix.
        stored: Name that is stored with the mask; empty if there is none.
        names: The user's names.

    Raises:
        ValueError: The label has no name, or nothing tells whether it is an organ or a lesion.
    """
    row = names.get(str(label)) or names.get(stored) or {}
    name = row.get("name") or stored
    if not name:
        raise ValueError(f"label {label} has no name; add it to names.json of the study or the source, or give --names")
    words = re.findall(r"[^\W_]+", name.lower())
    # The side belongs to some names, such as "heart_atrium_left".
    side = next((word for word in words if word in SIDES and "_".join(words) not in _KNOWN), "")
    words = [word for word in words if word != side]
    known = _KNOWN.get("_".join(words), {})
    kind, group = (row.get(field) or known.get(field, "") for field in ("kind", "group"))
    if kind not in _KINDS:
        saw = f"kind {kind!r}" if kind else "not a class of TotalSegmentator"
        raise ValueError(f"{name!r}: {saw}; give its kind in the names file (--names): {' or '.join(_KINDS)}")
    return Structure(known.get("name") or " ".join(words), side, group, kind == "lesion")


def read_names(path: Path) -> dict[str, dict[str, str]]:
    """Read a names file.

    Args:
        path: A table (CSV, or a JSON array) with the columns `label` and `name`, and optionally `group` and `kind`
            ("organ" or "lesion"). Or a JSON object of names by label, of rows by label, or of labels by name, which may
            be `labels` of nnU-Net's `dataset.json`.

    Raises:
        UserError: The file cannot be read, or a row has no label or no name.
    """
    names = {}
    for number, row in _rows(path):
        texts = {
            field: str(row[field]).strip() for field in ("label", "name", "group", "kind") if row.get(field) is not None
        }
        if not texts.get("label") or not texts.get("name"):
            raise bad_row(path, number, f"expected a label and a name, saw {dict(row)}")
        names[texts.pop("label")] = texts
    return names


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with explain_os_error(f"{path}: cannot be read", "give a CSV or JSON file of names"):
        text = path.read_text(encoding="utf-8-sig", errors="replace").lstrip()
    if not text.startswith("{"):
        yield from rows_of(path)(path)
        return
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: malformed JSON ({error}); give names by label, such as {{'5': 'liver'}}") from error
    labels = content.get("labels", content)
    for number, (key, value) in enumerate(labels.items() if isinstance(labels, dict) else [("", "")], start=1):
        # nnU-Net writes labels by name.
        label, name = (value, key) if isinstance(value, int) else (key, value)
        yield number, {"label": label, **(name if isinstance(name, dict) else {"name": name})}
