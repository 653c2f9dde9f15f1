"""Names, types, ranges and defaults of the options under `trainer`.

TRL's configuration classes are plain dataclasses that accept any value, so types are checked here.
"""

import dataclasses
import functools
import reprlib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from medvlm_r1.data.names import nearest

_FACTS = yaml.safe_load(Path(__file__).with_name("options.yaml").read_text(encoding="utf-8"))
_LIMITS = {name: Field(**row["limits"]) for row in _FACTS["ranges"] for name in row["options"].split()}
_AT_LEAST_ONE = Field(ge=1)
_TYPES: dict[str, Any] = {
    # TRL declares a string, but also converts True to "group" and False to "none".
    "scale_rewards": bool | Literal["group", "batch", "none"],
    "max_steps": Annotated[int, _AT_LEAST_ONE] | Literal[-1],
    "max_completion_length": int,
    "pad_to_multiple_of": Annotated[int, _AT_LEAST_ONE] | Literal["auto"] | None,
    **dict.fromkeys(_FACTS["mappings"].split(), dict[str, Any] | None),
}
"""Types of the options, by name, for which TRL declares a type that is too narrow or too wide."""
_CHOICES: dict[str, Any] = {name: Literal[(*values,)] for name, values in _FACTS["choices"].items()}
ELSEWHERE: dict[str, str] = _FACTS["elsewhere"]
"""What to do instead, for options that are set elsewhere in the run configuration or must not be changed."""
GROUPS = " Where it is not set, it is per_device_train_batch_size x devices x gradient_accumulation_steps."
# Options with the value "no", which YAML parses as false.
_NO = ("eval_strategy", "save_strategy", "logging_strategy")
# Options that depend on the machine. A dry run may use another machine than the training.
OF_THE_MACHINE = ("bf16", "bf16_full_eval", "fp16", "fp16_full_eval", "tf32", "deepspeed", "fsdp", "fsdp_config")
_CLASSES = {"grpo": "GRPOConfig", "sft": "SFTConfig"}


def conflicts(given: Mapping[str, Any]) -> list[str]:
    """Describe options that have valid values but cannot be used here or cannot be combined.

    Args:
        given: The options under `trainer`, with valid names and types.
    """
    problems = [
        f"'trainer.{name}' cannot be used here: {why}" for name, why in _FACTS["unusable"].items() if given.get(name)
    ]
    if given.get("bf16") and given.get("fp16"):
        problems.append("'trainer.bf16' and 'trainer.fp16' are both true; set one of them")
    if given.get("sync_ref_model") and given.get("beta") == 0:
        problems.append("'trainer.sync_ref_model' is true and 'trainer.beta' is 0, so there is no reference to update")
    for name in ("deepspeed", "fsdp_config", "accelerator_config"):
        value = given.get(name)
        if isinstance(value, str) and not value.startswith("{") and not Path(value).is_file():
            problems.append(f"'trainer.{name}' is {value!r}, which is not a file; give the path of a JSON file")
    low, high = given.get("entropy_coef_min", 0.0), given.get("entropy_coef_max", 1.0)
    if low > high:
        problems.append(f"'trainer.entropy_coef_min' ({low:g}) is above 'trainer.entropy_coef_max' ({high:g})")
    return problems


def shortened(value: Any) -> str:
    """The repr of a value for messages, shortened if it is long or deeply nested."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxdict, brief.maxlist, brief.maxstring, brief.maxother = 2, 8, 8, 200, 200
    return brief.repr(value)


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
    defaults = dict(_FACTS["defaults"][method])
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
    """Return the type of every option of a method, with the option's valid range as a constraint."""
    config = config_class(method)
    hints = typing.get_type_hints(config)
    special = _TYPES | (_CHOICES if method == "grpo" else {})
    by_name = {}
    for field in dataclasses.fields(config):
        if field.init:
            # Fields with choices take None where that is their default.
            choices = typing.Literal[(*field.metadata["choices"],)] if "choices" in field.metadata else None
            declared = hints[field.name] if choices is None else choices | (None if field.default is None else choices)
            wanted = special.get(field.name, declared)
            by_name[field.name] = Annotated[wanted, _LIMITS[field.name]] if field.name in _LIMITS else wanted
    return by_name


def config_class(method: str) -> Any:
    """TRL's configuration class of a method."""
    import trl

    return getattr(trl, _CLASSES[method])
