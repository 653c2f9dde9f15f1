"""What a run writes and reports while the trainer works, and the order of its data on resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback

from medvlm_r1.data.rows import append_rows, drop_rows_after
from medvlm_r1.errors import UserError
from medvlm_r1.models.load import Policy

Evaluate = Callable[[Policy, int], Mapping[str, float]]
"""Measures the policy as it is after a step; the figures are logged with the prefix `eval_` (`evaluation.watch` names
them: `eval_accuracy` and `eval_blank_accuracy` in percent, `eval_contradiction`, ...)."""


class Progress(Protocol):
    """Whoever shows how far a training is."""

    def on_step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        """Called after every optimizer step with empty logs, and once more for a step whose figures are logged."""
        ...


class AlreadyTrained(Exception):
    """The checkpoint a run resumes from is that of its last step."""


class LastStepGuard(TrainerCallback):  # type: ignore[misc]
    """Stops a run that resumes from its last step before it takes one more; let it be the first callback.

    transformers looks at `max_steps` only after a step. It happens when a run was ended between its last checkpoint
    and its final model; the trainer has the checkpoint's weights by then.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raise `AlreadyTrained` when no step is left."""
        if state.global_step >= state.max_steps:
            raise AlreadyTrained


class MetricsLog(TrainerCallback):  # type: ignore[misc]
    """Writes `metrics.jsonl`: one row per log of the trainer, with its `step`.

    The trainer's closing log is left out: it tells of the session, by the wall clock, and not of the run.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Cut the file back to the step a run resumes from."""
        if state.is_world_process_zero:
            drop_rows_after(self._file, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Have the last steps logged, wherever `logging_steps` would have come next."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
        """Write one row."""
        if state.is_world_process_zero and "train_runtime" not in logs:
            append_rows(self._file, [{"step": state.global_step, **logs}])


class ProgressBridge(TrainerCallback):  # type: ignore[misc]
    """Tells a `Progress` of steps and figures."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the step."""
        if state.is_world_process_zero:
            self._progress.on_step(state.global_step, state.max_steps, {})

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
        """Report the figures."""
        if state.is_world_process_zero:
            self._progress.on_step(state.global_step, state.max_steps, dict(logs))


class PeriodicEvaluation(TrainerCallback):  # type: ignore[misc]
    """Calls an evaluation every so many steps and logs its figures."""

    def __init__(self, every: int, evaluate: Evaluate, policy: Policy) -> None:
        self._every = every
        self._evaluate = evaluate
        self._policy = policy
        self._trainer: Any = None

    def attach(self, trainer: Any) -> None:
        """Name the trainer; it exists only after its callbacks."""
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise UserError(
                "evaluate_every needs the whole model in one process; leave it out with FSDP and DeepSpeed."
            )
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate when the step is due."""
        if state.global_step % self._every:
            return
        trainer = self._trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        # In evaluation mode TRL keeps the training figures gathered so far out of this log.
        model.eval()
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            if state.is_world_process_zero:
                policy = Policy(model=model, processor=self._policy.processor, name=self._policy.name)
                figures = self._evaluate(policy, state.global_step)
                due = control.should_log
                trainer.log({f"eval_{name.removeprefix('eval_')}": value for name, value in figures.items()})
                # Logging takes the order to log as carried out; the training figures of this step are still to come.
                control.should_log = due
            trainer.accelerator.wait_for_everyone()
        model.train()


class SamplerOrder(TrainerCallback):  # type: ignore[misc]
    """Takes TRL's `RepeatSampler` to the epoch a run resumes in.

    The sampler draws one permutation per epoch from its own generator, which no checkpoint stores: without this, a
    run resumed in its second epoch goes through the order of the first, and some samples are seen twice and others
    not at all.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        """Draw the permutations of the epochs that are over."""
        sampler = train_dataloader
        while sampler is not None and not hasattr(sampler, "mini_repeat_count"):
            sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
        if sampler is None or not sampler.shuffle or args.ignore_data_skip:
            return
        for _epoch in range(int(state.epoch or 0)):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
