"""`python -m benchmarks.grounded`: compare rewards on training questions that give their answers away.

The training set is PhantomVQA with giveaway options: in 97 of 100 questions, one option is recognized as correct by its
text alone. The start (`cold_start`) knows the form of an answer and uses the image half of the time. From it, GRPO
continues twice on the same questions: with the demo's rewards, and with `grounded` instead of accuracy. Then both
answer clean questions, without giveaway options, with their own images and with those of other items.

All files are in one folder. Re-run to resume.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree
from typing import Annotated, Any

import typer

from benchmarks.cold_start import cold_start
from benchmarks.command import run
from medvlm_r1.cli.options import Json, folder_to_write, print_result
from medvlm_r1.console import Advance, TrainingProgress, progress_bar
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.store import write_results
from medvlm_r1.phantom.benchmark import write_benchmark
from medvlm_r1.recipes import recipe
from medvlm_r1.training.config import load_config
from medvlm_r1.training.counterfactual import OTHER_RIGHT, OWN_RIGHT
from medvlm_r1.training.grpo import train_grpo

ACCURACY = {"plain": "accuracy_paper", "grounded": "grounded"}
"""The accuracy reward of each arm."""
START = "start"
LOGGED = (OWN_RIGHT, OTHER_RIGHT)
OUT_OF_DOMAIN = ("CT", "X-ray")
MAX_NEW_TOKENS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Number of questions, and overrides of the recipe of both arms."""

    train: int = 600
    """Number of MRI questions with giveaway options, and of questions that the start is trained on."""
    test: int = 300
    """Number of clean test questions per modality."""
    steps: int = 150
    """Optimizer steps of each arm."""
    overrides: tuple[str, ...] = ()
    start_epochs: float = 2.0


def bench_grounded(out: Path, *, seeds: int = 3, sizes: Sizes = Sizes()) -> dict[str, Any]:
    """Run the trainings and evaluations that are missing.

    Args:
        out: Folder of the comparison: `data/`, one folder per seed, `results.json`.
        seeds: Number of training seeds 0, 1, ...; the questions stay the same.
        sizes: Sizes of the comparison.

    Returns:
        The content of `results.json`:

        * `seeds`: for each seed, the figures of `start`, `plain` and `grounded` (below);
        * `means`: the means of these figures over the seeds;
        * `gain`: `out_of_domain` of grounded minus plain, by seed and their mean, in points.

        The figures of a model:

        * `accuracy`, `shuffled`: accuracy with the own and with shuffled images, by modality, in percent;
        * `reliance`: `accuracy` minus `shuffled`, by modality and their mean, in points;
        * `out_of_domain`: mean accuracy of CT and X-ray, in percent;
        * the mean over the last 10 logs of each metric of `LOGGED` that was logged.

    Raises:
        UserError: The folder contains files that do not belong to a comparison.
    """
    folders = _data(out / "data", sizes)
    by_seed = [_seed(out / f"seed-{seed}", seed, sizes, folders) for seed in range(seeds)]
    gains = [figures["grounded"]["out_of_domain"] - figures["plain"]["out_of_domain"] for figures in by_seed]
    results = {
        "research_use": RESEARCH_USE,
        "train": sizes.train,
        "test": sizes.test,
        "seeds": by_seed,
        "means": {arm: _mean([figures[arm] for figures in by_seed]) for arm in (START, *ACCURACY)},
        "gain": {"by_seed": gains, "mean": statistics.fmean(gains)},
    }
    write_results(out, results)
    return results


def _data(folder: Path, sizes: Sizes) -> dict[str, Path]:
    generated: dict[str, dict[str, Any]] = {
        "giveaway": {"split": "train", "n": sizes.train, "giveaway": True},
        "clean": {"split": "test", "n": sizes.test},
        # Other subjects than those of the training.
        "form": {"split": "train", "n": sizes.train, "seed": 1},
    }
    folders = {name: folder / name for name in (*generated, "clean-shuffled", "form-mixed")}
    for name, settings in generated.items():
        if not (folders[name] / "samples.jsonl").exists():
            with progress_bar(f"Questions: {name}") as advance:
                write_benchmark(folders[name], progress=advance, **settings)
    for name, base, change in (("clean-shuffled", "clean", shuffled), ("form-mixed", "form", half_shuffled)):
        exchange(folders[base], folders[name], change, source=f"python -m benchmarks.grounded; {name}")
    return folders


def exchange(base: Path, out: Path, change: Callable[[Sequence[Sample]], list[Sample]], *, source: str) -> None:
    """Write a copy of a data folder with exchanged images, if the new folder is missing."""
    if not (out / "samples.jsonl").exists():
        copytree(base / "images", out / "images", dirs_exist_ok=True)
        info = {"name": "PhantomVQA", "source": source, "license": "Apache-2.0"}
        write_folder(out, change(read_folder(base)), info=info)


def shuffled(samples: Sequence[Sample]) -> list[Sample]:
    """Give each question the images of the next question of its modality."""
    result = []
    for modality in dict.fromkeys(sample.modality for sample in samples):
        group = [sample for sample in samples if sample.modality == modality]
        pairs = zip(group, [*group[1:], group[0]], strict=True)
        result += [replace(sample, images=other.images, boxes=other.boxes) for sample, other in pairs]
    return result


def half_shuffled(samples: Sequence[Sample]) -> list[Sample]:
    """Give every second question the images of another question of its modality."""
    return [*shuffled(samples[::2]), *samples[1::2]]


def _seed(out: Path, seed: int, sizes: Sizes, folders: Mapping[str, Path]) -> dict[str, Any]:
    def measured(model: Path, arm: str) -> dict[str, Any]:
        with progress_bar(f"Seed {seed}, {arm}: answers") as advance:
            return _measure(model, out / "eval", arm, folders, advance)

    with progress_bar(f"Seed {seed}, {START}") as advance:
        start = cold_start(folders["form-mixed"], out / START, seed=seed, epochs=sizes.start_epochs, progress=advance)
    arms = {START: measured(start, START)}
    for arm, accuracy in ACCURACY.items():
        changes = (
            *(f"model={start}", f"data.train={folders['giveaway']}", f"out={out / arm}", f"seed={seed}"),
            f"rewards=[{{name: {accuracy}}}, {{name: format_paper}}]",
            f"trainer.max_steps={sizes.steps}",
        )
        with progress_bar(f"Seed {seed}, {arm}: training") as advance:
            config = load_config(recipe("phantom.yaml"), [*changes, *sizes.overrides])
            model = train_grpo(config, progress=TrainingProgress(advance))
        arms[arm] = measured(model, arm) | _logged(out / arm / "metrics.jsonl")
    return arms


def _measure(model: Path, out: Path, arm: str, folders: Mapping[str, Path], advance: Advance) -> dict[str, Any]:
    settings: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "batch_size": 64, "progress": advance}
    figures = [
        evaluate(str(model), folders[kind], out / f"{arm}-{kind}", **settings) for kind in ("clean", "clean-shuffled")
    ]
    own, other = (
        {name: cell["percent"] for name, cell in results["accuracy"].items() if name != "mean"} for results in figures
    )
    reliance = {name: own[name] - other[name] for name in own}
    return {
        "accuracy": own,
        "shuffled": other,
        "reliance": reliance | {"mean": statistics.fmean(reliance.values())},
        "out_of_domain": statistics.fmean(own[name] for name in OUT_OF_DOMAIN),
        "well_formed": figures[0]["well_formed"]["percent"],
    }


def _logged(file: Path) -> dict[str, float]:
    # The file is missing if nothing was logged.
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    last = {name: [row[name] for row in rows if name in row][-10:] for name in LOGGED}
    return {name: statistics.fmean(shares) for name, shares in last.items() if shares}


def _mean(trees: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of equal trees of figures, leaf by leaf."""
    return {
        key: _mean(values) if isinstance(values[0], Mapping) else statistics.fmean(values)
        for key in trees[0]
        if (values := [tree[key] for tree in trees])
    }


def grounded_lines(results: Mapping[str, Any]) -> list[str]:
    """Format the results as lines of text."""
    lines = [
        f"Trained on {results['train']} MRI questions with giveaway options; {results['test']} clean questions per "
        f"modality; means of {len(results['seeds'])} seeds, percent correct, and in brackets the loss with another "
        "item's image.",
        f"{'':<12}{'MRI':>16}{'CT':>16}{'X-ray':>16}{'out of domain':>16}",
    ]
    for arm, means in results["means"].items():
        cells = [f"{means['accuracy'][m]:.1f} ({means['reliance'][m]:.1f})" for m in ("MRI", *OUT_OF_DOMAIN)]
        lines.append(f"{arm:<12}{cells[0]:>16}{cells[1]:>16}{cells[2]:>16}{means['out_of_domain']:>16.1f}")
    gain = results["gain"]
    each = ", ".join(f"{value:+.1f}" for value in gain["by_seed"])
    return [*lines, f"grounded minus plain, out of domain: {gain['mean']:+.1f} points (seeds: {each})", RESEARCH_USE]


def main(
    out: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder of data and runs. Re-run to resume.")
    ] = Path("runs/bench-grounded"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of training seeds.")] = 3,
    as_json: Json = False,
) -> None:
    """Train with plain accuracy and with `grounded` on questions that give their answers away; test on clean ones.

    Example: python -m benchmarks.grounded --seeds 1
    """
    results = bench_grounded(out, seeds=seeds)
    print_result(results, grounded_lines(results), as_json=as_json)


if __name__ == "__main__":
    run(main, "grounded")
