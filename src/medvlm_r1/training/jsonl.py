"""JSON Lines logs that are appended during training and truncated on resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medvlm_r1.disk import sync


def append(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows and flush them to disk; NaN and Inf become null."""
    with file.open("a", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n")
        stream.flush()
        # A checkpoint must not outlive the rows of its steps.
        os.fsync(stream.fileno())


def cut_back(file: Path, step: int) -> None:
    """Truncate a log to a step, so that a resumed run does not repeat rows.

    Rows after the step and an incomplete last row are removed.

    Args:
        file: Log whose rows have a `step`; may be missing.
        step: Last step to keep, 0 for none.
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
