"""The options of TRL's trainers: which there are, of what type, this project's defaults, and the object TRL takes.

TRL's configuration classes are plain dataclasses that accept any value for any field, so types are checked here.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError
from medvlm_r1.training.overrides import shortened

if TYPE_CHECKING:
    from medvlm_r1.training.config import RunConfig

# Options that have a place of their own in the run configuration, or must not be changed.
ELSEWHERE = {
    "output_dir": "set 'out', the run folder",
    "seed": "set 'seed' beside 'trainer'",
    "reward_weights": "set the weight of each entry of 'rewards'",
    "resume_from_checkpoint": "start the same command again, it resumes by itself",
    "save_only_model": "a checkpoint without its optimizer cannot be resumed from",
    "trust_remote_code": "code shipped with a model is never run",
}
# TRL turns True into "group" and False into "none" but declares text.
_WIDER: dict[str, Any] = {"scale_rewards": bool | str}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "grpo": {},
    # Cutting a sequence would cut image tokens and leave their features behind.
    "sft": {"completion_only_loss": True, "max_length": None},
}
_SHARED_DEFAULTS: dict[str, Any] = {
    "logging_steps": 1,
    "save_steps": 50,
    "save_total_limit": 2,
    "report_to": "tensorboard",
}


def checked(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check names and types of trainer options and fill in the project's defaults.

    Args:
        method: "grpo" or "sft".
        given: Option to value, as read from YAML.

    Returns:
        The options in the types TRL declares, the defaults first.

    Raises:
        ValueError: Unknown option (with the nearest), one that has a place elsewhere, or a value of the wrong type.
    """
    types = _types(method)
    for name in given:
        if name in ELSEWHERE:
            raise ValueError(f"'trainer.{name}' cannot be set here: {ELSEWHERE[name]}")
        if name not in types:
            hint = did_you_mean(name, types)
            hint = (
                hint if hint.startswith("did") else f"the options are those of TRL's {_config_class(method).__name__}"
            )
            raise ValueError(f"unknown key 'trainer.{name}'; {hint}")
    defaults = {**_SHARED_DEFAULTS, **_DEFAULTS[method]}
    if not {"gradient_checkpointing", "activation_checkpointing"} & given.keys():
        defaults["gradient_checkpointing"] = False
    return defaults | {name: _typed(name, value, types[name]) for name, value in given.items()}


def option_names(method: str) -> list[str]:
    """All options of TRL's trainer of a method, "grpo" or "sft", those that have a place elsewhere too."""
    return list(_types(method))


def is_option(name: str) -> bool:
    """Whether TRL has a training option of this name."""
    return name in _types("grpo") or name in _types("sft")


def value(method: str, given: Mapping[str, Any], name: str) -> Any:
    """An option of a run: what is given, else TRL's own default.

    Args:
        method: "grpo" or "sft".
        given: The options under `trainer`, checked.
        name: An option of that method.
    """
    field = _config_class(method).__dataclass_fields__[name]
    default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    return given.get(name, default)


def training_arguments(config: RunConfig) -> Any:
    """Build TRL's configuration object for a run.

    Without a GPU the run is set to the CPU in float32. Model arguments (`model_init_kwargs`) are left out: the policy
    is loaded before the trainer is made.

    Raises:
        UsageError: TRL refuses the combination of options.
    """
    import torch

    given = {**config.trainer}
    given.pop("model_init_kwargs", None)
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        given.setdefault("use_cpu", True)
    if given.get("use_cpu"):
        given.setdefault("bf16", False)
        given.setdefault("dataloader_pin_memory", False)
    if config.method == "grpo":
        given["reward_weights"] = [reward.weight for reward in config.rewards]
    if str(given.get("eval_strategy", "no")) != "no" and config.data.eval is None:
        raise UsageError("trainer.eval_strategy is set but data.eval names no folder to evaluate on")
    try:
        with warnings.catch_warnings():
            # transformers 5 renames gradient_checkpointing; TRL and its users go by the old name.
            warnings.simplefilter("ignore", FutureWarning)
            return _config_class(config.method)(
                output_dir=str(Path(config.out) / "checkpoints"), seed=config.seed, **given
            )
    except (ValueError, TypeError, ImportError) as error:
        raise UsageError(f"TRL refuses the options under 'trainer': {error}") from error


def _typed(name: str, value: Any, wanted: Any) -> Any:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(wanted, config=ConfigDict(arbitrary_types_allowed=True))
        # A switch given for a number would pass as 0 or 1.
        if isinstance(value, bool) and wanted in (int, float):
            raise TypeError
        return adapter.validate_python(value)
    except (ValidationError, TypeError) as error:
        shown = getattr(wanted, "__name__", None) if isinstance(wanted, type) else str(wanted).replace("typing.", "")
        raise ValueError(f"'trainer.{name}' is {shortened(value)} ({type(value).__name__}); wanted {shown}") from error


@functools.cache
def _types(method: str) -> dict[str, Any]:
    config = _config_class(method)
    hints = typing.get_type_hints(config) | _WIDER
    return {field.name: hints[field.name] for field in dataclasses.fields(config) if field.init}


def _config_class(method: str) -> Any:
    import trl

    return trl.GRPOConfig if method == "grpo" else trl.SFTConfig
