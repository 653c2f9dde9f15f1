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

from benchmarks.cold_start import cold_start
from benchmarks.grounded import MAX_NEW_TOKENS, OUT_OF_DOMAIN, Bar
from benchmarks.results_cells import PERCENT, bracketed, over_seeds, table
from medvlm_r1.console import TrainingProgress
from medvlm_r1.evaluation.compare import compare_answers
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.score import share
from medvlm_r1.evaluation.store import StoredAnswer, read_answers
from medvlm_r1.models.load import PHANTOM_BASE
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


DIFFERENCES = (
    ("grpo", "zero_shot"),
    ("grpo", "sft"),
    ("grpo", "grpo_no_think"),
    ("grpo_no_think", "start_no_think"),
)


def demo_section(figures: Mapping[str, Any]) -> list[str]:
    """Stages over seeds, differences paired by seed, and every seed's own figures."""
    seeds: Sequence[Mapping[str, Any]] = figures["seeds"]
    modalities = list(seeds[0]["grpo"]["accuracy"])
    names = [f"{name} ({'out of domain' if name in OUT_OF_DOMAIN else 'trained on'})" for name in modalities]
    asked = " + ".join(str(part["n"]) for part in seeds[0]["grpo"]["accuracy"].values())
    repeated = all(_repeats(seeds, stage) for stage in UNTRAINED)
    same = "came out the same every time" if repeated else "did not come out the same every time (seed 0 is shown)"
    chance = seeds[0]["grpo"]["chance"].values()
    alone = seeds[0]["zero_shot_no_think"]["well_formed"]
    return [
        f"Percent right of {asked} questions ({', '.join(modalities)}), as `medvlm-r1 demo` trains and asks; mean and "
        f"95 % t interval over {len(seeds)} training seeds (n = {len(seeds)}). What varies from seed to seed is the "
        "training alone: the order of the questions and the completions sampled. The questions, the base model and "
        "the way of asking (greedy) are the same, so these intervals do not say how far the figures would move with "
        "other questions; the intervals of the single seeds, below, do. The rows marked \\* are not trained, and "
        f"{same}; their interval is over questions (Wilson; of the mean by MOVER).",
        "",
        "*Without thinking* is the same recipe with the prompt that asks for the answer tag alone and a format reward "
        f"for it. Asked so, the base reasons all the same: {alone['correct']} of its {alone['n']} answers are the tag "
        "alone, too few to be rewarded for. So the training goes on from a *start*, one pass of imitation over "
        "the training questions with the right letters in the tag (START in the commands below, "
        "`demo/seed-SEED/start_no_think` in the folder of results); it has seen the labels once more than GRPO with "
        "thinking. *Well formed* is by the form each row was asked for: reasoning and answer tags, the letter alone "
        "(SFT), the answer tag alone.",
        "",
        *table(
            ["", *names, "mean", "well formed"],
            [
                [name + (" \\*" if stage in UNTRAINED else ""), *_stage_cells(seeds, stage, modalities)]
                for stage, name in STAGES.items()
            ]
            + [["A guess among the options", *(f"{percent:.1f}" for percent in chance), "-"]],
        ),
        "",
        "Differences in points, paired by seed, with 95 % t intervals over the seeds; what is not trained is the same "
        "in every seed and adds nothing to them:",
        "",
        *table(
            ["", *modalities, "mean"],
            [[f"{STAGES[a]} less {STAGES[b]}", *_differences(seeds, a, b, modalities)] for a, b in DIFFERENCES],
        ),
        "",
        "Over the questions, GRPO less zero-shot on the same items (95 % interval; exact test): "
        + "; ".join(_gain(seed, found["grpo"]["gain"]) for seed, found in enumerate(seeds))
        + ".",
        "",
        f"GRPO by type of question, percent right, mean and 95 % t interval over the seeds (n = {len(seeds)}), and "
        "how many questions there are:",
        "",
        *table(["", *modalities], _by_type(seeds, modalities)),
        "",
        "Each seed by itself, with the 95 % interval over questions (Wilson; of the mean by MOVER), and the letter "
        "given most often, with its percent of all answers (near 100, a model gives one letter whatever it is asked):",
        "",
        *table(
            ["seed", *modalities, "mean", "well formed", "cut off", "letter"],
            [
                [
                    f"{seed}: {STAGES[stage]}",
                    *_own_cells(found[stage], modalities),
                    f"{found[stage]['cut_off']['percent']:.1f}",
                    _letter(found[stage]["letters"]),
                ]
                for seed, found in enumerate(seeds)
                for stage in STAGES
                if stage not in UNTRAINED or not _repeats(seeds, stage)
            ],
        ),
    ]


def _repeats(seeds: Sequence[Mapping[str, Any]], stage: str) -> bool:
    return all(found[stage] == seeds[0][stage] for found in seeds)


def _stage_cells(seeds: Sequence[Mapping[str, Any]], stage: str, modalities: Sequence[str]) -> list[str]:
    if stage in UNTRAINED:
        return _own_cells(seeds[0][stage], modalities)
    found = [one[stage] for one in seeds]
    columns = [[one["accuracy"][name]["percent"] for one in found] for name in modalities]
    columns += [[one["mean"] for one in found], [one["well_formed"]["percent"] for one in found]]
    return [over_seeds(column, limits=PERCENT) for column in columns]


def _own_cells(found: Mapping[str, Any], modalities: Sequence[str]) -> list[str]:
    parts = [found["accuracy"][name] for name in modalities]
    return [
        *(bracketed(part["percent"], part["ci95"]) for part in parts),
        bracketed(found["mean"], found["mean_ci95"]),
        bracketed(found["well_formed"]["percent"], found["well_formed"]["ci95"]),
    ]


def _gain(seed: int, gain: Mapping[str, Any]) -> str:
    return f"seed {seed} {bracketed(gain['difference'], gain['ci95'], '+.1f')}, p = {gain['p']:.0e}"


def _by_type(seeds: Sequence[Mapping[str, Any]], modalities: Sequence[str]) -> list[list[str]]:
    by_type = [found["grpo"]["by_type"] for found in seeds]
    types = sorted({name for part in by_type[0].values() for name in part})

    def cell(modality: str, name: str) -> str:
        parts = [found[modality][name] for found in by_type if name in found.get(modality, {})]
        if not parts:
            return "-"
        return f"{over_seeds([part['percent'] for part in parts], limits=PERCENT)} of {parts[0]['n']}"

    return [[name, *(cell(modality, name) for modality in modalities)] for name in types]


def _letter(letters: Mapping[str, int]) -> str:
    most = max(letters, key=lambda letter: letters[letter])
    return f"{most} {100 * letters[most] / sum(letters.values()):.0f}"


def _differences(seeds: Sequence[Mapping[str, Any]], a: str, b: str, modalities: Sequence[str]) -> list[str]:
    columns = [
        [found[a]["accuracy"][name]["percent"] - found[b]["accuracy"][name]["percent"] for found in seeds]
        for name in modalities
    ]
    columns.append([found[a]["mean"] - found[b]["mean"] for found in seeds])
    return [over_seeds(column, "+.1f") for column in columns]
