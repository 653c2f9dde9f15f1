"""Worker processes that render or decode images in parallel."""

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
"""Minimum number of images for which worker processes are used."""
Job = TypeVar("Job")
Result = TypeVar("Result")


def work_on_images(work: Callable[[Job], Result], jobs: Sequence[Job], take: Callable[[Result], None]) -> None:
    """Run a job for each image, in worker processes if there are at least `FEW` images.

    Args:
        work: Function that processes one job. It must be defined at module level, so that worker processes can import
            it.
        jobs: Arguments of `work`, one per call.
        take: Called with each result, in the order of the jobs.

    Raises:
        UserError: A worker process was killed.
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
    """Process pool with one single-threaded process per core, at most 8.

    More threads do not speed up the small matrix products of image work. If the block raises an exception, including
    KeyboardInterrupt, pending jobs are cancelled and the processes end before the exception propagates. The processes
    also end if this process is killed.

    Yields:
        The pool.
    """
    # Cores that this process may use, which may be fewer than the machine has. Only Linux reports them.
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    pool = ProcessPoolExecutor(min(cores, 8), initializer=_begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    threadpool_limits(1)
    # Ctrl-C reaches every process of the terminal. Workers ignore it; otherwise each would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
