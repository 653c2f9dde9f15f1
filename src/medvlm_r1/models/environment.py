"""Versions and devices of this machine, for bug reports and for the record of a training run."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "numpy", "medvlm-r1")


def versions() -> dict[str, Any]:
    """Python, platform, devices, package versions, and the commit of a checkout."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": _devices(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[str]:
    """Names of the GPUs; `cpu` without one, or without torch."""
    try:
        import torch
    except ModuleNotFoundError:
        return ["cpu"]
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] or ["cpu"]


def _commit() -> str | None:
    """The git commit of this package when it runs from a checkout, with `-dirty` when files differ from it."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # An installed package may lie inside somebody else's checkout; only a tracked file has a commit.
        git("ls-files", "--error-unmatch", here.name)
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
