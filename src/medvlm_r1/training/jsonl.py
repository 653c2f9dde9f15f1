"""JSON Lines files that grow as a training goes on and are cut back when it resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def append(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows and flush them; numbers JSON cannot hold (NaN, infinities) become null."""
    with file.open("a", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n")


def cut_back(file: Path, step: int) -> None:
    """Keep what a training wrote up to a step, so that a resumed run repeats no row.

    Rows after the step, a last row cut short, and the closing summary of a run that was stopped go.

    Args:
        file: rows with a `step` each; it need not be there.
        step: the last step kept, 0 for none.
    """
    if not file.is_file():
        return
    temporary = file.with_name(file.name + ".tmp")
    with file.open("rb") as source, temporary.open("wb") as kept:
        for line in source:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if line.endswith(b"\n") and row["step"] <= step and "train_runtime" not in row:
                kept.write(line)
    temporary.replace(file)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
