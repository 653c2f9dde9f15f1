"""Processes that render images side by side."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor

from threadpoolctl import threadpool_limits


def image_workers() -> ProcessPoolExecutor:
    """One process per core, each with one thread: small matrix products gain nothing from more and fight over cores."""
    return ProcessPoolExecutor(min(os.cpu_count() or 1, 8), initializer=_single_thread)


def _single_thread() -> None:
    threadpool_limits(1)
