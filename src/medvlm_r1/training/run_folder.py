"""Folder of a training run: configuration, environment, data, progress and results.

config.yaml    the resolved configuration
env.json       versions, platform, commit and seeds; also the environments of resumed runs if they differ
data.json      hash and counts of each data folder
metrics.jsonl  every log of the trainer
rollouts.jsonl every rollout (GRPO)
tensorboard/   the logs for TensorBoard
checkpoints/   TRL's checkpoints, written atomically (`training.reliability.checkpoint`)
model/         the final model; it exists only when it is complete
.lock          lock file of the training process

TRL does not pass completions to callbacks, so two interfaces of `GRPOTrainer` are used. With `log_extra`, reward
functions add columns to TRL's completion table. `_logs` holds that table after each generation.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import TrainerCallback
from trl import GRPOTrainer

from medvlm_r1.data.rows import append_rows, drop_rows_after
from medvlm_r1.disk import LOCK, atomic_write, exclusive_lock, read_mapping
from medvlm_r1.errors import UserError
from medvlm_r1.models.device import versions
from medvlm_r1.prompts.templates import opened_reasoning
from medvlm_r1.rewards import Reward
from medvlm_r1.rewards.completion import completion_text
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.reliability.checkpoint import newest_whole, numbered

_FIRST = ("data.json", "env.json", "config.yaml")


class RunFolder:
    """Paths inside a run folder.

    Attributes:
        path: The run folder.
        model: Folder of the final model.
        checkpoints: Folder of the checkpoints (TRL's output directory).
        metrics: JSON Lines file with one row per log of the trainer.
        rollouts: JSON Lines file with one row per rollout.
        tensorboard: Folder of the TensorBoard event files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model, self.checkpoints, self.tensorboard = path / "model", path / "checkpoints", path / "tensorboard"
        self.metrics, self.rollouts = path / "metrics.jsonl", path / "rollouts.jsonl"

    @property
    def complete(self) -> bool:
        """Whether the final model exists."""
        return self.model.is_dir()

    @contextmanager
    def locked(self, *, main: bool) -> Iterator[None]:
        """Lock the run folder within this context. A complete run is only read, so it is not locked.

        Args:
            main: whether this is the main process. The other processes write nothing and take no lock.

        Raises:
            UserError: another process holds the lock, or the folder contains something other than a run.
        """
        if not main or self.complete:
            yield
            return
        # Checked before anything is written to the folder, including the lock.
        _refuse_foreign(self.path)
        with exclusive_lock(self.path):
            yield

    @contextmanager
    def beginning(self, *, new: bool) -> Iterator[None]:
        """Set up a run within this context. If that fails, a new folder is emptied, so that a corrected run can use it.

        Args:
            new: whether the folder held no run before and this is the main process.
        """
        try:
            yield
        except UserError:
            if new:
                for child in self.path.iterdir():
                    if child.is_dir():
                        shutil.rmtree(child)
                    elif child.name != LOCK:
                        child.unlink()
            raise

    def last_checkpoint(self, *, main: bool = True) -> Path | None:
        """Find the newest intact checkpoint; return None if there is no checkpoint.

        Args:
            main: whether this is the main process, which verifies checkpoints and renames damaged ones. It must call
                this method before the other processes.

        Raises:
            UserError: all checkpoints are damaged.
        """
        if main:
            return newest_whole(self.checkpoints)
        return next((path for _, path in numbered(self.checkpoints)), None)


def prepare_run(config: RunConfig, data: Mapping[str, Any]) -> RunFolder:
    """Create a run folder, or check that an existing one belongs to the same configuration and data.

    Args:
        config: the resolved configuration; `config.out` is the folder.
        data: content of `data.json`: results of `medvlm_r1.training.dataset.describe` by role ("train", "eval").

    Raises:
        UserError: the folder holds a run with another configuration or other data (the message names the differing
            keys), or something other than a run.
    """
    run = RunFolder(Path(config.out))
    file = run.path / "config.yaml"
    resolved = config.model_dump(mode="json")
    if file.is_file():
        _check_same(run.path, _read(file), resolved, what="configuration")
        _check_same(run.path, _read(run.path / "data.json"), dict(data), what="data")
    else:
        _refuse_foreign(run.path)
        run.path.mkdir(parents=True, exist_ok=True)
        atomic_write(run.path / "data.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    if not run.complete:
        _record_environment(run.path / "env.json", config)
    # Written last, so that a folder with a config.yaml also has the other files, even after an interruption.
    if not file.is_file():
        atomic_write(file, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
    return run


def _refuse_foreign(folder: Path) -> None:
    """Reject a folder without config.yaml if it contains other files than those of an interrupted setup."""
    begun = {LOCK, *_FIRST, *(f"{name}.tmp" for name in _FIRST)}
    if (folder / "config.yaml").is_file() or not folder.is_dir():
        return
    if any(child.name not in begun for child in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run (no config.yaml). Give 'out' a new folder.")


def _check_same(folder: Path, before: dict[str, Any], now: dict[str, Any], *, what: str) -> None:
    old, new = _flat(before), _flat(now)
    absent = "(absent)"
    differing = [
        f"{key}: {old.get(key, absent)} there, {new.get(key, absent)} now"
        for key in sorted(old.keys() | new.keys())
        # Paths may be relative to another working directory, and `on_guard` does not change the training steps.
        if key not in ("out", "train.folder", "eval.folder", "on_guard") and old.get(key) != new.get(key)
    ]
    if differing:
        raise UserError(
            f"{folder} holds a run with another {what}: {'; '.join(differing)}. "
            "Give 'out' a new folder, or use the settings that the run was started with."
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {key: leaf for name, child in value.items() for key, leaf in _flat(child, f"{prefix}.{name}").items()}
    return {prefix.removeprefix("."): value}


def _record_environment(file: Path, config: RunConfig) -> None:
    now = {**versions(), "seeds": {"seed": config.seed, "data_seed": config.trainer.get("data_seed")}}
    before = _read(file) if file.is_file() else None
    if before is None:
        atomic_write(file, json.dumps(now, indent=2) + "\n")
        return
    resumed = before.pop("resumed_with", [])
    if now != (resumed[-1] if resumed else before):
        atomic_write(file, json.dumps({**before, "resumed_with": [*resumed, now]}, indent=2) + "\n")


def _read(file: Path) -> dict[str, Any]:
    return read_mapping(file, "the run folder is damaged, give 'out' a new one")


_ROUNDING = 1e-8
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

    A row holds `step` (the first optimizer step that uses the completion), `sample_id`, `modality`, `group` (number of
    the prompt within its generation batch), `completion`, `rewards` (by name), `reward` (their weighted sum) and
    `advantage`. With counterfactual images it also holds `own_image`, which is false if the completion was generated
    with another item's image.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._trainer: Any = None
        self._generations = 0
        self._written = 0
        self._modalities = 0

    def attach(self, trainer: Any) -> None:
        """Set the trainer, which is created after its callbacks."""
        self._trainer = trainer
        self._modalities = len(set(trainer.train_dataset.with_format(None)["modality"]))

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
        if generation == self._written:
            return
        self._written = generation
        weights = dict(zip(self._trainer.reward_func_names, self._trainer.reward_weights.tolist(), strict=True))
        modalities = list(logs["extra"]["modality"]) if self._modalities > 1 else []
        # In every process, because the guards of all processes must agree.
        for name, value in group_figures(logs["rewards"], weights, self._trainer.num_generations, modalities).items():
            self._trainer._metrics["train"][name].append(value)
        if not state.is_world_process_zero:
            return
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


def group_figures(
    rewards: Mapping[str, Sequence[float]], weights: Mapping[str, float], size: int, modalities: Sequence[str] = ()
) -> dict[str, float]:
    """Metrics of a generation batch that TRL does not log.

    A reward's share of the advantage variance is cov(w r, R) / var(R): w r is the weighted reward and R the sum of all
    weighted rewards, both minus their mean over the group. The shares of all rewards add up to 1. A negative share
    means that the reward opposes the others.

    Args:
        rewards: Values of each reward for whole groups; NaN for completions that it does not judge.
        weights: Weight of each reward.
        size: Number of completions of a group.
        modalities: Modality of each completion; empty to log nothing by modality.

    Returns:
        `rewards/NAME/varying_groups` (see `varying_groups`) and `rewards/NAME/advantage_share`; and by modality
        `reward/MODALITY`, `rewards/NAME/mean/MODALITY` and `frac_reward_zero_std/MODALITY`. A figure that is undefined
        is left out.
    """
    figures = {
        f"rewards/{name}/varying_groups": share
        for name, values in rewards.items()
        if (share := varying_groups(list(values), size)) is not None
    }
    values = np.array([[*rewards[name]] for name in rewards])
    weighted = np.nan_to_num(values * np.array([[weights[name]] for name in rewards]))
    groups = weighted.reshape(len(rewards), -1, size)
    centered = groups - groups.mean(axis=2, keepdims=True)
    total = centered.sum(axis=0)
    if (variance := float((total**2).sum())) > _ROUNDING:
        shares = (centered * total).sum(axis=(1, 2)) / variance
        figures |= {
            f"rewards/{name}/advantage_share": float(share) for name, share in zip(rewards, shares, strict=True)
        }
    still = (abs(total) < _ROUNDING).all(axis=1)
    for modality in dict.fromkeys(modalities):
        mask = np.array(modalities) == modality
        figures[f"reward/{modality}"] = float(weighted[:, mask].sum(axis=0).mean())
        figures[f"frac_reward_zero_std/{modality}"] = float(still[mask[::size]].mean())
        for name, row in zip(rewards, values[:, mask], strict=True):
            if not np.isnan(row).all():
                figures[f"rewards/{name}/mean/{modality}"] = float(np.nanmean(row))
    return figures


def varying_groups(rewards: Sequence[float], size: int) -> float | None:
    """Share of the groups in which a reward has different values; None if no group has two values.

    Args:
        rewards: Values of one reward for whole groups; NaN for completions that it does not judge.
        size: Number of completions of a group.
    """
    groups = [rewards[start : start + size] for start in range(0, len(rewards), size)]
    judged = [[value for value in group if not math.isnan(value)] for group in groups]
    varies = [len(set(values)) > 1 for values in judged if len(values) > 1]
    return sum(varies) / len(varies) if varies else None
