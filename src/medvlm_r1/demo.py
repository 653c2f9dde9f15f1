"""The paper's experiment on PhantomVQA: zero-shot, SFT, GRPO; a table and a report.

Started again after an interruption, it goes on where it stood.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medvlm_r1.console import TrainingProgress, print_whole, progress_bar
from medvlm_r1.disk import write_whole
from medvlm_r1.errors import RESEARCH_USE, UserError, require_extra
from medvlm_r1.recipes import recipe

BASE = "phantom-base"
DOMAINS = {"MRI": "in domain", "CT": "out of domain", "X-ray": "out of domain"}
STAGES = {"zero_shot": "Zero-shot", "sft": "SFT", "grpo": "GRPO"}

# The two figures of the paper (arXiv 2502.19634, abstract) that stand beside ours: means over the three modalities.
PAPER_MEANS = {"zero_shot": 55.11, "grpo": 78.22}

# The demo's questions never need more; the table counts what is cut off.
MAX_NEW_TOKENS = 80

SUMMARY = f"""{RESEARCH_USE}

What this shows: a vision-language model that knows more than it says is taught by GRPO, with rewards for the right
letter and the right form alone and no written reasoning, on 600 MRI questions, to reason before it answers; and how far
that carries over to CT and X-ray, which it was not trained on. The images are PhantomVQA: computed phantoms whose truth
is known, not patients.

What it does not show: the embedded base model was built to know more than it says (its careless habits are documented
and deliberate), so this is the method at work on a benchmark of our own. It is no reproduction of the paper's clinical
figures; those need Qwen2-VL-2B, the public data and a GPU. Nothing here says how any model would do on real patients.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Questions per modality, and changes to the recipes: the demo's own by default."""

    train: int = 600
    test: int = 300
    held_out: int = 24
    overrides: tuple[str, ...] = ()


def run_demo(out: Path, *, seed: int = 0, sizes: Sizes = Sizes()) -> dict[str, Any]:
    """Runs whatever of the demo is not done yet.

    Args:
        out: Folder of the demo: `data/`, one folder a stage, `results.json`, `report.html`.
        seed: Seed of the trainings; the benchmark stays the same.
        sizes: How much of everything.

    Returns:
        The content of `results.json`.

    Raises:
        UserError: The folder holds a demo of another seed, or a file of it is damaged.
        KeyboardInterrupt: Interrupted; everything finished is kept.
    """
    # The images alone take a minute, which nobody should spend before a message.
    require_extra("train")
    out.mkdir(parents=True, exist_ok=True)
    clock = _Clock(out / "seconds.json")
    _claim(out, seed)
    with clock.stage("data"):
        _data(out, sizes)
    with clock.stage("zero_shot"):
        _evaluate(BASE, out, "zero_shot", "medvlm-r1")
    with clock.stage("sft"):
        model = _train("sft", out, seed, sizes)
        _evaluate(str(model), out, "sft", "answer-only")
    with clock.stage("grpo"):
        model = _train("grpo", out, seed, sizes)
    with clock.stage("grpo_evaluation"):
        _evaluate(str(model), out, "grpo", "medvlm-r1")
    return _finish(out, clock)


def _claim(out: Path, seed: int) -> None:
    file = out / "demo.json"
    if not file.exists():
        write_whole(file, json.dumps({"seed": seed}))
    kept = _kept(file).get("seed")
    if kept != seed:
        raise UserError(
            f"{out} holds the demo of seed {kept}, wanted seed {seed}; give another --out or delete the folder."
        )


def _kept(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); delete it and run the same command again.") from error
    if not isinstance(found, dict):
        raise UserError(
            f"{file} holds {found!r}, wanted what the demo wrote; delete it and run the same command again."
        )
    return found


def _data(out: Path, sizes: Sizes) -> None:
    from medvlm_r1.phantom.benchmark import write_benchmark

    # The held-out questions watch the training; their subjects are not the test's.
    for name, split, n, seed in (
        ("train", "train", sizes.train, 0),
        ("test", "test", sizes.test, 0),
        ("held-out", "test", sizes.held_out, 1),
    ):
        folder = out / "data" / name
        if (folder / "samples.jsonl").exists():
            continue
        with progress_bar(f"PhantomVQA {name}") as advance:
            write_benchmark(folder, split=split, n=n, seed=seed, progress=advance)


def _evaluate(model: str, out: Path, stage: str, template: str) -> None:
    from medvlm_r1.evaluation.run import evaluate

    run = out / "eval" / stage
    if (run / "results.json").exists():
        return
    with progress_bar(f"{STAGES[stage]}: answers") as advance:
        evaluate(
            model,
            out / "data" / "test",
            run,
            template=template,
            max_new_tokens=MAX_NEW_TOKENS,
            batch_size=64,
            progress=advance,
        )


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


def _finish(out: Path, clock: _Clock) -> dict[str, Any]:
    results: dict[str, Any] = {"research_use": RESEARCH_USE}
    for stage in STAGES:
        file = out / "eval" / stage / "results.json"
        if not file.exists():
            raise UserError(f"{file} is not there yet; run `medvlm-r1 demo --out {out}` to its end first.")
        results[stage] = _kept(file)
    with clock.stage("report"):
        _report(out)
    results["seconds"] = clock.seconds
    write_whole(out / "results.json", json.dumps(results, indent=1))
    return results


def _report(out: Path) -> None:
    from medvlm_r1.evaluation.compare import compare
    from medvlm_r1.report import PaperCell, PaperRow, load_run, render_report

    runs = {
        "Zero-shot": load_run(out / "eval" / "zero_shot"),
        "SFT": load_run(out / "eval" / "sft"),
        "GRPO": load_run(out / "eval" / "grpo", training=out / "grpo"),
    }
    gain = compare(out / "eval" / "zero_shot", out / "eval" / "grpo")["all"]
    low, high = gain["ci95"]
    names = {"zero_shot": "Qwen2-VL-2B, zero-shot", "grpo": "MedVLM-R1"}
    render_report(
        runs,
        out / "report.html",
        title="MedVLM-R1 demo on PhantomVQA",
        summary=SUMMARY,
        notes=(
            "Made by `medvlm-r1 demo`; each stage's own figures are in its results.json.",
            f"GRPO against zero-shot on the same {gain['n']} items: {gain['difference']:+.1f} points, 95 % interval"
            f" [{low:.1f}, {high:.1f}] (Bonett-Price); exact {gain['test']} p = {gain['p']:.1e}.",
        ),
        domains=DOMAINS,
        paper=[
            PaperRow(name=names[stage], cells={"Mean": PaperCell(percent=mean, confirmed=True)})
            for stage, mean in PAPER_MEANS.items()
        ],
        items=12,
    )


def print_table(results: Mapping[str, Any], console: Console) -> None:
    """Prints the paper's table with our figures, and the paper's own means beside them."""
    table = Table(title="PhantomVQA: percent right, 95 % interval in brackets", show_lines=True, caption=RESEARCH_USE)
    for column in ("", "MRI\n(trained)", "CT", "X-ray", "mean", "well\nformed", "paper's\nown mean*"):
        table.add_column(column, justify="left" if not column else "right")
    for stage, name in STAGES.items():
        figures = results[stage]
        cells = [figures["accuracy"][m] for m in DOMAINS]
        shown = [f"{c['percent']:.1f}\n[{c['ci95'][0]:.1f}, {c['ci95'][1]:.1f}]" for c in cells]
        paper = f"{PAPER_MEANS[stage]:.2f}" if stage in PAPER_MEANS else "-"
        table.add_row(
            name, *shown, f"{figures['accuracy']['mean']:.1f}", f"{figures['well_formed']['percent']:.1f}", paper
        )
    print_whole(console, table)
    console.print(
        "* MedVLM-R1 (arXiv 2502.19634): Qwen2-VL-2B on clinical images, another model and another benchmark. This"
        " demo's base was built to know more than it says; it shows the method at work and is no reproduction of the"
        " paper's figures."
    )
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in results["seconds"].items())
    console.print(f"Time: {times}.")


class _Clock:
    """Seconds per stage, added up over interruptions."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.seconds: dict[str, float] = _kept(file) if file.exists() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 2)
            write_whole(self._file, json.dumps(self.seconds))
