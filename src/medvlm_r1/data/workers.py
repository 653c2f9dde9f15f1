"""Worker processes that render or decode images in parallel."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

from medvlm_r1.errors import UserError

FEW = 64
"""Fewer images than this are handled in this process."""
Job = TypeVar("Job")
Result = TypeVar("Result")


def work_on_images(work: Callable[[Job], Result], jobs: Sequence[Job], take: Callable[[Result], None]) -> None:
    """Run a job for each image, on all cores if there are enough images.

    Args:
        work: A function of a module, so that other processes find it.
        jobs: What it is given, one at a time.
        take: Given each result, in the order of the jobs.

    Raises:
        UserError: A process was killed from outside.
    """
    if len(jobs) < FEW:
        for job in jobs:
            take(work(job))
        return
    taken = 0
    try:
        with image_workers() as pool:
            for result in pool.map(work, jobs, chunksize=16):
                take(result)
                taken += 1
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that works on images was killed after {taken} of {len(jobs)}, most likely because the memory "
            "ran out; free some memory and try again"
        ) from error


@contextmanager
def image_workers() -> Iterator[ProcessPoolExecutor]:
    """A process pool with one process per core and one thread each, since small matrix products gain nothing from more.

    When the block is left by an exception, Ctrl-C among them, what has not begun is dropped and the processes end
    before the exception goes on. They end too when this process is killed.

    Yields:
        The pool.
    """
    # Cores that this process may use: in a container fewer than the machine has. Only Linux reports them.
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    pool = ProcessPoolExecutor(min(cores, 8), initializer=_begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


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
