"""Print the lowest version of each dependency that pyproject.toml allows, as requirements for pip.

torch is left out: it is borrowed from another environment.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def lowest_versions() -> list[str]:
    """One `name==version` for each dependency of the core and of the extra `train`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    pairs = [re.match(r"([\w-]+)>=([\d.]+)", bound) for bound in bounds]
    return [f"{pair[1]}=={pair[2]}" for pair in pairs if pair and not pair[1].startswith("torch")]


if __name__ == "__main__":
    print("\n".join(lowest_versions()))
