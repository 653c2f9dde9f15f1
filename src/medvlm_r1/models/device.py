"""This machine: settings that depend on its device, and its versions for bug reports.

Most settings are pure functions of the device type, which can be tested without a GPU. The threads of a matrix product
wait for the slowest thread, so a small model on busy cores spends most of its time waiting. On an idle machine, two
threads are slightly faster than one.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

_HALVES = ("bfloat16", "float16")
SMALL = 100_000_000
"""Largest number of parameters of a small model. Larger models gain from every core."""
_NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def best_device() -> str:
    """The best available device: "cuda", "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def inference_dtype(device_type: str, stored: str | None) -> str:
    """Dtype in which a model runs by default.

    Args:
        device_type: "cpu", "cuda", ...
        stored: Dtype of the model's weights, as in its `config.json`; None if unknown.

    Returns:
        float32 on a CPU, where 16-bit dtypes are slower. On "mps", which lacks bfloat16 on older systems, the stored
        dtype (float32 if unknown). On other devices, the stored dtype if it has 16 bits, otherwise bfloat16.
    """
    if device_type == "cpu":
        return "float32"
    if device_type == "mps":
        return stored or "float32"
    return stored if stored in _HALVES else "bfloat16"


def head_columns(device_type: str) -> int:
    """Number of vocabulary columns that the LM head computes at a time, for at most 4096 tokens.

    4096 is TRL's `TOKEN_CHUNK_SIZE`. On a CPU, narrow tiles fit the cache during the softmax. A GPU needs large matrix
    products, so it uses TRL's default width.
    """
    return 512 if device_type == "cpu" else 32768


def choose_threads(parameters: int, *, load: float, cores: int, threads: int) -> int:
    """Choose the number of CPU threads for a model.

    Args:
        parameters: Number of parameters of the model.
        load: Number of cores that other processes use.
        cores: Number of cores available to this process.
        threads: Default number of threads.

    Returns:
        1 for a small model if fewer than `threads` cores are free (rounded to whole cores); otherwise `threads`.
    """
    busy = cores - load < threads - 0.5
    return 1 if parameters <= SMALL and busy else threads


def limit_threads(model: Any) -> None:
    """Set the number of CPU threads for a loaded model; report it on stderr if it is below the default.

    This has no effect if the model is not on the CPU, or if an environment variable sets the number.
    """
    import psutil
    import torch

    threads = torch.get_num_threads()
    if model.device.type != "cpu" or threads == 1 or any(os.environ.get(name) for name in _NAMES):
        return
    # The use at this moment. The load average still counts work that ended a minute ago.
    load = psutil.cpu_percent(interval=0.3) / 100 * psutil.cpu_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chosen = choose_threads(model.num_parameters(), load=load, cores=cores, threads=threads)
    if chosen < threads:
        torch.set_num_threads(chosen)
        print(
            f"Other work keeps the processor busy ({load:.1f} of {cores} cores), so this small model runs on one "
            "thread. Set OMP_NUM_THREADS to choose the number.",
            file=sys.stderr,
        )


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
