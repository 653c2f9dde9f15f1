"""Registry of rewards by name, and user-defined rewards by dotted path."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError
from medvlm_r1.rewards.accuracy_paper import accuracy_paper
from medvlm_r1.rewards.accuracy_strict import accuracy_strict
from medvlm_r1.rewards.checked import check_signature
from medvlm_r1.rewards.consistent import consistent
from medvlm_r1.rewards.format_paper import format_paper
from medvlm_r1.rewards.format_strict import format_strict
from medvlm_r1.rewards.grounded import grounded

Reward = Callable[..., Sequence[float | None]]
"""TRL's reward signature `f(prompts, completions, **columns)`: one completion per prompt, dataset columns by keyword.
It returns one number per completion, or None for a completion that it does not judge. The built-in rewards ignore the
prompts and name the columns they need."""

REGISTRY: dict[str, Reward] = {
    "accuracy_paper": accuracy_paper,
    "format_paper": format_paper,
    "accuracy_strict": accuracy_strict,
    "format_strict": format_strict,
    "consistent": consistent,
    "grounded": grounded,
}


def resolve_reward(name: str) -> Reward:
    """The reward function behind a name.

    Args:
        name: A name in `REGISTRY`, or the dotted path of a function of the user, `package.module:function` or
            `package.module.function`. Modules are found on Python's path and in the working directory. The
            function is called as TRL calls it: `f(prompts=..., completions=..., **columns)`, and returns one number
            per completion.

    Returns:
        The function.

    Raises:
        UsageError: There is no such name, module or function, the module fails to import, or the function cannot be
            called with the columns of the data (`rewards.checked`). The message names the nearest name.
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
    function: Any = getattr(module, attribute)
    if not callable(function):
        raise UsageError(f"reward {name!r}: {attribute!r} is a {type(function).__name__}, expected a function")
    check_signature(name, function)
    reward: Reward = function
    return reward


def asks(reward: Reward, column: str) -> bool:
    """Whether a reward names a column in its signature."""
    return column in inspect.signature(reward).parameters


def any_asks(names: Iterable[str], column: str) -> bool:
    """Whether one of these rewards names a column in its signature."""
    return any(asks(resolve_reward(name), column) for name in names)


def _import(name: str, module_name: str) -> ModuleType:
    # A console script does not have the working directory on its path, where a user's own reward most often lies.
    # Last, so that nothing there can stand in for an installed package.
    here = str(Path.cwd())
    added = [] if here in sys.path else [here]
    sys.path.extend(added)
    try:
        return importlib.import_module(module_name)
    # Importing runs the user's own code, which may raise anything.
    except Exception as error:
        raise UsageError(
            f"reward {name!r}: the module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            f"{did_you_mean(name, REGISTRY)}"
        ) from error
    finally:
        for path in added:
            sys.path.remove(path)
