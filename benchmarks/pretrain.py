"""`python -m benchmarks.pretrain`: build the embedded base from random weights.

Finished stages are saved, and the running stage every few minutes. Re-run to resume.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_model, save_model
from torch import nn

from benchmarks.base.architecture import build_model, build_processor, train_tokenizer
from benchmarks.base.batches import Rows
from benchmarks.base.language import corpus
from benchmarks.base.pool import build_pool
from benchmarks.base.stages import PLAN, Pretraining, Report, Stage
from benchmarks.base.tower import Heads
from benchmarks.command import run
from medvlm_r1.cli.options import Json, Out, folder_to_write, print_result
from medvlm_r1.errors import UserError

SUBJECTS = 32_000
"""Number of images in the pool. Their seeds differ from those of PhantomVQA, so no subject is in both."""


def pretrain(
    out: Path,
    work: Path,
    *,
    seed: int = 0,
    subjects: int = SUBJECTS,
    plan: dict[str, Stage] | None = None,
    report: Report,
) -> None:
    """Train the base model and write it as a plain Hugging Face folder.

    Args:
        out: Folder of the model.
        work: Folder of the pool, the stages and `log.jsonl`.
        seed: Seed of weights, subjects and texts.
        subjects: Number of images in the pool.
        plan: Number of steps, batch size and learning rate of each stage; by default `stages.PLAN`.
        report: Called with (stage, step, steps, figures).

    Raises:
        UserError: `work` holds stages of other settings or of another tokenizer.
    """
    plan = plan or PLAN
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(corpus(seed))
    # The texts decide the tokenizer, and a stage taught with one is worthless to the next with another.
    words = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    lengths = {name: asdict(stage) for name, stage in plan.items()}
    settings = json.dumps({"seed": seed, "subjects": subjects, "tokenizer": words, "plan": lengths}, indent=1)
    stored = work / "settings.json"
    if stored.exists() and stored.read_text() != settings:
        raise UserError(
            f"{work} holds stages made with other settings ({stored}); wanted an empty folder or the same settings."
        )
    stored.write_text(settings)
    torch.manual_seed(seed)
    model = build_model(tokenizer)
    model.train()
    heads = Heads(model.config.text_config.hidden_size)
    pool = build_pool(
        work / "pool", subjects, seed, lambda done, n: report("pool", done, n, {}) if done % 500 == 0 else None
    )
    training = Pretraining(model, heads, Rows(tokenizer), pool, seed, work / "log.jsonl", report)
    both = nn.ModuleDict({"model": model, "heads": heads})
    for name, stage in plan.items():
        checkpoint = work / f"{name}.safetensors"
        if checkpoint.exists():
            load_model(both, checkpoint)
            continue
        running = work / f"{name}-running.safetensors"
        training.run(name, stage, running)
        partial = checkpoint.with_suffix(".partial")
        save_model(both, str(partial))
        partial.rename(checkpoint)
        running.unlink(missing_ok=True)
    # In bfloat16 to stay small.
    model.to(torch.bfloat16).save_pretrained(out)
    build_processor(tokenizer).save_pretrained(out)


def main(
    out: Out = Path("runs/phantom-base"),
    work: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder of the stages. Re-run to resume.")
    ] = Path("runs/pretrain"),
    seed: Annotated[int, typer.Option(help="Seed of weights, subjects and texts.")] = 0,
    as_json: Json = False,
) -> None:
    """Build the next embedded base model from random weights, in six stages. Re-run to resume.

    Example: python -m benchmarks.pretrain --out runs/phantom-base
    """
    from medvlm_r1.console import progress_bar

    with progress_bar("Base model") as advance:

        def show(stage: str, step: int, steps: int, figures: dict[str, float]) -> None:
            text = "".join(f"  {name} {number:.2f}" for name, number in figures.items() if name != "seconds")
            advance(step, steps, note=stage + text)

        pretrain(out, work, seed=seed, report=show)
    print_result({"model": str(out)}, [f"Model: {out}"], as_json=as_json)


if __name__ == "__main__":
    run(main, "pretrain")
