"""Check whether a run can share prompts. If it cannot, the trainer runs like TRL's own and prints the reason."""

from __future__ import annotations

from typing import Any

from medvlm_r1.models.decoding.shared_generation import refuses
from medvlm_r1.models.families import unsupported


def not_shared(trainer: Any, model: Any) -> str | None:
    """The reason why a run cannot share prompts; None if it can.

    Args:
        trainer: An initialized `GRPOTrainer`.
        model: The trainer's policy with its adapters, without wrappers for distributed training.
    """
    if trainer.tools or trainer.environment_factories is not None:
        return "tools and environments change the prompt as they run."
    if trainer.rollout_func is not None:
        return "a rollout function makes its own prompts."
    if trainer.aux_loss_enabled:
        return "the load-balancing loss of experts is a mean over the rows."
    if trainer._dist.fsdp_version == 1:
        return "FSDP 1 flattens the weights; set fsdp_version: 2 in the file of accelerate launch."
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "the layers are on several devices."
    if trainer.args.torch_compile:
        return "it was never run with a compiled model (torch_compile)."
    if trainer.args.neftune_noise_alpha:
        return "the noise of NEFTune (neftune_noise_alpha) depends on the length of a row."
    if not trainer._is_vlm:
        return "the processor has no image processor."
    return unsupported(model)


def not_generated(trainer: Any, model: Any) -> str | None:
    """The reason why generation cannot share prompts; None if it can.

    Args:
        trainer: An initialized `GRPOTrainer`.
        model: The trainer's policy without adapters. Its own generation settings apply where TRL sets none.
    """
    if trainer.use_vllm:
        return "vLLM generates, and shares prompts in its own way."
    if trainer._dist.is_zero3 and not trainer.args.ds3_gather_for_generation:
        return "ZeRO-3 without ds3_gather_for_generation needs every process to make the same calls."
    given = {name: value for name, value in trainer.generation_kwargs.items() if value is not None}
    name = refuses(model.generation_config.to_dict() | given)
    return None if name is None else f"generation setting {name!r} is for transformers' own loop."


def tower_learns(model: Any) -> bool:
    """Whether any weight outside the language model and its head is trained."""
    language = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    known = {id(parameter) for module in language for parameter in module.parameters()}
    return any(weight.requires_grad for weight in model.parameters() if id(weight) not in known)
