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
    "audit/dataset/baselines.py",
    "audit/claims.py",
    "audit/measures.py",
    "audit/probe.py",
    "audit/probes/*.py",
    "data/images/windowing.py",
    "data/option_prior.py",
    "prompts/conclusion.py",
    "prompts/lenient.py",
    "prompts/templates.py",
    "prompts/parser.py",
    "prompts/assistant_response.py",
    "evaluation/calibration.py",
    "evaluation/compare.py",
    "evaluation/score.py",
    "evaluation/statistics.py",
    "phantom/body.py",
    "phantom/imaging.py",
    "models/choice_logprobs.py",
    "rewards/*.py",
    "models/onednn_linear.py",
    "models/decoding/kv_cache.py",
    "training/counterfactual.py",
    "models/decoding/per_row_sampling.py",
    "training/grpo.py",
    "training/dry_run/*.py",
    "models/sharing/attention.py",
    "models/sharing/batch.py",
    "models/decoding/shared_generation.py",
    "models/sharing/forward.py",
)
"""A wrong line here gives wrong figures in silence."""


def not_whole(record: Mapping[str, Any], patterns: tuple[str, ...] = WHOLE) -> list[str]:
    """One line for each module that is not run to its last line, and for each pattern without a module."""
    files = {name.partition("medvlm_r1/")[2]: module for name, module in record["files"].items()}
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
    faults = not_whole(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print("\n".join(faults) or f"Every line of the mathematics is run ({len(WHOLE)} patterns).")
    sys.exit(bool(faults))
