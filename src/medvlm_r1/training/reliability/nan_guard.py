"""A training stops before a loss, a gradient or a weight that is no number reaches the weights or a checkpoint.

transformers replaces such a loss by the mean of those before it in its logs (`logging_nan_inf_filter`) and takes the
step all the same; from then on every weight is NaN, and the checkpoints with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from medvlm_r1.errors import UserError
from medvlm_r1.rewards.completion import completion_text
from medvlm_r1.training.reliability.checkpoint import numbered

SAMPLE_ID = "sample_id"
_SHOWN = 8
# What torch says when it is to sample from logits that are no numbers.
_NO_DISTRIBUTION = "probability tensor contains either"


class NonFinite(UserError):
    """A number of the training is NaN or infinite."""


class NanGuard:
    """Mixin before a transformers `Trainer`: raises `NonFinite` before the optimizer takes such a step.

    With fp16 gradients are scaled, and an infinite one is how the scaler finds its scale; it leaves such a step out by
    itself, so gradients are not looked at then.
    """

    _sample_ids: tuple[str, ...] = ()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """The loss of a micro-batch, its gradients added.

        Raises:
            NonFinite: the loss is no number, or the policy sampled from logits that are none.
        """
        trainer: Any = self
        self._sample_ids = _ids(inputs)
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        except RuntimeError as error:
            if _NO_DISTRIBUTION not in str(error):
                raise
            raise NonFinite(_told(trainer, "the probabilities of the next token", "no numbers")) from error
        # TRL turns the advantages it would give into 0 and goes on.
        for name, rewards in getattr(self, "_logs", {}).get("rewards", {}).items():
            if any(map(math.isinf, rewards)):
                raise NonFinite(_told(trainer, f"a reward {name}", next(filter(math.isinf, rewards))))
        if not torch.isfinite(loss).all():
            raise NonFinite(_told(trainer, "the loss", loss.item()))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        trainer: Any = self
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        if norm is not None and trainer.accelerator.scaler is None and not math.isfinite(float(norm)):
            raise NonFinite(_told(trainer, "the norm of the gradient", float(norm)))
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        refuse_unless_finite(self)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def _prepare_inputs(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping) and SAMPLE_ID in inputs:
            inputs = {name: value for name, value in inputs.items() if name != SAMPLE_ID}
        return super()._prepare_inputs(inputs)  # type: ignore[misc]


class NamedBatches:
    """A collator whose batches say which samples they hold; `NanGuard` takes the names out again."""

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One batch with its `sample_id`s."""
        ids = [row[SAMPLE_ID] for row in rows]
        return {**self._collate(rows), SAMPLE_ID: ids}


def refuse_unless_finite(trainer: Any) -> None:
    """Look at every weight before it is written.

    Raises:
        NonFinite: one is no number; which, and after which step.
    """
    for name, weight in trainer.accelerator.unwrap_model(trainer.model).named_parameters():
        if not torch.isfinite(weight).all():
            raise NonFinite(_told(trainer, f"the weight {name}", "not finite"))


def _ids(inputs: Any) -> tuple[str, ...]:
    """The samples of a batch: of TRL's list of rows (GRPO), or of a batch of `NamedBatches`."""
    if isinstance(inputs, Mapping):
        found = inputs.get(SAMPLE_ID, ())
    else:
        found = [row[SAMPLE_ID] for row in inputs if SAMPLE_ID in row]
    return tuple(dict.fromkeys(found))


def _told(trainer: Any, what: str, value: Any) -> str:
    args, state = trainer.args, trainer.state
    ids = trainer._sample_ids
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    good = next((str(path) for _, path in numbered(Path(args.output_dir))), None)
    stands = f"{good} is good, and a run can begin from it as 'model'" if good else "no checkpoint was there yet"
    lines = [
        f"After step {state.global_step} of {state.max_steps}, {what} is {value}. The batch: "
        f"{', '.join(ids[:_SHOWN]) or 'unknown'}{more}. Nothing of it was kept: {stands}.",
        "What to try, in a new 'out' (the same command would come to the same): a lower trainer.learning_rate "
        f"(now {args.learning_rate:g}), trainer.max_grad_norm (now {args.max_grad_norm:g}; 0 is none) or "
        f"trainer.warmup_steps{', bf16 in place of fp16' if args.fp16 else ''}; rewards that are finite; and a look at "
        "these samples (`medvlm-r1 data check`).",
    ]
    shown = last_completion(trainer)
    return " ".join(lines) + (f" {shown}" if shown else "")


def last_completion(trainer: Any, limit: int = 160) -> str | None:
    """The last completion written, with its sample and rewards, in one line; None where none is (SFT)."""
    logs = getattr(trainer, "_logs", None)
    if not logs or not logs["completion"]:
        return None
    text = " ".join(completion_text(logs["completion"][-1]).split())
    text = text if len(text) <= limit else text[:limit] + "..."
    rewards = ", ".join(f"{name} {values[-1]:g}" for name, values in logs["rewards"].items() if values)
    names = logs["extra"].get(SAMPLE_ID)
    return f"A sample ({names[-1] if names else 'unknown'}; {rewards}): {text!r}."
