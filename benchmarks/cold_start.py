"""A checkpoint that knows the form of an answer and reads images half: the start of `python -m benchmarks.grounded`.

The embedded base reads images so well that it takes to no shortcut: from it, plain rewards on questions that give their
answers away lose nothing. So it is first tuned on clean questions with a short reasoning written from each label, half
of them shown beside the image of another item. From those it learns to state what is asked for, to weigh the options
and to answer, and to lean on the image a little. What it leans on in the end is left to the rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.base.language import weigh
from benchmarks.known_models import asking
from medvlm_r1.audit.claims import scene_of
from medvlm_r1.data.sample import Sample
from medvlm_r1.models.load import PHANTOM_BASE, load_policy, quiet_bars
from medvlm_r1.training.dataset import build_dataset, load_samples


class _Steps(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress(state.global_step, state.max_steps)


def written_from_label(sample: Sample) -> str:
    """A turn in the release's format that states the right option, weighs the options and answers."""
    scene = scene_of(sample)
    assert scene is not None, sample.id
    return f"<think>{weigh(asking(sample, scene))}</think><answer>{sample.letter}</answer>"


def cold_start(
    data: Path,
    out: Path,
    *,
    seed: int,
    epochs: float,
    write: Callable[[Sample], str] = written_from_label,
    template: str = "medvlm-r1",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The checkpoint; made if it is not there yet.

    Args:
        data: Folder of PhantomVQA questions, with their records.
        out: Folder of the checkpoint.
        seed: Of the order of the questions.
        epochs: Passes over them.
        write: The turn to be learned for a question.
        template: The prompt before it.
        progress: Called with (steps done, steps in all).
    """
    if (out / "config.json").exists():
        return out
    samples = load_samples(str(data))
    told = {sample.id: write(sample) for sample in samples}
    policy = load_policy(PHANTOM_BASE, dtype="float32", device="cpu")
    partial = out.with_name(out.name + ".partial")
    args = SFTConfig(
        output_dir=str(partial),
        seed=seed,
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        learning_rate=3e-4,
        lr_scheduler_type="linear",
        max_length=None,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        bf16=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    with quiet_bars():
        trainer = SFTTrainer(
            model=policy.model,
            processing_class=policy.processor,
            args=args,
            train_dataset=build_dataset(str(data), samples, template=template, completions=told),
            callbacks=[_Steps(progress)] if progress is not None else None,
        )
        # It prints on stdout, where results go alone.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        policy.model.save_pretrained(partial)
        policy.processor.save_pretrained(partial)
    partial.replace(out)
    return out
