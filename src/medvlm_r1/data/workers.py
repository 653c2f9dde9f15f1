"""Processes that make or read images side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

_MOST = 8


@contextmanager
def image_workers() -> Iterator[ProcessPoolExecutor]:
    """One process per core, each with one thread: small matrix products gain nothing from more and fight over cores.

    When the block is left by an exception, Ctrl-C among them, what has not begun is dropped and the processes end
    before the exception goes on. They end too when this process is killed.

    Yields:
        The pool.
    """
    pool = ProcessPoolExecutor(min(_cores(), _MOST), initializer=_begin)
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _cores() -> int:
    """Those this process may use, which in a container are fewer than the machine has."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux alone has it.
    return len(usable(0)) if usable else os.cpu_count() or 1


def _begin() -> None:
    threadpool_limits(1)
    # Ctrl-C reaches every process of the terminal; only the parent may act on it, or each prints a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
