"""JSON Lines files that grow as a training goes on and are cut back when it resumes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medvlm_r1.disk import sync


def append(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows and force them to disk; numbers JSON cannot hold (NaN, infinities) become null."""
    with file.open("a", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n")
        stream.flush()
        # A checkpoint must not outlive the rows of its steps.
        os.fsync(stream.fileno())


def cut_back(file: Path, step: int) -> None:
    """Keep what a training wrote up to a step, so that a resumed run repeats no row.

    Rows after the step and a last row cut short go.

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
            if line.endswith(b"\n") and row["step"] <= step:
                kept.write(line)
    sync(temporary)
    temporary.replace(file)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
