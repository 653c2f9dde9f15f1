"""Cold start: train a checkpoint that knows the answer format and relies on the image only a little.

The embedded base uses images so well that it learns no shortcut: plain rewards on questions that give their answers
away change nothing. It is therefore first tuned on clean questions with a short reasoning written from each label. Half
of them have the image of another item. The model learns to state the attribute, to weigh the options and to answer, and
to rely on the image a little. The rewards decide what it relies on in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.base.language import weigh
from benchmarks.known_models import question_about
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
    """A response in the released format that states the correct option, weighs the options and answers."""
    scene = scene_of(sample)
    assert scene is not None, sample.id
    return f"<think>{weigh(question_about(sample, scene))}</think><answer>{sample.letter}</answer>"


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
    """Train the checkpoint if it is missing, and return its folder.

    Args:
        data: Folder of PhantomVQA questions, with their records.
        out: Folder of the checkpoint.
        seed: Seed of the order of the questions.
        epochs: Training epochs.
        write: Function that returns the response to learn for a question.
        template: The prompt template.
        progress: Called with (steps done, all steps).
    """
    if (out / "config.json").exists():
        return out
    samples = load_samples(str(data))
    responses = {sample.id: write(sample) for sample in samples}
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
            train_dataset=build_dataset(str(data), samples, template=template, completions=responses),
            callbacks=[_Steps(progress)] if progress is not None else None,
        )
        # It prints on stdout, which holds results only.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        policy.model.save_pretrained(partial)
        policy.processor.save_pretrained(partial)
    partial.replace(out)
    return out
