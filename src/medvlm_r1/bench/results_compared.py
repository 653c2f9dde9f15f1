"""Sections of the results page on the shortcut and on the audit: like the demo's, whatever the machine's speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medvlm_r1.audit.registry import QUESTIONS
from medvlm_r1.bench.audit import KNOWN, TRAINED, unexpected, verdict_cell
from medvlm_r1.bench.grounded import LOGGED
from medvlm_r1.bench.results_cells import PERCENT, brackets, over_seeds, table
from medvlm_r1.evaluation.score import share


def shortcut_section(figures: Mapping[str, Any]) -> list[str]:
    """Every figure of every arm over the seeds, whichever arms and figures the comparison has."""
    seeds: Sequence[Mapping[str, Any]] = figures["seeds"]
    arms = [name for name, part in seeds[0].items() if isinstance(part, Mapping)]
    by_arm = {arm: [dict(_leaves(found[arm])) for found in seeds] for arm in arms}
    leaves = dict.fromkeys(path for arm in arms for path in by_arm[arm][0])
    gain = figures["gain"]
    each = ", ".join(f"{value:+.1f}" for value in gain["by_seed"])
    return [
        f"{figures['train']} MRI questions that give their answers away, then {figures['test']} clean questions a "
        "modality. `start` is the model that the others go on from, each under its own reward, on the same questions. "
        "`accuracy` is percent right, `shuffled` the same with another item's image, `reliance` the first less the "
        "second in points, `out of domain` the mean of CT and X-ray; shares under their own names are of the last ten "
        f"logs of the training. Mean and 95 % t interval over {len(seeds)} seeds (n = {len(seeds)}); the questions are "
        "the same for all.",
        "",
        *table(
            ["", *arms],
            [[" ".join(path).replace("_", " "), *(_leaf_cell(by_arm[arm], path) for arm in arms)] for path in leaves],
        ),
        "",
        f"Gain of grounded over plain out of domain, paired by seed: {over_seeds(gain['by_seed'], '+.1f')} points "
        f"(seeds: {each}). All arms, out of domain, each less each in points, paired by seed; an interval that holds 0 "
        "is no difference that could be told:",
        "",
        *table(["less", *arms[:-1]], _paired(by_arm, arms)),
    ]


def _paired(by_arm: Mapping[str, Sequence[Mapping[tuple[str, ...], float]]], arms: Sequence[str]) -> list[list[str]]:
    """Each arm less those before it."""
    found = {arm: [one[("out_of_domain",)] for one in by_arm[arm]] for arm in arms}

    def cell(arm: str, other: str) -> str:
        return over_seeds([a - b for a, b in zip(found[arm], found[other], strict=True)], "+.1f")

    return [
        [arm, *(cell(arm, other) if n < number else "-" for n, other in enumerate(arms[:-1]))]
        for number, arm in enumerate(arms)
        if number
    ]


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """The numbers of a tree of figures with the keys that lead to them."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, key), value


def _leaf_cell(found: Sequence[Mapping[tuple[str, ...], float]], path: tuple[str, ...]) -> str:
    values = [one[path] for one in found if path in one]
    if not values:
        return "-"
    if path[-1] in LOGGED:
        return over_seeds(values, ".2f", limits=(0.0, 1.0))
    # Differences in points have no ends to cut an interval at.
    return over_seeds(values, "+.1f") if "reliance" in path else over_seeds(values, limits=PERCENT)


def audit_section(figures: Mapping[str, Any]) -> list[str]:
    """The verdicts on every known model, and how many came out as known."""
    rows = []
    for name, part in figures["models"].items():
        runs = part["verdicts"]
        cells = [verdict_cell(part, question).replace("*", " \\*") for question in QUESTIONS]
        expected = "-"
        if name in (*KNOWN, TRAINED):
            known = share([not unexpected({name: [run]}) for run in runs])
            expected = f"{known['correct']} of {known['n']}, {brackets(known['ci95'], '.0f')} %"
        about = "the demo's GRPO model" if name == "e" else part["about"]
        rows.append([f"{name}: {about}", *cells, expected])
    wrong = figures["wrong"]
    beside = [
        about
        for name, about in (
            (TRAINED, f"{TRAINED}, a checkpoint that was trained to answer by the texts alone"),
            ("e", "e, the checkpoint of the demo, of which nothing is expected"),
        )
        if name in figures["models"]
    ]
    return [
        "Scripted models with one fault each, and one without"
        + "".join(f"; beside them {about}" for about in beside)
        + ". Each was "
        f"audited on {figures['items']} PhantomVQA questions for each of {figures['seeds']} seeds, which change the "
        "questions. A model must fail on its own fault, marked \\*; the one without must pass everything. A verdict "
        "without a number came out for every seed. The interval of the last column is Wilson's, 95 %.",
        "",
        *table(["model", *QUESTIONS, "as known"], rows),
        "",
        "Every verdict came out as known." if not wrong else "Not as known: " + "; ".join(wrong) + ".",
    ]
