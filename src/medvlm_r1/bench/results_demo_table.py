"""The section of the results page on the demo: stages over training seeds, with and without thinking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medvlm_r1.bench.grounded import OUT_OF_DOMAIN
from medvlm_r1.bench.results_cells import PERCENT, bracketed, over_seeds, table
from medvlm_r1.bench.results_demo import STAGES, UNTRAINED

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
