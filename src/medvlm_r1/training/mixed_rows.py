"""TRL's GRPO trainer for batches that mix rows with and without images."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from trl import GRPOTrainer

from medvlm_r1.training.vllm import ExactVLLM


class MixedRowsTrainer(GRPOTrainer):  # type: ignore[misc]
    """Allow rows without images in a batch.

    TRL marks such a row by None, but image processors expect an empty list. For a part of a batch without images TRL
    passes an empty tensor of pixels, which vision towers cannot encode.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for model in (self.model, self.ref_model):
            if model is not None:
                self.accelerator.unwrap_model(model).register_forward_pre_hook(_without_empty, with_kwargs=True)
        if self.use_vllm:
            self.vllm_generation.__class__ = ExactVLLM

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        # Autocast keeps its casts of the weights until the outermost context ends. Without this one, every token casts
        # them again.
        with nullcontext() if self.use_vllm else self.accelerator.autocast():
            return super()._generate_single_turn(*args, **kwargs)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        ids, images, fields = super()._tokenize_prompts(prompts)
        return ids, images and [row or [] for row in images], fields


def _without_empty(_: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Drop the vision inputs of a batch without images."""
    pixels = kwargs.get("pixel_values")
    if torch.is_tensor(pixels) and not len(pixels):
        kwargs = {name: None if torch.is_tensor(value) and not len(value) else value for name, value in kwargs.items()}
    return args, kwargs
