"""What of a run cannot be shared, in words: the trainer then goes TRL's way and says so."""

from __future__ import annotations

from typing import Any

import torch

from medvlm_r1.models.decoding.shared_generation import refuses
from medvlm_r1.models.families import unsupported


def not_shared(trainer: Any, model: Any) -> str | None:
    """Why no prompt is computed once, or None.

    Args:
        trainer: a `GRPOTrainer` that is set up.
        model: its policy under wrappers for distribution, with its adapters.
    """
    if trainer.tools or trainer.environment_factories is not None:
        return "tools and environments change the prompt as they run."
    if trainer.rollout_func is not None:
        return "a rollout function makes its own prompts."
    if trainer.aux_loss_enabled:
        return "the load-balancing loss of experts is a mean over the rows."
    if trainer.is_fsdp_enabled or trainer._dist.is_zero3:
        return "weights sharded over processes (FSDP, ZeRO-3) need every process to make the same calls."
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "the layers stand on several devices."
    if trainer.args.torch_compile:
        return "a compiled model (torch_compile) was never tried with it."
    if trainer.args.neftune_noise_alpha:
        return "the noise of NEFTune (neftune_noise_alpha) depends on the length of a row."
    if not trainer._is_vlm:
        return "the processor has no image processor."
    return unsupported(model)


def not_generated(trainer: Any, model: Any) -> str | None:
    """Why generation does not run each prompt once, or None.

    Args:
        trainer: a `GRPOTrainer` that is set up.
        model: its policy, bare: what it states in its own generation settings holds where TRL gives none.
    """
    if trainer.use_vllm:
        return "vLLM generates, and shares prompts in its own way."
    given = {name: value for name, value in trainer.generation_kwargs.items() if value is not None}
    name = refuses(model.generation_config.to_dict() | given)
    return None if name is None else f"generation setting {name!r} is for transformers' own loop."


def same_tower(model: Any, other: Any) -> bool:
    """Whether two models of a family have the same weights outside their language models and heads."""
    theirs = dict(other.named_parameters())
    return all(torch.equal(weight, theirs[name].to(weight.device)) for name, weight in outside_language(model))


def tower_learns(model: Any) -> bool:
    """Whether anything outside the language model and its head is trained."""
    return any(weight.requires_grad for _, weight in outside_language(model))


def outside_language(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """The named weights outside the language model and its head: those of the tower and of what joins it."""
    language = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    known = {id(parameter) for module in language for parameter in module.parameters()}
    return [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in known]
