"""Rollout log of a GRPO run: every completion with its rewards and advantage.

TRL does not pass completions to callbacks, so two interfaces of `GRPOTrainer` are used. With `log_extra`, reward
functions add columns to TRL's completion table. `_logs` holds that table after each generation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import GRPOTrainer

from medvlm_r1.data.rows import append_rows, drop_rows_after
from medvlm_r1.prompts.templates import opened_reasoning
from medvlm_r1.rewards import Reward
from medvlm_r1.rewards.completion import completion_text

_TAIL = 16
"""Number of tokens at the end of a prompt that are searched for `<think>`."""


class CompletesOpenedReasoning(GRPOTrainer):  # type: ignore[misc]
    """Mixin that prepends the reasoning tag to completions if the chat template puts it at the end of the prompt.

    List it before a `GRPOTrainer` in the base classes. Rewards and the rollout log then see the whole assistant
    response. The tag remains part of the prompt, so it is not trained on.
    """

    def _generate(self, prompts: list[Any]) -> Any:
        prompt_ids, completion_ids, tool_mask, completions, *rest = super()._generate(prompts)
        if not self.tools and not isinstance(completions[0], str):
            tokenizer = self._tokenizer
            texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
            openings = [opened_reasoning(tokenizer.decode(ids[-_TAIL:])) for ids in prompt_ids]
            completions = [
                [{"role": "assistant", "content": opening + text}]
                for opening, text in zip(openings, texts, strict=True)
            ]
        return (prompt_ids, completion_ids, tool_mask, completions, *rest)


class RolloutLog(TrainerCallback):  # type: ignore[misc]
    """Write `rollouts.jsonl`: one row per completion, in the order of the groups.

    A row holds `step` (the first optimizer step that learns from it), `sample_id`, `modality`, `group` (number of the
    prompt within its generation batch), `completion`, `rewards` (by name), `reward` (their weighted sum) and
    `advantage`. With counterfactual images it also holds `own_image`, which is false if the completion was generated
    with another item's image.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._trainer: Any = None
        self._generations = 0
        self._written = 0

    def attach(self, trainer: Any) -> None:
        """Set the trainer, which is created after its callbacks."""
        self._trainer = trainer

    def watched(self, reward: Reward) -> Reward:
        """Wrap one reward of the trainer so that it adds the ids of the scored samples to TRL's table."""

        def noting(*args: Any, **columns: Any) -> Sequence[float | None]:
            self._generations += 1
            ids = columns["sample_id"]
            columns["log_extra"]("sample_id", list(ids))
            columns["log_extra"]("modality", list(columns["modality"]))
            # Present only with counterfactual images.
            if "own_image" in columns:
                columns["log_extra"]("own_image", list(columns["own_image"]))
            columns["log_extra"]("generation", [self._generations] * len(ids))
            return reward(*args, **columns)

        return noting

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Truncate the file to the step that the run resumes from."""
        if state.is_world_process_zero:
            drop_rows_after(self._file, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the completions of the step that has just ended."""
        self._write(state, state.global_step)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the completions before another generation within the same step overwrites them."""
        self._write(state, state.global_step + 1)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Skip the completions of TRL's own evaluation."""
        self._written = self._generations

    def _write(self, state: Any, step: int) -> None:
        logs = self._trainer._logs
        generation = logs["extra"]["generation"][-1] if logs["extra"]["generation"] else 0
        if generation == self._written or not state.is_world_process_zero:
            return
        self._written = generation
        weights = dict(zip(self._trainer.reward_func_names, self._trainer.reward_weights.tolist(), strict=True))
        rows = []
        own = logs["extra"].get("own_image")
        for index, completion in enumerate(logs["completion"]):
            rewards = {name: values[index] for name, values in logs["rewards"].items()}
            rows.append(
                {
                    "step": step,
                    "sample_id": logs["extra"]["sample_id"][index],
                    "modality": logs["extra"]["modality"][index],
                    "group": index // self._trainer.num_generations,
                    **({"own_image": own[index]} if own else {}),
                    "completion": completion_text(completion),
                    "rewards": rewards,
                    "reward": sum(weights[name] * value for name, value in rewards.items() if not math.isnan(value)),
                    "advantage": logs["advantages"][index],
                }
            )
        append_rows(self._file, rows)
