"""Valid ranges and values of trainer options for which TRL and transformers declare only a type.

Where the libraries list the valid values themselves (`choices` of a dataclass field, enums), `options` reads that list.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

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
