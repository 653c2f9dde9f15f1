"""SIGTERM handler for resumable work: stop at once with a message and exit code 0."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from medvlm_r1.errors import UserError


class Preempted(UserError):
    """SIGTERM, usually from a job scheduler, stopped the process. Finished work is kept, so the exit code is 0."""

    exit_code = 0


@contextmanager
def stop_on_sigterm(folder: Path) -> Iterator[None]:
    """Stop on SIGTERM as on Ctrl-C, but with exit code 0. A second SIGTERM is ignored.

    Python delivers signals to the main thread only. In any other thread, this context manager does nothing.

    Args:
        folder: Run folder that holds the finished items.

    Raises:
        Preempted: SIGTERM was received.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = False

    def interrupt_once(number: int, frame: FrameType | None) -> None:
        nonlocal received
        # A launcher may forward a signal that this process has already received.
        if not received:
            received = True
            # Not a UserError: libraries catch subclasses of Exception.
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt_once)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not received:
            raise
        raise Preempted(f"Stopped by SIGTERM. Finished work is kept in {folder}; re-run to resume.") from interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
