"""Says which modules of mathematics have a line that no test runs; `make coverage` runs it.

`python tests/whole.py FILE`, the JSON that coverage.py writes. Exit code 1 if there is such a line, or if a pattern
names no module.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

WHOLE = (
    "audit/blind.py",
    "audit/claims.py",
    "audit/corrupt_rules.py",
    "audit/fit.py",
    "audit/measures.py",
    "audit/order.py",
    "audit/probe.py",
    "audit/probes/*.py",
    "audit/telling.py",
    "audit/verdict.py",
    "data/images/levels.py",
    "data/images/windowing.py",
    "data/option_prior.py",
    "dialogue/conclusion.py",
    "dialogue/lenient.py",
    "dialogue/live.py",
    "dialogue/prompt.py",
    "dialogue/response.py",
    "dialogue/turn.py",
    "evaluation/calibration.py",
    "evaluation/compare.py",
    "evaluation/score.py",
    "evaluation/statistics.py",
    "phantom/geometry.py",
    "phantom/imaging.py",
    "phantom/physics.py",
    "phantom/tissue.py",
    "policy/letters.py",
    "policy/linears.py",
    "rewards/*.py",
    "training/cache_layer.py",
    "training/contrast.py",
    "training/decoding.py",
    "training/drawn_generation.py",
    "training/grpo.py",
    "training/joined_attention.py",
    "training/last_layer.py",
    "training/packed_layout.py",
    "training/plan/*.py",
    "training/prefix_attention.py",
    "training/prompt_attention.py",
    "training/reading.py",
    "training/shared_batch.py",
    "training/shared_generation.py",
    "training/shared_prefix.py",
    "training/sharing_limits.py",
)
"""A wrong line here gives wrong figures in silence."""


def not_whole(record: Mapping[str, Any], patterns: tuple[str, ...] = WHOLE) -> list[str]:
    """One line for each module that is not run to its last line, and for each pattern without a module."""
    files = {name.partition("medvlm_r1/")[2]: found for name, found in record["files"].items()}
    faults = []
    for pattern in patterns:
        names = sorted(name for name in files if fnmatch(name, pattern))
        if not names:
            faults.append(f"{pattern}: no such module was measured")
        faults += [
            f"{name}: no test runs line {', '.join(map(str, files[name]['missing_lines']))}"
            for name in names
            if files[name]["missing_lines"]
        ]
    return faults


if __name__ == "__main__":
    found = not_whole(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print("\n".join(found) or f"Every line of the mathematics is run ({len(WHOLE)} patterns).")
    sys.exit(bool(found))
