"""Names, types, ranges and defaults of the options under `trainer`.

TRL's configuration classes are plain dataclasses that accept any value, so types are checked here.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from medvlm_r1.data.names import nearest
from medvlm_r1.training.limits import conflicts, narrowed
from medvlm_r1.training.overrides import shortened

# Options that are set elsewhere in the run configuration, or must not be changed.
ELSEWHERE = {
    "output_dir": "set 'out', the run folder",
    "seed": "set 'seed' at the top level",
    "reward_weights": "set the weight of each entry of 'rewards'",
    "resume_from_checkpoint": "run the same command again; it resumes",
    "save_only_model": "a checkpoint without its optimizer cannot be resumed from",
    "trust_remote_code": "code shipped with a model is never run",
}
GROUPS = " Where it is not set, it is per_device_train_batch_size x devices x gradient_accumulation_steps."
# Options with the value "no", which YAML parses as false.
_NO = ("eval_strategy", "save_strategy", "logging_strategy")
# Options that depend on the machine. A dry run may use another machine than the training.
OF_THE_MACHINE = ("bf16", "bf16_full_eval", "fp16", "fp16_full_eval", "tf32", "deepspeed", "fsdp", "fsdp_config")
_CLASSES = {"grpo": "GRPOConfig", "sft": "SFTConfig"}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "grpo": {},
    # Truncating a sequence would remove image tokens but not their features.
    "sft": {"completion_only_loss": True, "max_length": None},
}
_SHARED_DEFAULTS: dict[str, Any] = {
    "logging_steps": 1,
    "save_steps": 50,
    "save_total_limit": 2,
    "report_to": "tensorboard",
}


def checked(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check names, types and ranges of trainer options and fill in the project's defaults.

    Args:
        method: "grpo" or "sft".
        given: Options by name, as read from YAML.

    Returns:
        The defaults, updated with the given options, which are converted to the types that TRL declares.

    Raises:
        ValueError: Unknown options (with the nearest name), options that are set elsewhere, values of the wrong type or
            out of range, or contradicting values. The message lists all problems of one kind.
    """
    _raise(_wrong_names(method, given))
    known, values, wrong = types_of(method), {}, []
    for name, value in given.items():
        try:
            values[name] = typed(name, value, known[name])
        except ValueError as error:
            wrong.append(str(error))
    _raise(wrong or conflicts(values))
    defaults = {**_SHARED_DEFAULTS, **_DEFAULTS[method]}
    if not {"gradient_checkpointing", "activation_checkpointing"} & given.keys():
        defaults["gradient_checkpointing"] = False
    return defaults | values


def _raise(problems: Iterable[str]) -> None:
    text = "; ".join(problems)
    if text:
        raise ValueError(text)


def _wrong_names(method: str, given: Mapping[str, Any]) -> list[str]:
    names = option_names(method)
    problems = []
    for name in given:
        if name in ELSEWHERE:
            problems.append(f"'trainer.{name}' cannot be set here: {ELSEWHERE[name]}")
        elif name not in names:
            near = _abbreviated(name, names) or nearest(name, names)
            hint = f"did you mean {near!r}?" if near else f"the options are those of TRL's {_CLASSES[method]}"
            problems.append(f"unknown key 'trainer.{name}'; {hint}")
    return problems


def _abbreviated(name: str, names: Iterable[str]) -> str | None:
    """Find an option by its initials (lr) or a part of its name (epochs). Options with "train" are preferred."""
    containing = [option for option in names if len(name) > 3 and name in option]
    initials = (option for option in names if "".join(word[0] for word in option.split("_")) == name)
    return next(initials, min(containing, key=lambda option: "train" not in option, default=None))


def option_names(method: str) -> tuple[str, ...]:
    """Names of all options of TRL's trainer for a method ("grpo" or "sft"), including those in `ELSEWHERE`."""
    return tuple(types_of(method))


def is_option(name: str) -> bool:
    """Whether TRL has a training option of this name."""
    return name in option_names("grpo") or name in option_names("sft")


def value(method: str, given: Mapping[str, Any], name: str) -> Any:
    """The value of an option in a run: the given one, otherwise TRL's default.

    Args:
        method: "grpo" or "sft".
        given: The options under `trainer`, already checked.
        name: An option of that method.
    """
    field = config_class(method).__dataclass_fields__[name]
    default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    return given.get(name, default)


def typed(name: str, value: Any, wanted: Any) -> Any:
    """The value of option `name` converted to the type `wanted`.

    Raises:
        ValueError: The value has another type or is out of range.
    """
    if value is False and name in _NO:
        value = "no"
    adapter: TypeAdapter[Any] = TypeAdapter(
        wanted, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    )
    number = typing.get_args(wanted)[0] if typing.get_origin(wanted) is typing.Annotated else wanted
    # pydantic would accept a boolean as the number 0 or 1.
    expected = ["a number"]
    if not isinstance(value, bool) or number not in (int, float):
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            messages = (item["msg"].removeprefix("Input should be ") for item in error.errors())
            expected = [message.partition(", unable to")[0] for message in messages]
    raise ValueError(f"'trainer.{name}' is {shortened(value)} ({type(value).__name__}); wanted {' or '.join(expected)}")


@functools.cache
def types_of(method: str) -> dict[str, Any]:
    """Type of every option of a method, restricted to its valid range."""
    config = config_class(method)
    hints = typing.get_type_hints(config)
    by_name = {}
    for field in dataclasses.fields(config):
        if field.init:
            # Fields with choices take None where that is their default.
            choices = typing.Literal[(*field.metadata["choices"],)] if "choices" in field.metadata else None
            declared = hints[field.name] if choices is None else choices | (None if field.default is None else choices)
            by_name[field.name] = narrowed(method, field.name, declared)
    return by_name


def config_class(method: str) -> Any:
    """TRL's configuration class of a method."""
    import trl

    return getattr(trl, _CLASSES[method])
