"""Seconds and bytes of this process."""

from __future__ import annotations

import ctypes
import time
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def now() -> float:
    """Seconds on a clock, with the GPU's work done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def forget_peak() -> None:
    """Start the peak anew: what came before may have taken more than what is measured."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM, see proc_pid_clear_refs(5)


def memory_now() -> int:
    """Bytes in use: of the GPU's allocator, or the process's resident size; 0 where the system does not say."""
    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    return _status("VmRSS") or 0


def peak_memory() -> int:
    """Bytes: of the GPU's allocator, or the process's largest resident size, since `forget_peak`."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    import resource
    import sys

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def unused_memory() -> int | None:
    """Bytes that the C library's heap holds and nothing uses: resident, but in the gaps between what is in use.

    None where the C library does not say (glibc's mallinfo2 does).
    """
    if torch.cuda.is_available():
        return None
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    mallinfo.restype = _Mallinfo
    return int(mallinfo().fordblks)


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of mallinfo(3)."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    )


def _status(name: str) -> int | None:
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
