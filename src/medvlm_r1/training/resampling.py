"""Resampling of groups without advantage, and weighting of advantages by a field of the questions.

If all completions of a prompt have the same reward, their advantages are 0 and the group gives no gradient. DAPO
(arXiv 2503.14476, section 3.2) replaces such groups until the batch is full. Here the number of attempts is limited.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages

from medvlm_r1.errors import UserError
from medvlm_r1.models.sharing.batch import SharedBatch, most_of_all
from medvlm_r1.rewards import any_asks
from medvlm_r1.training.counterfactual import OWN_IMAGE

DRAWN, REPLACED = "resampled/drawn", "resampled/replaced"
"""Keys in `metrics.jsonl`: groups that were generated in addition to those of the batch, and groups that they replaced,
in all processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rollouts:
    """Rows of whole groups with their completions and rewards. Every list has one value per row."""

    rows: list[dict[str, Any]]
    generated: tuple[Any, ...]
    """Result of TRL's `_generate`: lists, or None."""
    batch: SharedBatch | None
    rewards: Tensor
    """(rows, reward functions); NaN where a reward does not judge a completion."""
    extra: Mapping[str, list[Any]]
    """Columns that reward functions have logged."""

    def with_rows(self, other: _Rollouts, sources: Mapping[int, int]) -> _Rollouts:
        """Replace rows by rows of `other`. `sources` maps rows of this batch to rows of the other."""

        def merged(mine: Any, others: Any) -> Any:
            if not isinstance(mine or others, list):
                return mine
            # TRL returns None for the images of a batch without images.
            mine, others = mine or [None] * len(self.rows), others or [None] * len(other.rows)
            return [others[sources[row]] if row in sources else value for row, value in enumerate(mine)]

        batch = self.batch
        if batch is not None and other.batch is not None:
            owner = merged(list(batch.owner), [len(batch.prompts) + number for number in other.batch.owner])
            batch = replace(batch, prompts=batch.prompts + other.batch.prompts, owner=tuple(owner))
        rewards = self.rewards.clone()
        rewards[list(sources)] = other.rewards[list(sources.values())]
        return _Rollouts(
            rows=merged(self.rows, other.rows),
            generated=tuple(map(merged, self.generated, other.generated)),
            batch=batch,
            rewards=rewards,
            extra={name: merged(values, other.extra.get(name)) for name, values in self.extra.items()},
        )


class ResamplesGroups(GRPOTrainer):  # type: ignore[misc]
    """Mixin that resamples groups without advantage, and balances advantages. List it first.

    For each group of a generation batch without advantage, another question is drawn at random from the training data
    and completed. This is repeated up to `resample_dead_groups` times for the groups that are left; those still without
    advantage stay in the batch. The draws depend only on the seed, the step and the process, so a resumed run repeats
    them. All processes make equal calls: each draws as many groups as the process that needs most.

    Attributes:
        resample_dead_groups: Maximum number of attempts per generation batch; 0 resamples nothing.
        advantage_weights: Factor of the advantages by sample id; None to leave them as they are.
    """

    resample_dead_groups = 0
    advantage_weights: Mapping[str, float] | None = None
    _rollouts: _Rollouts | None = None
    _batch: SharedBatch | None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        training = self.model.training
        if training and self.resample_dead_groups:
            self._rollouts = self._resampled(inputs)
            inputs = self._rollouts.rows
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if training and self.advantage_weights:
            factors = [self.advantage_weights[row["sample_id"]] for row in inputs]
            output["advantages"] = output["advantages"] * output["advantages"].new_tensor(factors)
        return output

    def _generate(self, prompts: list[Any]) -> Any:
        return super()._generate(prompts) if self._rollouts is None else self._rollouts.generated

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        if self._rollouts is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        rollouts, self._rollouts = self._rollouts, None
        self._pending_extra_logs.update(rollouts.extra)
        return self.accelerator.gather(rollouts.rewards)

    def _resampled(self, rows: list[dict[str, Any]]) -> _Rollouts:
        size, process = self.num_generations, self.accelerator.process_index
        rollouts = self._sample(rows)
        taken = {row["sample_id"] for row in rows}
        ids = self.train_dataset.with_format(None)["sample_id"]
        drawn = replaced = 0
        # An optimizer step may have several generation batches.
        part = self._step % self.args.gradient_accumulation_steps
        for attempt in range(self.resample_dead_groups):
            dead = self._dead(rollouts)
            count = most_of_all(self.accelerator, len(dead))
            left = [index for index, name in enumerate(ids) if name not in taken]
            if most_of_all(self.accelerator, int(len(left) < count)) or not count:
                break
            random_state = random.Random(f"{self.args.seed} {self.state.global_step} {part} {attempt} {process}")
            chosen = [self.train_dataset[index] for index in random_state.sample(left, count)]
            taken |= {row["sample_id"] for row in chosen}
            fresh = self._sample([row for row in chosen for _ in range(size)])
            useless = set(self._dead(fresh))
            pairs = list(zip(dead, (group for group in range(count) if group not in useless), strict=False))
            sources = {to * size + row: group * size + row for to, group in pairs for row in range(size)}
            rollouts = rollouts.with_rows(fresh, sources)
            drawn, replaced = drawn + count, replaced + len(pairs)
        counts = self.accelerator.gather(torch.tensor([[drawn, replaced]], device=self.accelerator.device)).sum(dim=0)
        for name, value in zip((DRAWN, REPLACED), counts.tolist(), strict=True):
            self._metrics["train"][name].append(float(value))
        if rollouts.batch is not None:
            self._batch = rollouts.batch
        return rollouts

    def _sample(self, rows: list[dict[str, Any]]) -> _Rollouts:
        """Complete and score the rows of whole groups. All processes must have the same number of rows."""
        illustrated = any(row["images"] for row in rows)
        prompts = [
            prepare_multimodal_messages(row["prompt"], images=row["images"] or []) if illustrated else row["prompt"]
            for row in rows
        ]
        generated = super()._generate(prompts)
        rewards = super()._calculate_rewards(rows, prompts, generated[3], generated[1])
        extra = dict(self._pending_extra_logs)
        self._pending_extra_logs.clear()
        first = self.accelerator.process_index * len(rows)
        return _Rollouts(
            rows=rows,
            generated=tuple(generated),
            batch=getattr(self, "_batch", None),
            rewards=rewards[first : first + len(rows)],
            extra=extra,
        )

    def _dead(self, rollouts: _Rollouts) -> list[int]:
        separate = self.multi_objective_aggregation == "normalize_then_sum"
        return dead_groups(rollouts.rewards, self.reward_weights, self.num_generations, separate=separate)


def dead_groups(rewards: Tensor, weights: Tensor, size: int, *, separate: bool = False) -> list[int]:
    """Find the groups without advantage.

    Args:
        rewards: (N, F) rewards of whole groups; NaN where a function does not judge a completion.
        weights: (F,) weights of the reward functions.
        size: Completions per group.
        separate: Whether TRL normalizes each reward before it sums them (`normalize_then_sum`). A group then has an
            advantage if any reward differs. By default the weighted sum must differ.

    Returns:
        Positions of the groups whose rewards are equal, or none of which is judged.
    """
    weighted = rewards * weights.to(rewards)
    if not separate:
        unjudged = weighted.isnan().all(dim=1, keepdim=True)
        weighted = weighted.nansum(dim=1, keepdim=True).masked_fill(unjudged, torch.nan)
    groups = weighted.view(-1, size, weighted.shape[1])
    missing = groups.isnan()
    highest = groups.masked_fill(missing, -torch.inf).amax(dim=1)
    lowest = groups.masked_fill(missing, torch.inf).amin(dim=1)
    # TRL takes a standard deviation below 1e-8 for 0.
    return (highest - lowest <= 1e-8).all(dim=1).nonzero().squeeze(1).tolist()


def balancing_weights(values: Sequence[str]) -> dict[str, float]:
    """Factors with which each value of a field has the same total weight: w(v) = N / (K n(v)).

    N questions have K distinct values, n(v) of them the value v, so the mean factor over the questions is 1. QoQ-Med's
    domain-aware scaling (arXiv 2506.00711) has the same purpose. This formula, inverse frequency, is our own.

    Args:
        values: Value of each training question.
    """
    counts = Counter(values)
    return {value: len(values) / (len(counts) * count) for value, count in counts.items()}


def check_resampling(names: Sequence[str], args: Any) -> None:
    """Check that a run can resample groups.

    Args:
        names: Names of the rewards of the run.
        args: `GRPOConfig` of the run.

    Raises:
        UserError: A reward swaps images within a group, or a group is split over processes.
    """
    if any_asks(names, OWN_IMAGE):
        raise UserError(
            "resample_dead_groups cannot be combined with `grounded` and rewards like it, which show another image to "
            "half of each group. Leave one of them out."
        )
    rows = args.per_device_train_batch_size * args.steps_per_generation
    if rows % args.num_generations:
        raise UserError(
            f"resample_dead_groups needs whole groups in each process: trainer.per_device_train_batch_size times "
            f"steps_per_generation is {rows}, no multiple of trainer.num_generations ({args.num_generations})."
        )
