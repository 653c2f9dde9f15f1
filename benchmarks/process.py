"""Child processes for measurements, and the time and memory that they use.

The memory of a child is released when it ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import torch

from medvlm_r1.errors import UserError
from medvlm_r1.training.reliability.guard import out_of_memory

_STATUS = Path("/proc/self/status")


class OutOfMemory(UserError):
    """The measured process needs more memory than is available."""


class Child:
    """Run `target(pipe, *args)` in a new process. The target sends its figures through the pipe.

    Args:
        target: A module-level function. It reports failures with `reported`.
        args: Its arguments after the pipe.
    """

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *args), daemon=True)
        self._process.start()
        theirs.close()

    def receive(self) -> dict[str, Any]:
        """Wait for the next figures.

        Raises:
            OutOfMemory: The process ran out of memory, or was killed, usually for the same reason.
            UserError: The process failed for another reason.
        """
        try:
            figures: dict[str, Any] = self.pipe.recv()
        except EOFError as error:
            raise OutOfMemory(
                "The measured process died; most often it ran out of memory. Take a smaller preset."
            ) from error
        if "error" in figures:
            kind = OutOfMemory if figures["out_of_memory"] else UserError
            raise kind(f"The measured process failed: {figures['error']}")
        return figures

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.pipe.close()
        # It ends by itself when it is done, or finds the pipe closed.
        self._process.join(10)
        self._process.terminate()
        self._process.join()


@contextmanager
def reported(pipe: Any) -> Iterator[None]:
    """Context in the child process that sends a failure to the parent instead of raising it."""
    try:
        yield
    except EOFError:
        pass  # the parent closed the pipe
    except Exception as error:
        traceback.print_exc()
        with suppress(OSError):
            pipe.send({"error": f"{type(error).__name__}: {error}", "out_of_memory": out_of_memory(error)})


def now() -> float:
    """Wait for pending GPU work, and return the time in seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak() -> None:
    """Reset the peak memory, so that it excludes earlier work."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM, see proc_pid_clear_refs(5)


def memory_now() -> int:
    """Bytes in use by the GPU's allocator, or the process's resident size; 0 if the system does not report it."""
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else _status("VmRSS") or 0


def peak_memory() -> int:
    """Peak bytes of the GPU's allocator, or of the process's resident size, since `reset_peak`."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    import resource
    import sys

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def _status(name: str) -> int | None:
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
