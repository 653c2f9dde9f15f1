"""SIGTERM during work that keeps what is finished: the end at once, exit code 0, and a line that says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from medvlm_r1.errors import UserError


class Preempted(UserError):
    """A scheduler asked the work to end, and nothing is lost: no failure, so the exit code is 0."""

    exit_code = 0


@contextmanager
def ends_on_sigterm(folder: Path) -> Iterator[None]:
    """End on SIGTERM as Ctrl-C does, but with another exit code; a second SIGTERM changes nothing.

    Python gives signals to the main thread alone; in another one nothing is done, and the caller handles them.

    Args:
        folder: Of the run, whose finished items are on disk at any time.

    Raises:
        Preempted: SIGTERM came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        # A launcher hands the signal on to processes that had it already.
        if not asked:
            asked = True
            # No UserError: libraries catch those.
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not asked:
            raise
        raise Preempted(
            f"Stopped by SIGTERM. What is finished is kept in {folder}; the same command goes on from there."
        ) from interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
