"""TRL's GRPO trainer, extended to mixed batches (rows with and without images) and additional greedy completions."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor
from trl import GRPOTrainer

from medvlm_r1.models.decoding.kv_cache import replaced_generate
from medvlm_r1.models.load import Policy, vision_token_ids
from medvlm_r1.models.sharing.batch import gathered
from medvlm_r1.training.vllm import ExactVLLM, Row


class MixedRowsTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPO trainer that accepts rows without images and can complete additional prompts greedily.

    TRL marks a row without images with None, but image processors expect an empty list. If a part of a batch has no
    images, TRL passes an empty pixel tensor, which vision towers cannot encode.

    Attributes:
        greedy_prompts: Chat messages that the next generation completes greedily, as additional rows of the same call.
            Processes may have different numbers of them.
        greedy_ids: Token ids of the completions of these prompts.
    """

    greedy_prompts: Sequence[Any] = ()
    greedy_ids: Sequence[list[int]] = ()
    _greedy_rows: Sequence[Row] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for model in (self.model, self.ref_model):
            if model is not None:
                self.accelerator.unwrap_model(model).register_forward_pre_hook(_without_empty, with_kwargs=True)
        if self.use_vllm:
            self.vllm_generation.__class__ = ExactVLLM

    def _bare(self, model: Any) -> Any:
        """Unwrap a model: return the transformers model inside the distributed and PEFT wrappers."""
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        greedy, self.greedy_prompts = self.greedy_prompts, ()
        ids, images, fields = super()._tokenize_prompts([*prompts, *greedy])
        images = [row or [] for row in images or [None] * len(ids)]
        count = len(prompts)
        self._greedy_rows = list(zip(ids[count:], images[count:], strict=True))
        # The fields are used for this generation only.
        return ids[:count], images[:count] if any(images[:count]) else None, fields

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, *more: Any
    ) -> Any:
        rows, self._greedy_rows = self._greedy_rows, ()
        if self.use_vllm:
            self.vllm_generation.greedy = rows
            result = super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, *more)
            self.greedy_ids = self.vllm_generation.greedy_ids
            return result
        model, plugin = self._bare(self.model_wrapped), getattr(self.accelerator.state, "fsdp_plugin", None)
        with (
            # Autocast caches the cast weights until the outermost context ends. Without this context, every token
            # would cast them again.
            self.accelerator.autocast(),
            gathered(self.model_wrapped, reshards=bool(plugin and plugin.reshard_after_forward)),
            replaced_generate(model, _last_rows_greedy(model, len(rows))) if rows else nullcontext(),
        ):
            prompt_ids = [*prompt_ids, *(ids for ids, _ in rows)]
            ids, logps = super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, *more)
        count = len(ids) - len(rows)
        self.greedy_ids = ids[count:]
        return ids[:count], logps


def _last_rows_greedy(model: Any, count: int) -> Callable[..., Any]:
    """The model's `generate`, except that the last `count` rows are completed greedily."""

    class Greedy(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            best = scores[-count:].argmax(dim=-1, keepdim=True)
            scores = scores.clone()
            scores[-count:] = torch.full_like(scores[-count:], -torch.inf).scatter(1, best, 0.0)
            return scores

    def generate(*args: Any, **kwargs: Any) -> Any:
        return type(model).generate(model, *args, logits_processor=[Greedy()], **kwargs)

    return generate


def _without_empty(_: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook that replaces the empty vision inputs of a batch without images with None."""
    pixels = kwargs.get("pixel_values")
    if torch.is_tensor(pixels) and not len(pixels):
        kwargs = {name: None if torch.is_tensor(value) and not len(value) else value for name, value in kwargs.items()}
    return args, kwargs


def forbid_vision_tokens(args: Any, policy: Policy) -> None:
    """Forbid sampling of image and video tokens. The forward pass would expect an image for them."""
    ids = vision_token_ids(policy.model, policy.processor)
    given = dict(args.generation_kwargs or {})
    if args.use_vllm:
        # vLLM has no suppress_tokens, only bad_words.
        words = policy.processor.tokenizer.convert_ids_to_tokens(ids)
        given["bad_words"] = [*given.get("bad_words", []), *words]
    else:
        given["suppress_tokens"] = sorted({*(given.get("suppress_tokens") or []), *ids})
    args.generation_kwargs = given
