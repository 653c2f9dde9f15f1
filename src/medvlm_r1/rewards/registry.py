"""Registry of rewards by name, and user-defined rewards by dotted path.

The signature of a user-defined reward is checked before a model is loaded. Its result is checked at every step.
"""

import functools
import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.rewards.accuracy_paper import accuracy_paper
from medvlm_r1.rewards.accuracy_strict import accuracy_strict
from medvlm_r1.rewards.box_iou import box_iou
from medvlm_r1.rewards.box_point import box_point
from medvlm_r1.rewards.consistent import consistent
from medvlm_r1.rewards.format_box import format_box
from medvlm_r1.rewards.format_paper import format_paper
from medvlm_r1.rewards.format_strict import format_strict
from medvlm_r1.rewards.grounded import grounded
from medvlm_r1.rewards.open_answer import open_answer

Reward = Callable[..., Sequence[float | None]]
"""TRL's reward signature `f(prompts, completions, **columns)`: one completion per prompt, dataset columns by keyword.
The function returns one number per completion, or None for a completion that it does not judge. The built-in rewards
ignore the prompts and name the columns they need."""

_REWARDS: tuple[Reward, ...] = (
    *(accuracy_paper, format_paper, accuracy_strict, format_strict, consistent, grounded),
    *(box_iou, box_point, format_box, open_answer),
)
REGISTRY: dict[str, Reward] = {reward.__name__: reward for reward in _REWARDS}
_NEED_OPTIONS = (accuracy_paper, accuracy_strict, consistent, grounded)
"""Rewards that do not judge open questions."""

DATA_COLUMNS = (
    *("images", "question", "letter", "options", "answer", "sample_id", "modality"),
    *("boxes", "shown_size"),
)
"""Columns of the training dataset, other than the prompt (`training.dataset`)."""
FROM_TRL = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""Arguments that TRL passes to every reward in addition to the dataset columns."""
_KNOWN = (*FROM_TRL, *DATA_COLUMNS, "blank_letter", "own_image")
"""All parameters that a reward can name. The last two columns are generated only if a reward names them."""


def resolve_reward(name: str) -> Reward:
    """Find a reward function by name.

    Args:
        name: A name in `REGISTRY`, or the dotted path of a user-defined function: `package.module:function` or
            `package.module.function`. Modules are found on Python's path and in the working directory. The function is
            called as `f(prompts=..., completions=..., **columns)` and returns one number per completion.

    Returns:
        The function.

    Raises:
        UsageError: The name, module or function does not exist, the module fails to import, or the function cannot be
            called with the columns of the data (`check_signature`). For an unknown name, the message suggests the
            nearest one.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    module_name, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    if not module_name or not attribute:
        raise UsageError(
            f"unknown reward {name!r} (a function of your own is named by its path, 'package.module:function'); "
            f"{did_you_mean(name, REGISTRY)}"
        )
    module = _import(name, module_name)
    if not hasattr(module, attribute):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"reward {name!r}: {module_name} has no {attribute!r}; {did_you_mean(attribute, functions)}")
    reward: Reward = getattr(module, attribute)
    if not callable(reward):
        raise UsageError(f"reward {name!r}: {attribute!r} is a {type(reward).__name__}, expected a function")
    check_signature(name, reward)
    return reward


def asks(reward: Reward, column: str) -> bool:
    """Whether a reward function has a parameter with the name of the column."""
    return column in inspect.signature(reward).parameters


def any_asks(names: Iterable[str], column: str) -> bool:
    """Whether any of the named rewards has a parameter with the name of the column."""
    return any(asks(resolve_reward(name), column) for name in names)


def _import(name: str, module_name: str) -> ModuleType:
    # User-defined rewards are usually in the working directory, which is not on the path of a console script. It is
    # added last, so that no file in it can shadow an installed package.
    here = str(Path.cwd())
    added = [] if here in sys.path else [here]
    sys.path.extend(added)
    try:
        return importlib.import_module(module_name)
    # The import runs the user's code, which may raise any exception.
    except Exception as error:
        raise UsageError(
            f"reward {name!r}: the module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            f"{did_you_mean(name, REGISTRY)}"
        ) from error
    finally:
        for path in added:
            sys.path.remove(path)


def check_signature(name: str, function: Callable[..., Any]) -> None:
    """Reject a function that cannot be called as a reward.

    Args:
        name: Name of the reward in the configuration.
        function: The function to check.

    Raises:
        UsageError: The function is async, requires a column that does not exist, or does not accept all columns by
            keyword.
    """
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"reward {name!r} is an async function; write it with 'def' instead of 'async def'")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        # A C function has no signature; its result is checked at each step.
        return
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for parameter in (p for p in named if p.default is p.empty):
        if parameter.kind == parameter.POSITIONAL_ONLY:
            raise UsageError(
                f"reward {name!r}: the parameter {parameter.name!r} is positional only; columns come by keyword"
            )
        if parameter.name not in _KNOWN:
            raise UsageError(
                f"reward {name!r} asks for the column {parameter.name!r}, which the data do not have; "
                f"{did_you_mean(parameter.name, _KNOWN)}"
            )
    missing = [column for column in (*FROM_TRL, *DATA_COLUMNS) if column not in {p.name for p in named}]
    if missing and not any(p.kind == p.VAR_KEYWORD for p in parameters):
        raise UsageError(
            f"reward {name!r} does not take {', '.join(missing)}, which every reward is handed; add '**columns' to "
            "its parameters"
        )


def checked(name: str, function: Callable[..., Any]) -> Callable[..., Sequence[float | None]]:
    """Wrap a reward so that its failures and invalid results are reported with its name.

    The wrapper raises `UserError` if the function raises an exception, or does not return one number for each
    completion. As in TRL, None means that a completion is not judged. None for all completions is an error, except of a
    built-in reward, or of a function that takes the column `options`: a batch may hold only open questions, or none.
    Built-in rewards of letters do not judge open questions.

    Args:
        name: Name of the reward in the configuration.
        function: The reward function.
    """
    may_skip = _names_options(function)

    @functools.wraps(function)
    def call(*args: Any, **columns: Any) -> list[float | None]:
        completions = columns["completions"] if "completions" in columns else args[1]
        try:
            result = function(*args, **columns)
        except UserError:
            raise
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"The reward {name!r} failed with {type(error).__name__}: {error} ({last.filename}, line "
                f"{last.lineno}). Correct the function, and try it on a few completions before the next run."
            ) from error
        numbers = _numbers(name, result, len(completions), may_skip=may_skip)
        if function in _NEED_OPTIONS and "options" in columns:
            pairs = zip(numbers, columns["options"], strict=True)
            return [number if options else None for number, options in pairs]
        return numbers

    return call


def _names_options(function: Callable[..., Any]) -> bool:
    try:
        return asks(function, "options")
    except (TypeError, ValueError):
        # A C function has no signature.
        return False


def _numbers(name: str, result: Any, count: int, *, may_skip: bool) -> list[float | None]:
    """Check that a result has one number or None for each completion."""

    def refusal(description: str) -> UserError:
        return UserError(
            f"The reward {name!r} returned {description}; wanted a list of {count} numbers, one for each completion."
        )

    if isinstance(result, str | bytes | dict):
        raise refusal(f"a {type(result).__name__}")
    try:
        values = list(result)
    except TypeError:
        raise refusal(_shortened(result)) from None
    if len(values) != count:
        raise refusal(f"{len(values)} values")
    # A batch without boxes, without open questions or with nothing else is no error.
    if name not in REGISTRY and not may_skip and values and all(value is None for value in values):
        raise refusal(f"None for all {count} completions, so nothing is learned")
    numbers: list[float | None] = []
    for index, value in enumerate(values):
        try:
            number = None if value is None else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, str) or (number is not None and math.isnan(number)):
            raise refusal(f"{_shortened(value)} for completion {index}")
        numbers.append(number)
    return numbers


def _shortened(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
