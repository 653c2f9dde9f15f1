"""Error messages on the reader page, without tracebacks."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

from markupsafe import Markup

from medvlm_r1.errors import UserError

Updates = dict[Any, Any]

_log = logging.getLogger(__name__)


def message(text: str) -> Markup:
    """Return a message as HTML, announced by screen readers."""
    return Markup('<p class="message" role="alert">{}</p>').format(text)


def guarded(handler: Callable[..., Any], place: Any, also: Updates | None = None) -> Callable[..., Any]:
    """Wrap an event handler so that it shows errors instead of raising them.

    Args:
        handler: Returns or yields component updates.
        place: The component that shows the message.
        also: Further updates on an error.

    Returns:
        A function of the same kind.
    """

    def told(error: Exception) -> Updates:
        if isinstance(error, UserError):
            return {place: message(str(error)), **(also or {})}
        # Log only the type: the text may quote the question or the file name.
        kind = type(error).__name__
        _log.error("Internal error on the reader page (%s).", kind)
        return {
            place: message(f"Internal error ({kind}). Try again, or reload the page."),
            **(also or {}),
        }

    if inspect.isgeneratorfunction(handler):

        def stepwise(*values: Any) -> Iterator[Updates]:
            try:
                yield from handler(*values)
            except Exception as error:
                yield told(error)

        return stepwise

    def at_once(*values: Any) -> Updates:
        try:
            return handler(*values)  # type: ignore[no-any-return]
        except Exception as error:
            return told(error)

    return at_once
