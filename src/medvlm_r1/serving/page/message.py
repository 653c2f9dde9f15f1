"""Errors of the reader page as a plain message on it, never a traceback."""

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
    """A message as HTML; a screen reader says it at once."""
    return Markup('<p class="message" role="alert">{}</p>').format(text)


def guarded(handler: Callable[..., Any], place: Any, also: Updates | None = None) -> Callable[..., Any]:
    """An event's function that tells what went wrong instead of raising it.

    Args:
        handler: Gives the updates of components, or yields them.
        place: The component that shows the message.
        also: Further updates when something goes wrong.

    Returns:
        A function of the same kind.
    """

    def told(error: Exception) -> Updates:
        if isinstance(error, UserError):
            return {place: message(str(error)), **(also or {})}
        # The kind alone: the text of an error may quote the question or the file's name.
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
