"""NaN guard: abort training on a NaN or Inf loss, gradient or weight before it is applied or saved.

Without this guard, transformers replaces such a loss in its logs with the mean of earlier ones
(`logging_nan_inf_filter`) and still takes the optimizer step. From then on every weight is NaN, including those in
checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from transformers import Trainer

from medvlm_r1.errors import UserError
from medvlm_r1.rewards.completion import completion_text
from medvlm_r1.training.reliability.checkpoint import AtomicCheckpoints, numbered

SAMPLE_ID = "sample_id"
_MAX_IDS = 8
# torch's message when it samples from NaN or Inf logits.
_NO_DISTRIBUTION = "probability tensor contains either"


class NonFinite(UserError):
    """Raised if a loss, gradient, weight or logit is NaN or Inf, or if a reward is infinite."""


class NanGuard(Trainer):  # type: ignore[misc]
    """Mixin that raises `NonFinite` on a NaN or Inf loss, gradient or weight.

    List it before a transformers `Trainer` in the base classes. An infinite reward also raises
    `NonFinite`. With fp16, gradients are not checked, because the loss scaler provokes infinite gradients to find its
    scale and skips those steps itself.
    """

    _sample_ids: tuple[str, ...] = ()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Compute the loss of a micro-batch and accumulate its gradients.

        Raises:
            NonFinite: The loss is NaN or Inf, the logits used for sampling are NaN or Inf, or a reward is infinite.
        """
        self._sample_ids = _ids(inputs)
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except RuntimeError as error:
            if _NO_DISTRIBUTION not in str(error):
                raise
            raise NonFinite(_report(self, "the distribution of the next token", "NaN or Inf")) from error
        # Rewards are checked here, because TRL replaces the advantages of an infinite reward with 0.
        for name, rewards in getattr(self, "_logs", {}).get("rewards", {}).items():
            if any(map(math.isinf, rewards)):
                raise NonFinite(_report(self, f"a reward {name}", next(filter(math.isinf, rewards))))
        if not torch.isfinite(loss).all():
            raise NonFinite(_report(self, "the loss", loss.item()))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # DeepSpeed reports NaN and Inf as -1.
        if norm is not None and self.accelerator.scaler is None and not 0 <= float(norm) < math.inf:
            raise NonFinite(_report(self, "the norm of the gradient", float(norm)))
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        refuse_unless_finite(self)
        super()._save_checkpoint(model, trial)

    def _prepare_inputs(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping) and SAMPLE_ID in inputs:
            inputs = {name: value for name, value in inputs.items() if name != SAMPLE_ID}
        return super()._prepare_inputs(inputs)


class ReliableTrainerMixin(NanGuard, AtomicCheckpoints):
    """Mixin with the NaN guard, atomic checkpoints and exact restore of weights.

    List it before a TRL trainer in the base classes.
    """


class NamedBatches:
    """Collator that adds the sample ids to each batch, for error messages. `NanGuard` removes them again."""

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate a batch and add its sample ids."""
        ids = [row[SAMPLE_ID] for row in rows]
        return {**self._collate(rows), SAMPLE_ID: ids}


def refuse_unless_finite(trainer: Any) -> None:
    """Check that every weight is finite before the model is saved. Each process checks the shards it holds.

    Raises:
        NonFinite: A weight is NaN or Inf on some process. The message names the weight and the step.
    """
    named = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    names = gather_object([name for name, weight in named if not torch.isfinite(local_shard(weight)).all()])
    if names:
        raise NonFinite(_report(trainer, f"the weight {names[0]}", "not finite"))


def local_shard(weight: Any) -> torch.Tensor:
    """The part of a weight that this process holds: its ZeRO-3 (`ds_tensor`) or FSDP2 shard, or the whole weight."""
    shard: torch.Tensor = getattr(weight, "ds_tensor", weight)
    return shard.to_local() if isinstance(shard, DTensor) else shard


def _ids(inputs: Any) -> tuple[str, ...]:
    """Distinct sample ids of a batch, which is a list of rows (GRPO) or the output of `NamedBatches` (SFT)."""
    if isinstance(inputs, Mapping):
        ids = inputs.get(SAMPLE_ID, ())
    else:
        ids = [row[SAMPLE_ID] for row in inputs if SAMPLE_ID in row]
    return tuple(dict.fromkeys(ids))


def _report(trainer: Any, what: str, value: Any) -> str:
    args, state = trainer.args, trainer.state
    ids = trainer._sample_ids
    # DeepSpeed takes the optimizer step within the backward pass, so it may already be applied.
    reach = "saved" if trainer.is_deepspeed_enabled else "applied"
    more = f" and {len(ids) - _MAX_IDS} more" if len(ids) > _MAX_IDS else ""
    good = next((str(path) for _, path in numbered(Path(args.output_dir))), None)
    last = f"{good} is good, and a new run can start from it as 'model'" if good else "there is no checkpoint yet"
    lines = [
        f"After step {state.global_step} of {state.max_steps}, {what} is {value}. The batch: "
        f"{', '.join(ids[:_MAX_IDS]) or 'unknown'}{more}. It was not {reach}: {last}.",
        "Try in a new 'out' (the same command would fail again): a lower trainer.learning_rate "
        f"(now {args.learning_rate:g}), trainer.max_grad_norm (now {args.max_grad_norm:g}; 0 is none) or "
        f"trainer.warmup_steps{', bf16 instead of fp16' if args.fp16 else ''}; finite rewards; and a check "
        "of these samples (`medvlm-r1 data check`).",
    ]
    sample = last_completion(trainer)
    return " ".join(lines) + (f" {sample}" if sample else "")


def last_completion(trainer: Any, limit: int = 160) -> str | None:
    """One-line summary of the last completion, with its sample id and rewards; None if there is none (as in SFT)."""
    logs = getattr(trainer, "_logs", None)
    if not logs or not logs["completion"]:
        return None
    text = " ".join(completion_text(logs["completion"][-1]).split())
    text = text if len(text) <= limit else text[:limit] + "..."
    rewards = ", ".join(f"{name} {values[-1]:g}" for name, values in logs["rewards"].items() if values)
    names = logs["extra"].get(SAMPLE_ID)
    return f"A sample ({names[-1] if names else 'unknown'}; {rewards}): {text!r}."
