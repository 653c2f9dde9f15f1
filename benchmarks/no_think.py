"""The demo over training seeds, and GRPO without reasoning on the same questions: the part `demo` of the results page.

The embedded base reasons whatever the prompt requests. It never answers with the answer tag alone, so a reward for that
form would never be earned. Training without reasoning therefore starts from a short imitation of the correct letters in
that form. That gives it more information than training with reasoning has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cold_start import cold_start
from benchmarks.grounded import MAX_NEW_TOKENS
from medvlm_r1.console import TrainingProgress, progress_bar
from medvlm_r1.demo import Sizes, run_demo
from medvlm_r1.evaluation.compare import compare_answers
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.score import share
from medvlm_r1.evaluation.store import StoredAnswer, read_answers
from medvlm_r1.models.load import PHANTOM_BASE
from medvlm_r1.recipes import recipe
from medvlm_r1.rewards.format_no_think import format_no_think
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo

TEMPLATE = "no-think"
CHANGES = (
    f"template={TEMPLATE}",
    "rewards=[{name: accuracy_paper}, {name: medvlm_r1.rewards.format_no_think:format_no_think}]",
)
"""Overrides that make recipes/phantom.yaml a training without reasoning."""

STAGES = {
    "zero_shot": "Zero-shot",
    "zero_shot_no_think": "Zero-shot, prompt without thinking",
    "sft": "SFT",
    "grpo": "GRPO",
    "start_no_think": "Start without thinking",
    "grpo_no_think": "GRPO without thinking",
}
START_EPOCHS = 1.0


def measure_demo(out: Path, *, seeds: int, sizes: Sizes) -> dict[str, Any]:
    """Run the demo with seeds 0, 1, ..., and train without reasoning on the same questions with the same seeds.

    Args:
        out: Folder of the part, with one folder per seed; finished stages are reused.
        seeds: Number of training seeds; the questions are the same for all.
        sizes: Sizes of the demo.

    Returns:
        `seeds`: for each seed, by stage of `STAGES`:

        * `accuracy`: by modality, `{n, correct, percent, ci95}`;
        * `chance`: percent of a uniform guess, by modality and their mean;
        * `mean`, `mean_ci95`: mean accuracy of the modalities in percent, and its interval;
        * `well_formed`: answers in the requested form, `{n, correct, percent, ci95}`;
        * `cut_off`: answers cut off at the token limit;
        * `by_type`: accuracies by modality and question type;
        * `letters`: how often each letter was the answer;
        * `gain` (GRPO only): difference from zero-shot on the same questions (`compare_answers`).

    Raises:
        UserError: A folder contains files of another kind.
    """
    return {"seeds": [_seed(out / f"seed-{seed}", seed, sizes) for seed in range(seeds)]}


def _seed(folder: Path, seed: int, sizes: Sizes) -> dict[str, Any]:
    results = run_demo(folder, seed=seed, sizes=sizes)
    answers = {name: read_answers(folder / "eval" / name) for name in ("zero_shot", "sft", "grpo")}
    stages = {name: _figures(results[name], stored) for name, stored in answers.items()}
    gain = compare_answers(answers["zero_shot"], answers["grpo"], names=("zero-shot", "GRPO"))["all"]
    stages["grpo"]["gain"] = {key: gain[key] for key in ("n", "difference", "ci95", "b", "c", "p", "test")}
    train = folder / "data" / "train"
    with progress_bar(f"Seed {seed}, {STAGES['start_no_think']}") as advance:
        start = cold_start(
            train,
            folder / "start_no_think",
            seed=seed,
            epochs=START_EPOCHS,
            write=lambda sample: f"<answer>{sample.letter}</answer>",
            template=TEMPLATE,
            progress=advance,
        )
    paths = [f"model={start}", f"data.train={train}", f"out={folder / 'grpo_no_think'}", f"seed={seed}"]
    config = load_config(recipe("phantom.yaml"), [*CHANGES, *paths, *sizes.overrides])
    with progress_bar(f"Seed {seed}, {STAGES['grpo_no_think']}: training") as advance:
        model = train_grpo(config, progress=TrainingProgress(advance))
    for name, checkpoint in (("zero_shot", PHANTOM_BASE), ("start", str(start)), ("grpo", str(model))):
        stages[f"{name}_no_think"] = _without_thinking(checkpoint, folder, f"{name}_no_think", seed)
    return {name: stages[name] for name in STAGES}


def _without_thinking(model: str, folder: Path, stage: str, seed: int) -> dict[str, Any]:
    run = folder / "eval" / stage
    settings: dict[str, Any] = {"template": TEMPLATE, "max_new_tokens": MAX_NEW_TOKENS, "batch_size": 64}
    with progress_bar(f"Seed {seed}, {STAGES[stage]}: answers") as advance:
        figures = evaluate(model, folder / "data" / "test", run, progress=advance, **settings)
    # `well_formed` of an evaluation is the form with reasoning, which this template does not request.
    answers = read_answers(run)
    texts = [answer.generation.text for answer in answers]
    well_formed = share([score == 1.0 for score in format_no_think([""] * len(texts), texts)])
    return _figures(figures | {"well_formed": well_formed}, answers)


def _figures(results: Mapping[str, Any], answers: Sequence[StoredAnswer]) -> dict[str, Any]:
    """Figures of an evaluation that the page shows, without its paths and hashes."""
    keys = ("n", "correct", "percent", "ci95")
    accuracy = {name: cell for name, cell in results["accuracy"].items() if name != "mean"}
    return {
        "accuracy": {name: {key: cell[key] for key in keys} for name, cell in accuracy.items()},
        "chance": {name: results["chance"][name]["percent"] for name in accuracy} | {"mean": results["chance"]["mean"]},
        "mean": results["accuracy"]["mean"],
        "mean_ci95": results["accuracy_mean_ci95"],
        **{key: results[key] for key in ("well_formed", "cut_off", "by_type")},
        "letters": Counter(sorted(answer.graded().response.letter or "-" for answer in answers)),
    }
