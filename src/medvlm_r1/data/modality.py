"""Standard names of the imaging modalities.

The long spellings are those of OmniMedVQA (arXiv 2402.09181), which the other collections reuse. The two-letter codes
are DICOM's. Case, spaces, hyphens and brackets are ignored. `Unknown` is the modality of data sets that do not name
one. A longer text is accepted if it names exactly one modality (`MRI brain`, `chest X-ray`). Anything else is an error.
"""

import csv
import re
from pathlib import Path

UNKNOWN = "Unknown"

with Path(__file__).with_name("modalities.csv").open(encoding="utf-8", newline="") as _file:
    _ROWS = list(csv.DictReader(_file))

MODALITIES = tuple(row["name"] for row in _ROWS)


def _key(spelling: str) -> str:
    return "".join(character for character in spelling.casefold() if character.isalnum())


# Words that name a modality in any text. Codes such as US or OP may mean something else in a longer text.
_PLAIN_WORDS = {word for row in _ROWS for word in row["words"].split("|") if word}
_BY_KEY = {_key(spelling): row["name"] for row in _ROWS for spelling in row["spellings"].split("|")}


def modality_name(spelling: str) -> str | None:
    """Standard name of a modality.

    Args:
        spelling: Spelling in a data set or from a user. Only letters and digits count; case is ignored.

    Returns:
        One of `MODALITIES`, or None for an unknown spelling.
    """
    return _BY_KEY.get(_key(spelling))


def known_modality(spelling: str, field: str) -> str:
    """Convert a row's modality field to the standard name of the modality.

    Args:
        spelling: Content of the field: a spelling of a modality, or a longer text that names exactly one.
        field: Name of the field, for the error message.

    Raises:
        ValueError: The text names no known modality, or more than one.
    """
    name = modality_name(spelling)
    if name is not None:
        return name
    words = re.split(r"[^a-z0-9-]+", re.sub(r"\bx[ _]ray\b", "x-ray", spelling.casefold()))
    named = {modality_name(word) for word in words if word in _PLAIN_WORDS}
    if len(named) == 1:
        return str(named.pop())
    what = "which names several modalities" if named else f"known: {', '.join(MODALITIES)}"
    raise ValueError(f"unknown modality {spelling!r} in {field!r}; {what}")
