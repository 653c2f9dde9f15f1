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

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from medvlm_r1.data.names import nearest

_AT_LEAST_ONE = Field(ge=1)

_RANGES: list[tuple[Any, str]] = [
    (
        _AT_LEAST_ONE,
        "dataloader_prefetch_factor dataset_num_proc ddp_bucket_cap_mb ddp_timeout "
        "eval_accumulation_steps generation_batch_size gradient_accumulation_steps max_completion_length max_length "
        "max_tool_calling_iterations num_completions_to_print num_generations_eval num_iterations "
        "per_device_eval_batch_size per_device_train_batch_size ref_model_sync_steps save_total_limit "
        "steps_per_generation vllm_max_model_length vllm_tensor_parallel_size",
    ),
    (
        Field(gt=0),
        "delta eval_steps logging_steps num_train_epochs off_policy_mask_threshold repetition_penalty "
        "sapo_temperature_neg sapo_temperature_pos save_steps temperature vllm_importance_sampling_clip_max "
        "vllm_server_timeout",
    ),
    (
        Field(ge=0),
        "adam_epsilon beta data_seed dataloader_num_workers entropy_coef entropy_coef_delta "
        "entropy_coef_max entropy_coef_min entropy_target epsilon epsilon_high eval_delay learning_rate max_grad_norm "
        "neftune_noise_alpha router_aux_loss_coef top_k vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos "
        "vllm_importance_sampling_clip_min warmup_steps weight_decay",
    ),
    (Field(ge=0, le=1), "label_smoothing_factor min_p ref_model_mixup_alpha top_entropy_quantile"),
    (Field(gt=0, le=1), "top_p vllm_gpu_memory_utilization"),
    (Field(ge=1, le=65535), "vllm_group_port vllm_server_port"),
    (Field(ge=0, lt=1), "adam_beta1 adam_beta2"),
    (Field(ge=2), "num_generations"),
]
_BY_NAME = {name: limit for limit, names in _RANGES for name in names.split()}

_MAPPINGS = (
    "chat_template_kwargs dataset_kwargs generation_kwargs gradient_checkpointing_kwargs lr_scheduler_kwargs "
    "activation_checkpointing_kwargs model_init_kwargs"
)
TYPES: dict[str, Any] = {
    # TRL declares a string, but also converts True to "group" and False to "none".
    "scale_rewards": bool | Literal["group", "batch", "none"],
    "max_steps": Annotated[int, _AT_LEAST_ONE] | Literal[-1],
    "max_completion_length": int,
    "pad_to_multiple_of": Annotated[int, _AT_LEAST_ONE] | Literal["auto"] | None,
    # For its own command line, TRL also accepts JSON strings. Only mappings are accepted here.
    **dict.fromkeys(_MAPPINGS.split(), dict[str, Any] | None),
}
"""Types of the options, by name, for which TRL declares a type that is too narrow or too wide."""

_GRPO: dict[str, Any] = {
    "loss_type": Literal["grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"],
    "importance_sampling_level": Literal["token", "sequence"],
    "multi_objective_aggregation": Literal["sum_then_normalize", "normalize_then_sum"],
    "vllm_mode": Literal["server", "colocate"],
    "vllm_importance_sampling_mode": Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"],
}
_UNUSABLE = {
    "packing": "images cannot be packed",
    "padding_free": "padding-free batches do not carry images",
    "assistant_only_loss": "the loss falls on the answer letter already (completion_only_loss)",
    "use_transformers_continuous_batching": "it generates from text only; use_vllm is the faster way with images",
    "use_transformers_paged": "it generates from text only; use_vllm is the faster way with images",
}


def narrowed(method: str, name: str, declared: Any) -> Any:
    """Type of an option, restricted to its valid range.

    Args:
        method: "grpo" or "sft".
        name: Name of the option.
        declared: The type in TRL's configuration class.
    """
    wanted = (TYPES | (_GRPO if method == "grpo" else {})).get(name, declared)
    return Annotated[wanted, _BY_NAME[name]] if name in _BY_NAME else wanted


def conflicts(given: Mapping[str, Any]) -> list[str]:
    """Describe options that have valid values but cannot be used here or cannot be combined.

    Args:
        given: The options under `trainer`, with valid names and types.
    """
    problems = [f"'trainer.{name}' cannot be used here: {why}" for name, why in _UNUSABLE.items() if given.get(name)]
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
