"""The demo over training seeds, and SFT on questions that give nothing away: the part `demo` of the results page.

SFT on clean questions is the control for SFT in the demo. Both imitate the same number of letters, and only the option
texts differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvlm_r1 import demo
from medvlm_r1.console import TrainingProgress, progress_bar
from medvlm_r1.evaluation.compare import compare_answers
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.score import share
from medvlm_r1.evaluation.store import StoredAnswer, read_answers
from medvlm_r1.phantom.benchmark import write_benchmark
from medvlm_r1.recipes import recipe
from medvlm_r1.rewards.format_no_think import format_no_think
from medvlm_r1.training.config import load_config
from medvlm_r1.training.sft import train_sft

CONTROL = "sft_clean"
STAGES = {
    "zero_shot": "Zero-shot",
    "sft": "SFT",
    CONTROL: "SFT on clean questions",
    "grpo_no_think": "GRPO without thinking",
    "grpo": "GRPO",
}
TEXT_ROWS = {"guess": "Guess", "option_prior": "Option prior (text only)"}
"""Rows without a model."""
LOOKS = ("accuracy_real", "accuracy_shuffled", "accuracy_blank")
"""Measures of the audit that the page shows."""


def measure_demo(out: Path, *, seeds: int, sizes: demo.Sizes) -> dict[str, Any]:
    """Run the demo with seeds 0, 1, ..., and train the control with the same seeds.

    Args:
        out: Folder of the part, with one folder per seed; finished stages are reused.
        seeds: Number of training seeds; the questions are the same for all.
        sizes: Sizes of the demo.

    Returns:
        `text`: for each row of `TEXT_ROWS` and set of `demo.SETS`, the accuracy by modality in percent and their
        `mean`. `seeds`: for each, by stage of `STAGES` and set, `accuracy` (by modality `{n, correct, percent, ci95}`),
        `mean` (of the modalities, percent), `mean_ci95`, `well_formed` (`{n, correct, percent, ci95}`, by the requested
        form), `cut_off`, `by_type` (shares by modality and question type), `favored_wrong` (shares by modality) and
        `letters` (how often each was the answer). Each seed also has `gain`, the difference of GRPO from zero-shot
        over the clean questions (`compare_answers`), and `audit`: for each audited stage, `looks` (the verdict) and the
        measures `LOOKS` in percent.

    Raises:
        UserError: A folder contains something else.
    """
    clean = out / "clean-train"
    if not (clean / "samples.jsonl").exists():
        with progress_bar("Clean training questions") as advance:
            write_benchmark(clean, split="train", n=sizes.train, progress=advance)
    runs = [_seed(out / f"seed-{seed}", seed, sizes, clean) for seed in range(seeds)]
    return {"text": runs[0][0], "seeds": [figures for _, figures in runs]}


def _seed(folder: Path, seed: int, sizes: demo.Sizes, clean: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    results = demo.run_demo(folder, seed=seed, sizes=sizes)
    results[CONTROL] = _control(folder, seed, sizes, clean)
    figures: dict[str, Any] = {}
    for stage in STAGES:
        figures[stage] = {}
        for name in demo.SETS:
            answers = read_answers(folder / "eval" / stage / name)
            figures[stage][name] = _figures(demo.figures_on(results, stage, name), stage, answers)
    base, trained = (read_answers(folder / "eval" / stage / "clean") for stage in ("zero_shot", "grpo"))
    gain = compare_answers(base, trained, names=("zero-shot", "GRPO"))["all"]
    figures["gain"] = {key: gain[key] for key in ("n", "difference", "ci95", "b", "c", "p", "test")}
    figures["audit"] = {}
    for stage in demo.AUDITED:
        measures = results["audit"][stage]["probes"]["image"]["measures"]
        figures["audit"][stage] = {
            "looks": results["audit"][stage]["verdicts"]["looks"],
            **{name: 100 * measures[name]["value"] for name in LOOKS},
        }
    text = {
        row: {
            name: {
                modality: cell if modality == "mean" else cell["percent"]
                for modality, cell in demo.figures_on(results, row, name)["accuracy"].items()
            }
            for name in demo.SETS
        }
        for row in TEXT_ROWS
    }
    return text, figures


def _control(folder: Path, seed: int, sizes: demo.Sizes, clean: Path) -> dict[str, Any]:
    """SFT as in the demo, on clean questions; the results in the form of the demo's rows."""
    overrides = [f"data.train={clean}", f"out={folder / CONTROL}", f"seed={seed}", *sizes.overrides]
    model = folder / CONTROL / "model"
    if not model.is_dir():
        with progress_bar(f"Seed {seed}, {STAGES[CONTROL]}: training") as advance:
            train_sft(load_config(recipe("phantom-sft.yaml"), overrides), progress=TrainingProgress(advance))
    results = {}
    for name in demo.SETS:
        with progress_bar(f"Seed {seed}, {STAGES[CONTROL]}: answers, {name}") as advance:
            results[name] = evaluate(
                str(model),
                folder / "data" / name,
                folder / "eval" / CONTROL / name,
                template=demo.TEMPLATES["sft"],
                max_new_tokens=demo.MAX_NEW_TOKENS,
                batch_size=64,
                progress=advance,
            ) | {"favored_wrong": demo.favored_wrong(folder, CONTROL, name)}
    return {**results["published"], "clean": results["clean"]}


def _figures(results: Mapping[str, Any], stage: str, answers: Sequence[StoredAnswer]) -> dict[str, Any]:
    """Figures of an evaluation that the page shows, without its paths and hashes."""
    keys = ("n", "correct", "percent", "ci95")
    accuracy = {name: cell for name, cell in results["accuracy"].items() if name != "mean"}
    well_formed = results["well_formed"]
    if stage == "grpo_no_think":
        # `well_formed` of an evaluation is the form with reasoning, which this template does not request.
        texts = [answer.generation.text for answer in answers]
        well_formed = share([score == 1.0 for score in format_no_think([""] * len(texts), texts)])
    return {
        "accuracy": {name: {key: cell[key] for key in keys} for name, cell in accuracy.items()},
        "mean": results["accuracy"]["mean"],
        "mean_ci95": results["accuracy_mean_ci95"],
        "well_formed": well_formed,
        **{key: results[key] for key in ("cut_off", "by_type", "favored_wrong")},
        "letters": Counter(sorted(answer.graded().response.letter or "-" for answer in answers)),
    }
