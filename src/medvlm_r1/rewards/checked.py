"""Checks of user-defined rewards: the signature before a model is loaded, the result at every step."""

from __future__ import annotations

import functools
import inspect
import math
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError, UserError

DATA_COLUMNS = ("images", "letter", "options", "sample_id", "modality")
"""Columns of the dataset besides the prompt (`training.dataset`)."""
COLUMNS = (*DATA_COLUMNS, "blank_letter", "own_image")
"""Columns that a reward can name besides prompts and completions. The last two are generated only on request."""
FROM_TRL = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""Arguments that TRL adds."""


_ARGS, _KEYWORDS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def check_signature(name: str, function: Callable[..., Any]) -> None:
    """Reject a function that cannot be called as a reward.

    Args:
        name: Its name in the configuration.
        function: The function.

    Raises:
        UsageError: It requires a missing column, or does not accept the columns that TRL passes.
    """
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"reward {name!r} is an async function; write it with 'def' instead of 'async def'")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        # A C function has no signature; its result is checked at each step.
        return
    known = (*FROM_TRL, *COLUMNS)
    named = [parameter for parameter in parameters if parameter.kind not in (_ARGS, _KEYWORDS)]
    for parameter in named:
        if parameter.default is not parameter.empty:
            continue
        if parameter.kind == parameter.POSITIONAL_ONLY:
            raise UsageError(
                f"reward {name!r}: the parameter {parameter.name!r} is positional only; columns come by keyword"
            )
        if parameter.name not in known:
            raise UsageError(
                f"reward {name!r} asks for the column {parameter.name!r}, which the data do not have; "
                f"{did_you_mean(parameter.name, known)}"
            )
    taken = {parameter.name for parameter in named}
    missing = [column for column in (*FROM_TRL, *DATA_COLUMNS) if column not in taken]
    if missing and not any(parameter.kind == _KEYWORDS for parameter in parameters):
        raise UsageError(
            f"reward {name!r} does not take {', '.join(missing)}, which every reward is handed; add '**columns' to "
            "its parameters"
        )


def checked(name: str, function: Callable[..., Any]) -> Callable[..., Sequence[float | None]]:
    """Wrap a reward so that failures and invalid results name it as the configuration does.

    The wrapper raises `UserError` if the function raises, or returns anything but one number for each completion. As in
    TRL, None means that a completion is not judged; None for all completions is an error.

    Args:
        name: Its name in the configuration.
        function: The function, called as TRL calls it.
    """

    @functools.wraps(function)
    def call(*args: Any, **columns: Any) -> list[float | None]:
        completions = columns["completions"] if "completions" in columns else args[1]
        try:
            result = function(*args, **columns)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"The reward {name!r} failed with {type(error).__name__}: {error} ({_where(error)}). Correct the "
                "function, and try it on a few completions before the next run."
            ) from error
        return _numbers(name, result, len(completions))

    return call


def _numbers(name: str, result: Any, count: int) -> list[float | None]:
    wanted = f"wanted a list of {count} numbers, one for each completion"
    if isinstance(result, str | bytes | dict):
        raise UserError(f"The reward {name!r} returned a {type(result).__name__}; {wanted}.")
    try:
        values: Sequence[Any] = list(result)
    except TypeError:
        raise UserError(f"The reward {name!r} returned {_shortened(result)}; {wanted}.") from None
    if len(values) != count:
        raise UserError(f"The reward {name!r} returned {len(values)} values; {wanted}.")
    numbers: list[float | None] = []
    for index, value in enumerate(values):
        try:
            number = None if value is None else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, str) or (number is not None and math.isnan(number)):
            raise UserError(f"The reward {name!r} returned {_shortened(value)} for completion {index}; {wanted}.")
        numbers.append(number)
    if numbers and all(number is None for number in numbers):
        raise UserError(
            f"The reward {name!r} returned None for all {count} completions, so nothing is learned; {wanted}."
        )
    return numbers


def _shortened(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def _where(error: Exception) -> str:
    """File and line of the user's code that raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}, line {last.lineno}"
