"""`python -m benchmarks.grounded`: rewards for looking where the training questions give their answers away.

PhantomVQA with its shortcut planted is the training set: in 97 of 100 questions one option is recognised by its text
alone. From a start that knows the form of an answer and half looks (`cold_start`), GRPO goes on twice on the same
questions, with the demo's rewards and with `grounded` instead of accuracy, everything else equal. Then both answer
clean questions, where the shortcut is worth nothing, with their own images and with those of other items.

A folder holds all of it; the same call again goes on where it stood.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copytree
from typing import Annotated, Any

import typer

from benchmarks.cold_start import cold_start
from benchmarks.command import run
from medvlm_r1.cli.options import Json, folder_to_write
from medvlm_r1.console import Advance, TrainingProgress
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.store import write_results
from medvlm_r1.phantom.benchmark import write_benchmark
from medvlm_r1.recipes import recipe
from medvlm_r1.training.config import load_config
from medvlm_r1.training.counterfactual.other_image import OTHER_RIGHT, OWN_RIGHT
from medvlm_r1.training.grpo import train_grpo

ACCURACY = {"plain": "accuracy_paper", "grounded": "grounded"}
"""The reward of each arm that stands for accuracy."""
START = "start"
LOGGED = (OWN_RIGHT, OTHER_RIGHT)
OUT_OF_DOMAIN = ("CT", "X-ray")
MAX_NEW_TOKENS = 80

Bar = Callable[[str], AbstractContextManager[Advance]]
"""As `console.progress_bar`: given what begins, a context with a function to be told of its progress."""


@contextmanager
def _silent(name: str) -> Iterator[Advance]:
    yield lambda done, total, note="": None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Questions, and changes to the recipes of both arms."""

    train: int = 600
    """MRI questions with the shortcut, and as many for the start."""
    test: int = 300
    """Clean questions for each modality."""
    steps: int = 150
    """Optimizer steps of each arm."""
    overrides: tuple[str, ...] = ()
    start_epochs: float = 2.0
    """Passes of the start over its questions."""


def bench_grounded(out: Path, *, seeds: int = 3, sizes: Sizes = Sizes(), bar: Bar = _silent) -> dict[str, Any]:
    """Trains and measures whatever is not there yet.

    Args:
        out: Folder of the comparison: `data/`, one folder a seed, `results.json`.
        seeds: Repetitions, seeds 0, 1, ...; the questions stay the same.
        sizes: How much of everything.
        bar: Shows progress.

    Returns:
        The content of `results.json`: `seeds` (for each, and for `start`, `plain` and `grounded` in it:
        `accuracy` and `shuffled` by modality in percent, `reliance` by modality and its mean (accuracy less accuracy
        with shuffled images, points), `out_of_domain` (mean of CT and X-ray), and of the last 10 logs the means of
        those of `LOGGED` that are there), `means` (the same over the seeds) and `gain` (`out_of_domain` of grounded
        less plain: by seed, and their mean).

    Raises:
        UserError: The folder holds something else.
    """
    folders = _data(out / "data", sizes, bar)
    found = [_seed(out / f"seed-{seed}", seed, sizes, folders, bar) for seed in range(seeds)]
    gains = [one["grounded"]["out_of_domain"] - one["plain"]["out_of_domain"] for one in found]
    results = {
        "research_use": RESEARCH_USE,
        "train": sizes.train,
        "test": sizes.test,
        "seeds": found,
        "means": {arm: _mean([one[arm] for one in found]) for arm in (START, *ACCURACY)},
        "gain": {"by_seed": gains, "mean": statistics.fmean(gains)},
    }
    write_results(out, results)
    return results


def _data(folder: Path, sizes: Sizes, bar: Bar) -> dict[str, Path]:
    made: dict[str, dict[str, Any]] = {
        "shortcut": {"split": "train", "n": sizes.train, "shortcut": True},
        "clean": {"split": "test", "n": sizes.test},
        # Other subjects than are trained on after.
        "form": {"split": "train", "n": sizes.train, "seed": 1},
    }
    folders = {name: folder / name for name in (*made, "clean-shuffled", "form-mixed")}
    for name, how in made.items():
        if not (folders[name] / "samples.jsonl").exists():
            with bar(f"Questions: {name}") as advance:
                write_benchmark(folders[name], progress=advance, **how)
    for name, base, change in (("clean-shuffled", "clean", shuffled), ("form-mixed", "form", half_shuffled)):
        exchange(folders[base], folders[name], change, source=f"python -m benchmarks.grounded; {name}")
    return folders


def exchange(base: Path, out: Path, change: Callable[[Sequence[Sample]], list[Sample]], *, source: str) -> None:
    """Write the questions of a data folder with the images of others, if that was not done yet."""
    if not (out / "samples.jsonl").exists():
        copytree(base / "images", out / "images", dirs_exist_ok=True)
        info = {"name": "PhantomVQA", "source": source, "license": "Apache-2.0"}
        write_folder(out, change(read_folder(base)), info=info)


def shuffled(samples: Sequence[Sample]) -> list[Sample]:
    """The same questions, each with the images of the next one of its modality."""
    result = []
    for modality in dict.fromkeys(sample.modality for sample in samples):
        part = [sample for sample in samples if sample.modality == modality]
        result += [
            replace(sample, images=other.images) for sample, other in zip(part, [*part[1:], part[0]], strict=True)
        ]
    return result


def half_shuffled(samples: Sequence[Sample]) -> list[Sample]:
    """The same questions, every second one with the image of another."""
    return [*shuffled(samples[::2]), *samples[1::2]]


def _seed(out: Path, seed: int, sizes: Sizes, folders: Mapping[str, Path], bar: Bar) -> dict[str, Any]:
    def measured(model: Path, arm: str) -> dict[str, Any]:
        with bar(f"Seed {seed}, {arm}: answers") as advance:
            return _measure(model, out / "eval", arm, folders, advance)

    with bar(f"Seed {seed}, {START}") as advance:
        start = cold_start(folders["form-mixed"], out / START, seed=seed, epochs=sizes.start_epochs, progress=advance)
    found = {START: measured(start, START)}
    for arm, accuracy in ACCURACY.items():
        given = [
            f"model={start}",
            f"data.train={folders['shortcut']}",
            f"out={out / arm}",
            f"seed={seed}",
            f"rewards=[{{name: {accuracy}}}, {{name: format_paper}}]",
            f"trainer.max_steps={sizes.steps}",
        ]
        with bar(f"Seed {seed}, {arm}: training") as advance:
            config = load_config(recipe("phantom.yaml"), [*given, *sizes.overrides])
            model = train_grpo(config, progress=TrainingProgress(advance))
        found[arm] = measured(model, arm) | _logged(out / arm / "metrics.jsonl")
    return found


def _measure(model: Path, out: Path, arm: str, folders: Mapping[str, Path], advance: Advance) -> dict[str, Any]:
    given: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "batch_size": 64, "progress": advance}
    clean, others = (
        evaluate(str(model), folders[kind], out / f"{arm}-{kind}", **given) for kind in ("clean", "clean-shuffled")
    )
    real, mixed = (
        {name: part["percent"] for name, part in figures["accuracy"].items() if name != "mean"}
        for figures in (clean, others)
    )
    reliance = {name: real[name] - mixed[name] for name in real}
    return {
        "accuracy": real,
        "shuffled": mixed,
        "reliance": reliance | {"mean": statistics.fmean(reliance.values())},
        "out_of_domain": statistics.fmean(real[name] for name in OUT_OF_DOMAIN),
        "well_formed": clean["well_formed"]["percent"],
    }


def _logged(file: Path) -> dict[str, float]:
    # There is no file where nothing was logged yet.
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    last = {name: [row[name] for row in rows if name in row][-10:] for name in LOGGED}
    return {name: statistics.fmean(shares) for name, shares in last.items() if shares}


def _mean(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of equal trees of figures, leaf by leaf."""
    result: dict[str, Any] = {}
    for key, first in found[0].items():
        values = [one[key] for one in found]
        if isinstance(first, Mapping):
            result[key] = _mean(values)
        else:
            result[key] = statistics.fmean(values)
    return result


def grounded_lines(found: Mapping[str, Any]) -> list[str]:
    """The results as lines of text."""
    lines = [
        f"Trained on {found['train']} MRI questions with a shortcut; {found['test']} clean questions a modality; means "
        f"of {len(found['seeds'])} seeds, percent right, and in brackets what is lost with another item's image.",
        f"{'':<12}{'MRI':>16}{'CT':>16}{'X-ray':>16}{'out of domain':>16}",
    ]
    for arm, part in found["means"].items():
        cells = [f"{part['accuracy'][m]:.1f} ({part['reliance'][m]:.1f})" for m in ("MRI", *OUT_OF_DOMAIN)]
        lines.append(f"{arm:<12}{cells[0]:>16}{cells[1]:>16}{cells[2]:>16}{part['out_of_domain']:>16.1f}")
    gain = found["gain"]
    each = ", ".join(f"{value:+.1f}" for value in gain["by_seed"])
    return [*lines, f"grounded against plain, out of domain: {gain['mean']:+.1f} points (seeds: {each})", RESEARCH_USE]


def main(
    out: Annotated[
        Path,
        typer.Option(callback=folder_to_write, help="Folder of data and runs; given again, it goes on where it stood."),
    ] = Path("runs/bench-grounded"),
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 3,
    as_json: Json = False,
) -> None:
    """Rewards on questions that give their answers away: plain accuracy against `grounded`, on clean questions after.

    Example: python -m benchmarks.grounded --seeds 1
    """
    from medvlm_r1.console import progress_bar

    found = bench_grounded(out, seeds=seeds, bar=progress_bar)
    print(json.dumps(found) if as_json else "\n".join(grounded_lines(found)))


if __name__ == "__main__":
    run(main, "grounded")
