"""The paper's experiment on PhantomVQA: zero-shot, SFT and GRPO, with a table and a report. Re-run to resume."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medvlm_r1.console import TrainingProgress, print_uncropped, progress_bar
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import RESEARCH_USE, UserError, require_extra
from medvlm_r1.recipes import recipe

BASE = "phantom-base"
DOMAINS = {"MRI": "in domain", "CT": "out of domain", "X-ray": "out of domain"}
STAGES = {"zero_shot": "Zero-shot", "sft": "SFT", "grpo": "GRPO"}

# Accuracies of the paper (arXiv 2502.19634, abstract): means over the three modalities, in percent.
PAPER_MEANS = {"zero_shot": 55.11, "grpo": 78.22}

# Enough for every question of the demo; the results count answers that are cut off.
MAX_NEW_TOKENS = 80

SUMMARY = f"""{RESEARCH_USE}

What this shows: GRPO teaches a vision-language model to reason before it answers. The rewards are for the correct
letter and the required format only; there is no written reasoning. Training uses 600 MRI questions. The test includes
CT and X-ray, which the model was not trained on. The images are PhantomVQA: computed phantoms with known ground truth,
not patients.

What it does not show: this is not a reproduction of the paper's clinical results, which need Qwen2-VL-2B, the public
data and a GPU. The embedded base model was deliberately trained to answer worse than it could; its habits are
documented. The demo shows the method on a benchmark of our own. It is not evidence about any model on real patients.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Number of questions per modality in each data folder, and overrides of recipe fields."""

    train: int = 600
    test: int = 300
    held_out: int = 24
    overrides: tuple[str, ...] = ()


def run_demo(out: Path, *, seed: int = 0, sizes: Sizes = Sizes()) -> dict[str, Any]:
    """Run the stages of the demo that are not finished.

    Args:
        out: Folder for `data/`, one folder per stage, `results.json` and `report.html`.
        seed: Seed of the training runs. It does not change the benchmark.
        sizes: Number of questions per modality, and overrides of recipe fields.

    Returns:
        The content of `results.json`.

    Raises:
        UserError: The folder contains a demo with another seed, or one of its files is damaged.
        KeyboardInterrupt: The user pressed Ctrl-C. Finished work is kept.
    """
    # Check this first: the images take a minute, which a later error would waste.
    require_extra("train")
    out.mkdir(parents=True, exist_ok=True)
    clock, owner = out / "seconds.json", out / "demo.json"
    seconds = _read(clock) if clock.exists() else {}
    if not owner.exists():
        atomic_write(owner, json.dumps({"seed": seed}))
    if (previous := _read(owner).get("seed")) != seed:
        raise UserError(
            f"{out} has a demo with seed {previous}, wanted seed {seed}; give another --out or delete the folder."
        )

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        """Measure the time of a stage, and add it to the time of earlier, interrupted runs."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - started, 2)
            atomic_write(clock, json.dumps(seconds))

    with timed("data"):
        _data(out, sizes)
    with timed("zero_shot"):
        _evaluate(BASE, out, "zero_shot", "medvlm-r1")
    with timed("sft"):
        model = _train("sft", out, seed, sizes)
        _evaluate(str(model), out, "sft", "answer-only")
    with timed("grpo"):
        model = _train("grpo", out, seed, sizes)
    with timed("grpo_evaluation"):
        _evaluate(str(model), out, "grpo", "medvlm-r1")
    with timed("report"):
        _report(out)
    stages = {stage: _read(out / "eval" / stage / "results.json") for stage in STAGES}
    results = {"research_use": RESEARCH_USE, **stages, "seconds": seconds}
    atomic_write(out / "results.json", json.dumps(results, indent=1))
    return results


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); delete it and re-run the command.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} contains {content!r}, wanted a JSON object; delete it and re-run the command.")
    return content


def _data(out: Path, sizes: Sizes) -> None:
    from medvlm_r1.phantom.benchmark import write_benchmark

    # The held-out questions are evaluated during training. They share no subject with the test set.
    counts = {"train": sizes.train, "test": sizes.test, "held-out": sizes.held_out}
    for name, n in counts.items():
        folder = out / "data" / name
        if not (folder / "samples.jsonl").exists():
            split, seed = ("test", 1) if name == "held-out" else (name, 0)
            with progress_bar(f"PhantomVQA {name}") as advance:
                write_benchmark(folder, split=split, n=n, seed=seed, progress=advance)


def _evaluate(model: str, out: Path, stage: str, template: str) -> None:
    from medvlm_r1.evaluation.run import evaluate

    run = out / "eval" / stage
    if (run / "results.json").exists():
        return
    with progress_bar(f"{STAGES[stage]}: answers") as advance:
        settings: dict[str, Any] = {"template": template, "max_new_tokens": MAX_NEW_TOKENS, "batch_size": 64}
        evaluate(model, out / "data" / "test", run, progress=advance, **settings)


def _train(method: str, out: Path, seed: int, sizes: Sizes) -> Path:
    from medvlm_r1.training.config import load_config

    name = "phantom.yaml" if method == "grpo" else "phantom-sft.yaml"
    overrides = [f"data.train={out / 'data' / 'train'}", f"out={out / method}", f"seed={seed}"]
    if method == "grpo":
        overrides.append("evaluate_every=25")
    config = load_config(recipe(name), [*overrides, *sizes.overrides])
    if (out / method / "model").is_dir():
        return out / method / "model"
    with progress_bar(f"{STAGES[method]}: training") as advance:
        progress = TrainingProgress(advance)
        if method == "sft":
            from medvlm_r1.training.sft import train_sft

            return train_sft(config, progress=progress)
        from medvlm_r1.evaluation.watch import HeldOut
        from medvlm_r1.training.grpo import train_grpo

        watch = HeldOut(out / "data" / "held-out", max_new_tokens=MAX_NEW_TOKENS, batch_size=64)
        return train_grpo(config, progress=progress, evaluate=watch)


def _report(out: Path) -> None:
    from medvlm_r1.evaluation.compare import compare
    from medvlm_r1.report import load_run, render_report

    runs = {name: load_run(out / "eval" / stage) for stage, name in STAGES.items()}
    runs["GRPO"] = load_run(out / "eval" / "grpo", training=out / "grpo")
    gain = compare(out / "eval" / "zero_shot", out / "eval" / "grpo")["all"]
    low, high = gain["ci95"]
    names = {"zero_shot": "Qwen2-VL-2B, zero-shot", "grpo": "MedVLM-R1"}
    render_report(
        runs,
        out / "report.html",
        title="MedVLM-R1 demo on PhantomVQA",
        summary=SUMMARY,
        notes=(
            "Written by `medvlm-r1 demo`. Each stage has its own results.json.",
            f"GRPO compared with zero-shot on the same {gain['n']} items: {gain['difference']:+.1f} points, 95 %"
            f" interval [{low:.1f}, {high:.1f}] (Bonett-Price); exact {gain['test']} p = {gain['p']:.1e}.",
        ),
        domains=DOMAINS,
        paper={names[stage]: {"Mean": mean} for stage, mean in PAPER_MEANS.items()},
        items=12,
    )


def print_table(results: Mapping[str, Any], console: Console) -> None:
    """Print the accuracies by stage and modality, next to the mean accuracies of the paper."""
    table = Table(title="PhantomVQA: percent correct, with 95 % intervals", show_lines=True, caption=RESEARCH_USE)
    for column in ("", "MRI\n(trained)", "CT", "X-ray", "mean", "well-\nformed", "paper's\nmean*"):
        table.add_column(column, justify="left" if not column else "right")
    for stage, name in STAGES.items():
        figures = results[stage]
        cells = [figures["accuracy"][m] for m in DOMAINS]
        accuracies = [f"{c['percent']:.1f}\n[{c['ci95'][0]:.1f}, {c['ci95'][1]:.1f}]" for c in cells]
        paper = f"{PAPER_MEANS[stage]:.2f}" if stage in PAPER_MEANS else "-"
        table.add_row(
            name, *accuracies, f"{figures['accuracy']['mean']:.1f}", f"{figures['well_formed']['percent']:.1f}", paper
        )
    print_uncropped(console, table)
    console.print(
        "* MedVLM-R1 (arXiv 2502.19634): Qwen2-VL-2B on clinical images, which is another model and another benchmark."
        " This demo shows the method; it is not a reproduction of the paper's results."
    )
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in results["seconds"].items())
    console.print(f"Time: {times}.")
