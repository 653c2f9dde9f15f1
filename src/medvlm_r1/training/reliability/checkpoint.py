"""Atomic checkpoints: written completely or not at all, with everything that an exact resume needs.

transformers writes a checkpoint in place, file by file. An interrupted process can therefore leave an incomplete
checkpoint that looks complete. Here a checkpoint is written to `checkpoint.partial/` with a manifest of hashes, flushed
to disk and then renamed. Older checkpoints are deleted only after that.

A checkpoint also holds the metrics recorded since the last log. The next log of a resumed run therefore equals that of
an uninterrupted run. With `sync_ref_model` a checkpoint also holds the current reference.

transformers saves Qwen2-VL (and every family whose modules were renamed after its release) under the parameter names of
the Hub files. `from_pretrained` maps these names back. `Trainer` in transformers 5.23 does not, because it calls
`load_state_dict(strict=False)`. A resumed run would continue from its initial weights and only print a warning.
"""

import hashlib
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from medvlm_r1.disk import sync, sync_tree
from medvlm_r1.errors import UserError
from medvlm_r1.models.load import load_policy

MANIFEST = "files.json"
PARTIAL = "checkpoint.partial"
REFERENCE = "reference.safetensors"
_STATE = "trainer_state.json"
_HASHING_THREADS = 4


def seal(folder: Path) -> None:
    """Write the manifest of a checkpoint (size and SHA-256 of each file) and flush all its files to disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(_HASHING_THREADS) as threads:
        facts = threads.map(_facts, files)
    names = [path.relative_to(folder).as_posix() for path in files]
    listed = dict(zip(names, facts, strict=True))
    (folder / MANIFEST).write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    sync_tree(folder)


def damage(folder: Path) -> str | None:
    """Describe how a checkpoint is damaged; return None if it is intact."""
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wanted = {name: (int(facts["bytes"]), str(facts["sha256"])) for name, facts in listed.items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"its {MANIFEST} cannot be read"
    if _STATE not in wanted:
        return f"its {MANIFEST} names no {_STATE}"
    with ThreadPoolExecutor(_HASHING_THREADS) as threads:
        present = dict(zip(wanted, threads.map(_facts, [folder / name for name in wanted]), strict=True))
    for name, (size, digest) in wanted.items():
        facts = present[name]
        if facts is None:
            return f"{name} is not there"
        if facts["bytes"] != size:
            return f"{name} has {facts['bytes']} bytes of {size}"
        if facts["sha256"] != digest:
            return f"{name} has another content than was written"
    return None


def _facts(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """The steps and paths of the checkpoints in a folder, newest first."""
    checkpoints = [(path.name.rpartition("-")[2], path) for path in folder.glob("checkpoint-*") if path.is_dir()]
    return sorted(((int(step), path) for step, path in checkpoints if step.isdigit()), reverse=True)


def newest_whole(folder: Path) -> Path | None:
    """Find the newest intact checkpoint. Newer, damaged checkpoints are reported on stderr and renamed.

    Args:
        folder: Folder of the checkpoints. It does not have to exist.

    Returns:
        Path of the checkpoint; None if the folder has no checkpoints.

    Raises:
        UserError: Every checkpoint is damaged.
    """
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    damaged: list[tuple[Path, str]] = []
    for step, path in numbered(folder):
        reason = damage(path)
        if reason is None:
            for broken, why in damaged:
                _set_aside(broken)
                print(
                    f"{broken} is damaged: {why}. It is kept as damaged-{broken.name}; going on from step {step}.",
                    file=sys.stderr,
                )
            return path
        damaged.append((path, reason))
    if damaged:
        faults = "; ".join(f"{path.name}: {why}" for path, why in damaged)
        raise UserError(
            f"{folder}: every checkpoint is damaged ({faults}). Put back a whole one, or remove them all to start "
            "again from the first step."
        )
    return None


def finish_rotation(checkpoint: Path, limit: int | None) -> None:
    """Delete old checkpoints beyond the limit, which an interrupted process may have left behind.

    Args:
        checkpoint: Checkpoint that the run resumes from.
        limit: Maximum number of checkpoints to keep; None keeps all.
    """
    state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    best = state.get("best_model_checkpoint")
    # The stored path is outdated if the run folder was moved.
    rotate_checkpoints(str(checkpoint.parent), limit, str(checkpoint.parent / Path(best).name) if best else None)


def _set_aside(path: Path) -> None:
    target = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(target, ignore_errors=True)
    path.replace(target)


class AtomicCheckpoints(Trainer):  # type: ignore[misc]
    """Mixin that writes checkpoints to a temporary folder and renames them when they are complete.

    It restores full weights with `from_pretrained` and requires every key to match. Adapter, FSDP and DeepSpeed
    checkpoints use the in-memory names, so `Trainer` restores them itself. List the mixin before a transformers
    `Trainer` in the base classes.
    """

    _staging: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # A folder must not be renamed while it is pushed in the background.
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Weights gathered by FSDP2 or ZeRO-3 are copies, so `save_pretrained` cannot see that some are tied.
        if state_dict is not None:
            for name in self.accelerator.unwrap_model(self.model).all_tied_weights_keys:
                state_dict.pop(name, None)
        super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        home = Path(self._get_output_dir(trial))
        target = home / f"checkpoint-{self.state.global_step}"
        # transformers may save the same step again at the end of an epoch.
        if target.exists():
            return
        if self.args.should_save:
            shutil.rmtree(home / PARTIAL, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._staging = home / PARTIAL
        try:
            super()._save_checkpoint(model, trial)
            self._complete(self._staging / target.name, target)
        except BaseException:
            # The usual cause is a full disk.
            shutil.rmtree(home / PARTIAL, ignore_errors=True)
            raise
        finally:
            self._staging = None
            self.args.save_total_limit = limit
        if self.args.should_save:
            # Sorted by step, because file times are unreliable if the clock was changed.
            rotate_checkpoints(str(home), limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(target))

    def _complete(self, staged: Path, target: Path) -> None:
        """Add the files that transformers does not write, seal the checkpoint and rename it."""
        figures = {
            "loss": self._tr_loss.item(),
            "last_logged": self._globalstep_last_logged,
            "metrics": {name: list(values) for name, values in self._metrics["train"].items()},
            "tokens": getattr(self, "_total_train_tokens", None),
        }
        _figures_file(staged, self).write_text(json.dumps(figures) + "\n", encoding="utf-8")
        if _keeps_reference(self) and self.args.should_save:
            save_model(self.accelerator.unwrap_model(self.ref_model), str(staged / REFERENCE))
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(target)
            if self.args.should_save:
                self.state.save_to_json(str(staged / _STATE))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(staged)
            staged.replace(target)
            staged.parent.rmdir()
            sync(target.parent)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._restore(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._restore(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _restore(self, folder: str) -> bool:
        """Load full weights, whose names may differ on disk; return False for other checkpoints."""
        model = self.accelerator.unwrap_model(self.model)
        full = not (self.is_fsdp_enabled or self.is_deepspeed_enabled or hasattr(model, "peft_config"))
        if full:
            model.load_state_dict(load_policy(folder, dtype=model.dtype, device="cpu").model.state_dict())
        return full


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Restore the state that `AtomicCheckpoints` adds to a checkpoint, and save only between generations.

    With `num_iterations` or `steps_per_generation` above their defaults, several steps use the same completions.
    Checkpoints do not hold completions. A run resumed between these steps would generate different completions and
    diverge from the uninterrupted run. Checkpoints are therefore postponed to the last of these steps.

    Args:
        trainer: The trainer.
        checkpoint: Checkpoint that the run resumes from; None if it starts.
    """

    def __init__(self, trainer: Any, checkpoint: Path | None) -> None:
        self._trainer, self._checkpoint = trainer, checkpoint
        self._owed = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restore the metrics recorded since the last log and, with `sync_ref_model`, the reference."""
        if self._checkpoint is None:
            return
        trainer = self._trainer
        file = _figures_file(self._checkpoint, trainer)
        # There is one file per process. If the number of processes has grown, the metrics of new ones start empty.
        if file.is_file():
            figures = json.loads(file.read_text(encoding="utf-8"))
            trainer._tr_loss.fill_(figures["loss"])
            trainer._globalstep_last_logged = figures["last_logged"]
            trainer._metrics["train"].update(figures["metrics"])
            if figures["tokens"] is not None:
                trainer._total_train_tokens = figures["tokens"]
        if _keeps_reference(trainer):
            load_model(trainer.accelerator.unwrap_model(trainer.ref_model), str(self._checkpoint / REFERENCE))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Postpone a save that is due, or carry out a postponed save."""
        between = between_generations(self._trainer) or state.global_step >= state.max_steps
        due = control.should_save or self._owed
        control.should_save = due and between
        self._owed = due and not between


def between_generations(trainer: Any) -> bool:
    """Whether the next step generates new completions; always True for SFT."""
    per_generation = getattr(trainer.args, "steps_per_generation", None)
    return per_generation is None or trainer._step % (per_generation * trainer.num_iterations) == 0


def _figures_file(folder: Path, trainer: Any) -> Path:
    return folder / f"figures-{trainer.args.process_index}.json"


def _keeps_reference(trainer: Any) -> bool:
    """Whether checkpoints include the reference: it changes during the run and is not sharded."""
    changes = getattr(trainer.args, "sync_ref_model", False)
    return changes and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
