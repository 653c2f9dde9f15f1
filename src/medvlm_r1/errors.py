"""Errors that users can fix, checks for optional packages, and the research-use notice."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

RESEARCH_USE = "Research use only. Not a medical device."

_EXTRAS = {
    "train": (
        *("accelerate", "datasets", "huggingface_hub", "peft", "psutil", "safetensors", "tensorboard", "tokenizers"),
        *("torch", "torchvision", "transformers", "trl"),
    ),
    "serve": ("fastapi", "gradio", "starlette", "uvicorn"),
    "smolvlm": ("num2words",),
}


class UserError(Exception):
    """An error that the user can fix. Its message states what was found, what was expected, where, and what to do."""

    exit_code = 1


class UsageError(UserError):
    """A wrong command, configuration or argument."""

    exit_code = 2


def extra_of(package: str) -> str | None:
    """Name of the medvlm-r1 extra that installs a package, or None if no extra installs it."""
    return next((extra for extra, packages in _EXTRAS.items() if package in packages), None)


@contextmanager
def explain_missing_extra() -> Iterator[None]:
    """Convert the import error of an optional package to a `UserError` that names its extra.

    The context manager also works as a decorator.

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
    """Check that all packages of an extra are installed, before long work that needs them.

    Raises:
        UserError: A package of the extra is not installed.
    """
    for package in _EXTRAS[extra]:
        if find_spec(package) is None:
            raise _missing(package, extra)


def _missing(package: str, extra: str) -> UserError:
    return UserError(
        f"this needs the package {package!r}, which is not installed. Run `pip install 'medvlm-r1[{extra}]'`."
    )
