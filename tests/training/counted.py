"""A callable that notes its calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Counted:
    """A callable that notes its calls."""

    def __init__(self, wrapped: Callable[..., Any]) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._wrapped = wrapped

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(args)
        return self._wrapped(*args, **kwargs)
