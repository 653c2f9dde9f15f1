"""Errors for users, and the research-use notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

RESEARCH_USE = "Research use only. Not a medical device."

_EXTRAS = {
    "train": (
        *("accelerate", "datasets", "huggingface_hub", "peft", "safetensors", "tensorboard", "tokenizers"),
        *("torch", "torchvision", "transformers", "trl"),
    ),
    "serve": ("fastapi", "gradio", "starlette", "uvicorn"),
    "smolvlm": ("num2words",),
}


class UserError(Exception):
    """An error that the user can fix. The message has what was seen, what was expected, where, and what to do."""

    exit_code = 1


class UsageError(UserError):
    """A wrong command, configuration or argument."""

    exit_code = 2


def extra_of(package: str) -> str | None:
    """The extra of medvlm-r1 that installs a package; None for any other package."""
    return next((extra for extra, packages in _EXTRAS.items() if package in packages), None)


@contextmanager
def explain_missing_extra() -> Iterator[None]:
    """Report a missing optional package as the extra that installs it. Also works as a decorator.

    Raises:
        UserError: A package of an extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = extra_of(package)
        if extra is None:
            raise
        raise _missing(package, extra) from error


def require_extra(extra: str) -> None:
    """Check that an extra is installed, before work that would be lost without it.

    Raises:
        UserError: One of its packages is not installed.
    """
    for package in _EXTRAS[extra]:
        if find_spec(package) is None:
            raise _missing(package, extra)


def _missing(package: str, extra: str) -> UserError:
    return UserError(
        f"this needs the package {package!r}, which is not installed. Run `pip install 'medvlm-r1[{extra}]'`."
    )
