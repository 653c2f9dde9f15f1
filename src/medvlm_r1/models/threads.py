"""How many threads a model on the CPU computes with.

The threads of a matrix product wait for the slowest of them. While other work holds the cores, a small model spends
most of its time in that wait. On a quiet machine two threads are a little faster than one.
"""

from __future__ import annotations

import os
import sys
from typing import Any

SMALL = 100_000_000
"""Parameters. A larger model has products long enough to gain from every core it can get."""
_NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def choose_threads(parameters: int, *, load: float, cores: int, threads: int) -> int:
    """The number of threads for a model.

    Args:
        parameters: Of the model.
        load: Processes that want a core, apart from this one.
        cores: That this process may use.
        threads: The default.

    Returns:
        1 for a small model when fewer than `threads` cores are free, to the nearest core; otherwise `threads`.
    """
    busy = cores - load < threads - 0.5
    return 1 if parameters <= SMALL and busy else threads


def limit_threads(model: Any) -> None:
    """Set the number of threads for a loaded model, and report it on stderr when it is less than the default.

    Nothing is changed for a model on another device, or where an environment variable sets the number.
    """
    import torch

    threads = torch.get_num_threads()
    if model.device.type != "cpu" or threads == 1 or any(os.environ.get(name) for name in _NAMES):
        return
    # Neither is there on Windows; there the machine counts as quiet.
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chosen = choose_threads(model.num_parameters(), load=load, cores=cores, threads=threads)
    if chosen < threads:
        torch.set_num_threads(chosen)
        print(
            f"Other work keeps the processor busy (load {load:.1f} on {cores} cores), so this small model runs on one "
            "thread. Set OMP_NUM_THREADS to choose the number.",
            file=sys.stderr,
        )
