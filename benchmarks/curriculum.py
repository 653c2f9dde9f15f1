"""`python -m benchmarks.curriculum`: how soon a run learns with and without a curriculum.

The plain arm is recipes/phantom.yaml. The curriculum (recipes/phantom-curriculum.yaml) leaves out questions with a pass
rate outside 0.1 to 0.9, takes the others easy to hard, and resamples groups without advantage. Both are evaluated after
each of the first ten steps, and then after every tenth, on the same held-out MRI questions. Re-run to resume.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command import run
from benchmarks.results_page import t_interval
from medvlm_r1.audit.difficulty import estimate_difficulty
from medvlm_r1.cli.options import Json, folder_to_write, print_result
from medvlm_r1.console import TrainingProgress, progress_bar
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.evaluation.score import score
from medvlm_r1.evaluation.store import write_results
from medvlm_r1.evaluation.watch import HeldOut
from medvlm_r1.models.generate import GenerationSettings, LocalGenerator
from medvlm_r1.models.load import Policy
from medvlm_r1.phantom.benchmark import write_benchmark
from medvlm_r1.recipes import recipe
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo

ARMS = {"plain": "phantom.yaml", "curriculum": "phantom-curriculum.yaml"}
SHARE = 0.9
"""Share of the plain run's final accuracy that both arms should reach."""
CLOSE = 10
"""Number of first steps that are all followed by an evaluation. After them, every tenth is."""


class Greedy(HeldOut):
    """Accuracy of greedy answers after some of the steps, without the second evaluation with blank images."""

    def __call__(self, policy: Policy, step: int) -> Mapping[str, float]:
        """Return the strict accuracy in percent; nothing if no evaluation is due."""
        if step > CLOSE and step % CLOSE:
            return {}
        generator = LocalGenerator(policy=policy, batch_size=self._batch_size)
        answers = generator.generate(self.inputs, self._settings)
        return {"accuracy": score(self.samples, answers, self._template)["accuracy"]["mean"]}


def bench_curriculum(
    out: Path, *, seeds: int = 5, steps: int = 50, train: int = 600, held_out: int = 100, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Run the trainings that are missing, and measure all of them.

    Args:
        out: Folder of the data, the runs and `results.json`.
        seeds: Number of training seeds 0, 1, ...; the questions stay the same.
        steps: Optimizer steps of each run.
        train: Number of MRI questions for training.
        held_out: Number of held-out MRI questions.
        overrides: Overrides of both recipes.

    Returns:
        A dictionary:

        * `seeds`: for each seed, by arm, `final`, `steps` and `seconds`. `final` is the accuracy at the last step in
          percent. `steps` and `seconds` are the training (without evaluations) up to the first evaluation with at least
          `SHARE` of the plain run's `final`; None if there is none;
        * `differences`: curriculum minus plain, with `mean` and `ci95` (Student's t over the seeds that have both);
        * `questions`: number of questions of the curriculum.
    """
    data, held = out / "data", out / "held-out"
    # The held-out questions have other subjects, because their seed differs.
    for folder, n, data_seed in ((data, train, 0), (held, held_out, 1)):
        if not (folder / "samples.jsonl").exists():
            with progress_bar(f"Questions: {folder.name}") as advance:
                write_benchmark(folder, split="train", n=n, seed=data_seed, progress=advance)
    with progress_bar("Pass rates") as advance:
        sampled = GenerationSettings(max_new_tokens=64, temperature=1.0)
        estimate_difficulty("phantom-base", data, sampled, progress=advance)
    by_seed = []
    for seed in range(seeds):
        for arm, name in ARMS.items():
            changes = [f"data.train={data}", f"out={out / f'{arm}-{seed}'}", f"seed={seed}", "evaluate_every=1"]
            settings = ("trainer.logging_steps=1", f"trainer.max_steps={steps}", *overrides)
            config = load_config(recipe(name), [*changes, *settings])
            with progress_bar(f"Seed {seed}, {arm}") as advance:
                train_grpo(config, progress=TrainingProgress(advance), evaluate=Greedy(held, max_new_tokens=64))
        by_seed.append(figures({arm: _rows(out / f"{arm}-{seed}" / "metrics.jsonl") for arm in ARMS}))
    pairs = {name: [[arms[arm][name] for arm in ARMS] for arms in by_seed] for name in ("final", "steps", "seconds")}
    differences = {
        name: [after - before for before, after in values if before is not None and after is not None]
        for name, values in pairs.items()
    }
    described = json.loads((out / "curriculum-0" / "data.json").read_text(encoding="utf-8"))
    results = {
        "research_use": RESEARCH_USE,
        "seeds": by_seed,
        "differences": {
            name: {"n": len(values), "mean": statistics.fmean(values), "ci95": t_interval(values)}
            for name, values in differences.items()
            if len(values) > 1
        },
        "questions": described["train"]["samples"],
    }
    write_results(out, results)
    return results


def figures(metrics: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float | None]]:
    """Find when each arm reaches `SHARE` of the final accuracy of the plain arm.

    Args:
        metrics: By arm, rows with `step`, and either `step_time` (seconds) or `eval_accuracy` (percent).

    Returns:
        By arm: `final`, `steps` and `seconds` (see `bench_curriculum`).
    """
    accuracy = {
        arm: {row["step"]: row["eval_accuracy"] for row in rows if "eval_accuracy" in row}
        for arm, rows in metrics.items()
    }
    target = SHARE * list(accuracy["plain"].values())[-1]
    result: dict[str, dict[str, float | None]] = {}
    for arm, rows in metrics.items():
        steps = next((step for step, value in accuracy[arm].items() if value >= target), None)
        seconds = sum(row.get("step_time", 0.0) for row in rows if steps is not None and row["step"] <= steps)
        result[arm] = {
            "final": list(accuracy[arm].values())[-1],
            "steps": steps,
            "seconds": None if steps is None else seconds,
        }
    return result


def _rows(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def curriculum_lines(results: Mapping[str, Any]) -> list[str]:
    """The results as lines of text."""
    lines = [f"{'seed':<6}{'arm':<14}{'final %':>10}{'steps':>10}{'seconds':>10}"]
    for seed, arms in enumerate(results["seeds"]):
        for arm, cells in arms.items():
            texts = ["-" if value is None else f"{value:.1f}" for value in cells.values()]
            lines.append(f"{seed:<6}{arm:<14}{texts[0]:>10}{texts[1]:>10}{texts[2]:>10}")
    for name, cell in results["differences"].items():
        low, high = cell["ci95"]
        lines.append(
            f"curriculum minus plain, {name}: {cell['mean']:+.1f} [{low:+.1f}, {high:+.1f}], {cell['n']} seeds"
        )
    return [*lines, f"{results['questions']} questions in the curriculum.", RESEARCH_USE]


def main(
    out: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder of data and runs. Re-run to resume.")
    ] = Path("runs/bench-curriculum"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of training seeds.")] = 5,
    steps: Annotated[int, typer.Option(min=10, help="Optimizer steps of each run; a multiple of 10.")] = 50,
    as_json: Json = False,
) -> None:
    """Measure how soon a run learns with and without a curriculum.

    Example: python -m benchmarks.curriculum --seeds 1
    """
    results = bench_curriculum(out, seeds=seeds, steps=steps)
    print_result(results, curriculum_lines(results), as_json=as_json)


if __name__ == "__main__":
    run(main, "curriculum")
