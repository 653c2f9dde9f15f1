"""Trainer callbacks: metrics log, progress, periodic evaluation, data order on resume."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback

from medvlm_r1.data.rows import append_rows, drop_rows_after
from medvlm_r1.errors import UserError
from medvlm_r1.models.load import Policy

Evaluate = Callable[[Policy, int], Mapping[str, float]]
"""Function that evaluates the policy after a step and returns metrics. Every process calls it with the whole
policy, so it can distribute the questions over processes (`evaluation.watch`). The metrics of the main process are
logged with the prefix `eval_` (`eval_accuracy` and `eval_blank_accuracy` in percent, `eval_contradiction`, ...)."""


class Progress(Protocol):
    """A display of training progress."""

    def on_step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        """Receive the progress after an optimizer step: first with empty logs, then again with logs if it is logged."""
        ...


class AlreadyTrained(Exception):
    """Raised if a run resumes from the checkpoint of its last step, so no step is left."""


class LastStepGuard(TrainerCallback):  # type: ignore[misc]
    """Stop a run that resumes from its last step before it takes another step. It must be the first callback.

    transformers checks `max_steps` only after a step. This case occurs if a run is interrupted after its last
    checkpoint and before its final model is written. When training begins, the trainer has already loaded the weights.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raise `AlreadyTrained` if no step is left."""
        if state.global_step >= state.max_steps:
            raise AlreadyTrained


class MetricsLog(TrainerCallback):  # type: ignore[misc]
    """Write `metrics.jsonl`: one row per log of the trainer, with its `step`.

    The final log of the trainer is skipped, because its timings cover only the current process, not the whole run.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Truncate the file to the step that the run resumes from."""
        if state.is_world_process_zero:
            drop_rows_after(self._file, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log the last step even if it is not a multiple of `logging_steps`."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
        """Append one row to the file."""
        if state.is_world_process_zero and "train_runtime" not in logs:
            append_rows(self._file, [{"step": state.global_step, **logs}])


class ProgressBridge(TrainerCallback):  # type: ignore[misc]
    """Forward steps and logs to a `Progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the step to the progress display."""
        if state.is_world_process_zero:
            self._progress.on_step(state.global_step, state.max_steps, {})

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
        """Report the logs to the progress display."""
        if state.is_world_process_zero:
            self._progress.on_step(state.global_step, state.max_steps, dict(logs))


class PeriodicEvaluation(TrainerCallback):  # type: ignore[misc]
    """Evaluate the policy every N steps and log the metrics."""

    def __init__(self, every: int, evaluate: Evaluate, policy: Policy) -> None:
        self._every = every
        self._evaluate = evaluate
        self._policy = policy
        self._trainer: Any = None

    def attach(self, trainer: Any) -> None:
        """Set the trainer, which is created after its callbacks."""
        plugin = trainer.accelerator.state.deepspeed_plugin
        if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
            raise UserError("evaluate_every needs the whole model in each process; leave it out with FSDP and ZeRO-3.")
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate if an evaluation is due."""
        if state.global_step % self._every:
            return
        trainer = self._trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        # In evaluation mode TRL does not include the training metrics in this log.
        model.eval()
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), trainer.accelerator.autocast():
            figures = self._evaluate(replace(self._policy, model=model), state.global_step)
        if state.is_world_process_zero:
            due = control.should_log
            trainer.log({f"eval_{name.removeprefix('eval_')}": value for name, value in figures.items()})
            # `log` resets `should_log`, but the training metrics of this step are not logged yet.
            control.should_log = due
        model.train()


class SamplerOrder(TrainerCallback):  # type: ignore[misc]
    """Advance TRL's `RepeatSampler` to the epoch that a run resumes in.

    The sampler draws one permutation per epoch from its own generator, which checkpoints do not store. Without this, a
    run resumed in its second epoch would repeat the order of the first.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        """Draw and discard the permutations of the completed epochs."""
        sampler = train_dataloader
        while sampler is not None and not hasattr(sampler, "mini_repeat_count"):
            sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
        if sampler is None or not sampler.shuffle or args.ignore_data_skip:
            return
        for _epoch in range(int(state.epoch or 0)):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
