"""The libraries for image files kept silent: their warnings quote header values, which may name a patient."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_LOGGERS = ("pydicom", "pylibjpeg", "nibabel", "nibabel.global")
_lock = threading.Lock()
_depth = 0
_restore = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """No Python warning and no log line while it is entered, by whichever thread.

    Warning filters belong to the process: the first thread in sets them and the last one out puts them back, so that
    threads that overlap can neither let a warning slip nor leave the filters changed.
    """
    global _depth
    with _lock:
        if _depth == 0:
            _silence()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _restore.close()


def _silence() -> None:
    _restore.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        _restore.callback(setattr, logger, "disabled", logger.disabled)
        logger.disabled = True
