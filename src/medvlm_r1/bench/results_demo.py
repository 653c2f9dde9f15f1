"""The part `demo` of the results page: the demo over training seeds, and GRPO without reasoning beside it.

The embedded base reasons whatever the prompt asks for: it has no habit of the answer tag alone, so a reward for that
form would never be earned. Training without reasoning therefore starts from a short imitation of the right letters in
that form, which tells it more than training with reasoning is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medvlm_r1.bench.cold_start import cold_start
from medvlm_r1.bench.grounded import MAX_NEW_TOKENS, Bar
from medvlm_r1.console import TrainingProgress
from medvlm_r1.evaluation.compare import compare_answers
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.score import share
from medvlm_r1.evaluation.store import StoredAnswer, read_answers
from medvlm_r1.policy.load import PHANTOM_BASE
from medvlm_r1.recipes import recipe
from medvlm_r1.rewards.format_no_think import format_no_think
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo

NO_THINK = "no-think"
NO_THINK_CHANGES = (
    f"template={NO_THINK}",
    "rewards=[{name: accuracy_paper}, {name: medvlm_r1.rewards.format_no_think:format_no_think}]",
)
"""What makes recipes/phantom.yaml a training without reasoning."""

STAGES = {
    "zero_shot": "Zero-shot",
    "zero_shot_no_think": "Zero-shot, prompt without thinking",
    "sft": "SFT",
    "grpo": "GRPO",
    "start_no_think": "Start without thinking",
    "grpo_no_think": "GRPO without thinking",
}
START_EPOCHS = 1.0
UNTRAINED = ("zero_shot", "zero_shot_no_think")

RunDemo = Callable[[Path, int], Mapping[str, Any]]
"""`demo.run_demo` of a folder and a seed: its `results.json`. Handed in, as the demo stands above this room."""


def measure_demo(out: Path, *, seeds: int, run_demo: RunDemo, overrides: Sequence[str], bar: Bar) -> dict[str, Any]:
    """Run the demo with seeds 0, 1, ..., and train without reasoning on the same questions with the same seeds.

    Args:
        out: Folder of the part, one folder a seed in it; what stands there is kept.
        seeds: Number of training seeds; the questions are the same for all.
        run_demo: The demo.
        overrides: Changes to recipes/phantom.yaml, as for the demo's own stages.
        bar: Shows progress.

    Returns:
        `seeds`: for each, by stage of `STAGES`, `accuracy` (by modality `{n, correct, percent, ci95}`), `chance`
        (percent of an even guess, by modality and their mean), `mean` (of the modalities, percent), `mean_ci95`,
        `well_formed` (`{n, correct, percent, ci95}`, by the form asked for), `cut_off`, `by_type` (shares by modality
        and type of question) and `letters` (how often each was the answer); GRPO's has `gain` too, its difference
        from zero-shot over the questions (`compare_answers`).

    Raises:
        UserError: A folder holds something else.
    """
    return {"seeds": [_seed(out / f"seed-{seed}", seed, run_demo, overrides, bar) for seed in range(seeds)]}


def _seed(folder: Path, seed: int, run_demo: RunDemo, overrides: Sequence[str], bar: Bar) -> dict[str, Any]:
    results = run_demo(folder, seed)
    answers = {name: read_answers(folder / "eval" / name) for name in ("zero_shot", "sft", "grpo")}
    stages = {name: _figures(results[name], given) for name, given in answers.items()}
    gain = compare_answers(answers["zero_shot"], answers["grpo"], names=("zero-shot", "GRPO"))["all"]
    stages["grpo"]["gain"] = {key: gain[key] for key in ("n", "difference", "ci95", "b", "c", "p", "test")}
    train = folder / "data" / "train"
    with bar(f"Seed {seed}, {STAGES['start_no_think']}") as advance:
        start = cold_start(
            train,
            folder / "start_no_think",
            seed=seed,
            epochs=START_EPOCHS,
            write=lambda sample: f"<answer>{sample.letter}</answer>",
            template=NO_THINK,
            progress=advance,
        )
    given = [f"model={start}", f"data.train={train}", f"out={folder / 'grpo_no_think'}", f"seed={seed}"]
    config = load_config(recipe("phantom.yaml"), [*NO_THINK_CHANGES, *given, *overrides])
    with bar(f"Seed {seed}, {STAGES['grpo_no_think']}: training") as advance:
        model = train_grpo(config, progress=TrainingProgress(advance))
    for name, asked in (("zero_shot", PHANTOM_BASE), ("start", str(start)), ("grpo", str(model))):
        stage = f"{name}_no_think"
        stages[stage] = _without_thinking(asked, folder, stage, f"Seed {seed}, {STAGES[stage]}: answers", bar)
    return {name: stages[name] for name in STAGES}


def _without_thinking(model: str, folder: Path, stage: str, label: str, bar: Bar) -> dict[str, Any]:
    run = folder / "eval" / stage
    with bar(label) as advance:
        figures = evaluate(
            model,
            folder / "data" / "test",
            run,
            template=NO_THINK,
            max_new_tokens=MAX_NEW_TOKENS,
            batch_size=64,
            progress=advance,
        )
    # `well_formed` of an evaluation is the form with reasoning, which is not what was asked for here.
    answers = read_answers(run)
    texts = [answer.generation.text for answer in answers]
    kept = [form == 1.0 for form in format_no_think([""] * len(texts), texts)]
    return _figures(figures | {"well_formed": share(kept)}, answers)


def _figures(results: Mapping[str, Any], answers: Sequence[StoredAnswer]) -> dict[str, Any]:
    """What the page shows of an evaluation; its paths and hashes stay behind."""
    accuracy = {name: part for name, part in results["accuracy"].items() if name != "mean"}
    return {
        "accuracy": {
            name: {key: part[key] for key in ("n", "correct", "percent", "ci95")} for name, part in accuracy.items()
        },
        "chance": {name: results["chance"][name]["percent"] for name in accuracy} | {"mean": results["chance"]["mean"]},
        "mean": results["accuracy"]["mean"],
        "mean_ci95": results["accuracy_mean_ci95"],
        "well_formed": results["well_formed"],
        "cut_off": results["cut_off"],
        "by_type": results["by_type"],
        "letters": Counter(sorted(answer.graded().response.letter or "-" for answer in answers)),
    }
