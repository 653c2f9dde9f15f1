"""Writes requirements-dev.lock: what this project and its extras need, at the versions that are installed.

`python tests/lock.py FILE`. Only what pyproject.toml leads to, so that nothing else of an environment comes in.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
HEAD = "# Written by `make lock`; `pip install -r requirements-dev.lock` gives the versions the tests were run with.\n"


def asked_for() -> list[Requirement]:
    """What pyproject.toml names, for running, for the extras and for development."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    needs = [Requirement(line) for lines in lists for line in lines]
    return [need for need in needs if canonicalize_name(need.name) != project["name"]]


def pinned() -> dict[str, str]:
    """Name to version of everything that is needed, directly or not, on this platform."""
    installed = {canonicalize_name(distribution.metadata["Name"]): distribution for distribution in distributions()}
    # Not the installed metadata of the project itself, which is as old as the last `pip install -e`.
    wanted = [(canonicalize_name(need.name), set(need.extras)) for need in asked_for()]
    extras_of: dict[str, set[str]] = {}
    while wanted:
        name, extras = wanted.pop()
        if name not in installed or (name in extras_of and extras <= extras_of[name]):
            continue
        extras_of[name] = extras | extras_of.get(name, set())
        for line in installed[name].requires or []:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in {"", *extras_of[name]}):
                wanted.append((canonicalize_name(need.name), set(need.extras)))
    return {name: installed[name].version for name in sorted(extras_of)}


if __name__ == "__main__":
    # A local version ("+cpu") is no version of the index.
    lines = [f"{name}=={version.partition('+')[0]}\n" for name, version in pinned().items()]
    Path(sys.argv[1]).write_text(HEAD + "".join(lines), encoding="utf-8")
