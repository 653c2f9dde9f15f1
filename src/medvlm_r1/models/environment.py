"""Versions and devices of this machine, for bug reports and for the record of a training run."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "numpy", "medvlm-r1")


def versions() -> dict[str, Any]:
    """Versions of Python and of the packages, the platform, the devices, and the git commit of a checkout."""
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
    """Names of the GPUs; `cpu` if there is no GPU or torch is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return ["cpu"]
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] or ["cpu"]


def _commit() -> str | None:
    """Git commit of the checkout that this package runs from, with `-dirty` if files differ; otherwise None."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # An installed package may be inside an unrelated checkout, which does not track this file.
        git("ls-files", "--error-unmatch", here.name)
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
