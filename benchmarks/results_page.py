"""The results page as Markdown, made from `results.json` alone: no figure is written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.audit import KNOWN, TRAINED, unexpected, verdict_cell
from benchmarks.grounded import LOGGED
from benchmarks.grpo import PARTS
from benchmarks.results_cells import PERCENT, brackets, geometric, interval, over_seeds, table
from benchmarks.results_demo import demo_section
from medvlm_r1.audit.registry import QUESTIONS
from medvlm_r1.errors import RESEARCH_USE
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


def grpo_section(figures: Mapping[str, Any]) -> list[str]:
    """Plain TRL against this project, part by part."""
    trl, ours = figures["sides"]["trl"], figures["sides"]["ours"]
    rows = []
    for part in PARTS:
        ratios = [a[part] / b[part] for a, b in zip(trl["rounds"], ours["rounds"], strict=True)]
        rows.append(
            [
                f"{part}, seconds",
                f"{trl[part]:.2f}",
                f"{ours[part]:.2f}",
                *geometric(ratios),
            ]
        )
    memory = [side["memory"] / 1e9 for side in (trl, ours)]
    rows.append(["peak memory, GB", *(f"{size:.2f}" for size in memory), f"{memory[0] / memory[1]:.2f}", "-"])
    for part in PARTS[:2]:
        tokens = [side["tokens_per_prompt"][part] for side in (trl, ours)]
        ratio = f"{tokens[0] / tokens[1]:.2f}" if tokens[1] else "-"
        rows.append([f"tokens a prompt, {part}", *(f"{count:.0f}" for count in tokens), ratio, "counted"])
    return [
        f"{figures['preset']}: {figures['about']}. Seconds are medians of {figures['rounds']} rounds in turns, each "
        "side in a process of its own with the same weights, prompts and completions; TRL with "
        f"{trl['micro_batch']} rows a forward pass, at which it is fastest. A ratio is TRL's figure over this "
        "project's; of seconds it is the geometric mean of the rounds' ratios, with the 95 % t interval of its "
        f"logarithm (n = {figures['rounds']}). The command prints the ratio of the medians: step "
        f"{figures['speedup']['step']:.2f}, update {figures['speedup']['update']:.2f}.",
        "",
        *table(["", "plain TRL", "this project", "ratio", "interval"], rows),
        "",
        f"Largest difference of a log-probability {figures['logp_max_diff']:.1e}; relative difference of the gradient "
        f"{figures['grad_rel_diff']:.1e}.",
    ]


def audit_cost_section(figures: Mapping[str, Any]) -> list[str]:
    """The audit in plain evaluations."""
    seconds = figures["seconds"]
    return [
        f"{figures['model']}, {figures['items']} PhantomVQA questions; medians of {figures['rounds']} rounds, and the "
        f"95 % t interval of the mean of their ratios (n = {figures['rounds']}).",
        "",
        *table(
            [
                "plain evaluation, s",
                "full audit, s",
                "variants a question",
                "evaluations an audit costs",
                "interval",
            ],
            [
                [
                    f"{seconds['plain']:.1f}",
                    f"{seconds['audit']:.1f}",
                    f"{figures['variants_per_item']:.1f}",
                    f"{figures['ratio']:.2f}",
                    interval(figures["ratios"]),
                ]
            ],
        ),
    ]


def step_section(figures: Mapping[str, Any]) -> list[str]:
    """Time and memory of one step by phase, beside the estimate."""
    measured, planned = figures["measured"], figures["planned"]
    rows = [
        [
            phase,
            f"{seconds:.1f}",
            f"{measured['peak'][phase] / 1e9:.2f}",
            f"{planned['phases'][phase] / 1e9:.2f}",
            f"{planned['phases'][phase] / measured['peak'][phase]:.2f}",
        ]
        for phase, seconds in measured["seconds"].items()
    ]
    rows.append(
        [
            "step",
            f"{sum(measured['seconds'].values()):.1f}",
            f"{figures['peak'] / 1e9:.2f}",
            f"{planned['peak'] / 1e9:.2f}",
            f"{figures['ratio']:.2f}",
        ]
    )
    stand_ins = f" ({figures['stand_ins']})" if figures["stand_ins"] else ""
    return [
        f"recipes/{figures['recipe']}: {figures['parameters']:,} parameters, {figures['trained']:,} of them trained"
        f"{stand_ins}; {figures['completions']} completions of {figures['completion_tokens']} tokens to prompts of up "
        f"to {figures['prompt_tokens']} tokens. One step, not repeated: no interval.",
        "",
        *table(["", "seconds", "peak, GB", "dry run's estimate, GB", "estimate over peak"], rows),
    ]


Section = Callable[[Mapping[str, Any]], list[str]]

SECTIONS: dict[str, tuple[str, Section]] = {
    "demo": ("PhantomVQA: zero-shot, SFT and GRPO, with and without thinking", demo_section),
    "shortcut": ("Rewards where the questions give their answers away", shortcut_section),
    "audit": ("The audit on models whose faults are known", audit_section),
    "grpo-demo": ("A GRPO step against plain TRL: the demo", grpo_section),
    "grpo-medium": ("A GRPO step against plain TRL: a larger model and larger images", grpo_section),
    "audit-cost": ("What an audit costs", audit_cost_section),
    "step": ("A step of full size, and what the dry run says of it", step_section),
}

OPENING = f"""# Results

{RESEARCH_USE}

PhantomVQA is synthetic: its images are computed from phantoms, not taken of patients, and the base model was built for
it. The figures here say nothing about patients, and nothing about how any model does on clinical images.

This page is written by `python -m benchmarks.results` (`make results`) from the measurements alone, which are in
[results.json](results.json). Under every table stand the commands that make its figures, and what they ran on.
"""


def render_page(results: Mapping[str, Any]) -> str:
    """The page.

    Args:
        results: The content of `results.json`; a part that is None is named as not run.
    """
    lines = [OPENING]
    for name, (title, section) in SECTIONS.items():
        lines += [f"## {title}", ""]
        record = results["parts"][name]
        if record is None:
            lines += [f"Not run yet. `python -m benchmarks.results --parts {name}` measures it.", ""]
            continue
        lines += [*section(record["figures"]), "", *_made_by(record), ""]
    return "\n".join(lines).rstrip() + "\n"


def _made_by(record: Mapping[str, Any]) -> list[str]:
    machine = record["machine"]
    packages = ", ".join(f"{name} {release}" for name, release in machine["packages"].items())
    number, changed, _ = (machine["commit"] or "").partition("-dirty")
    commit = f", commit {number[:12]}{' with changes' if changed else ''}" if number else ""
    threads = f"{machine['threads']} {'thread' if machine['threads'] == 1 else 'threads'}"
    return [
        "Made by `python -m benchmarks.results`; by hand (words in capitals stand for seeds and folders):",
        "",
        *(f"    {command}" for command in record["commands"]),
        "",
        f"On {machine['cores']} cores ({', '.join(machine['devices'])}; {threads} of PyTorch) and "
        f"{machine['memory_gb']:.1f} GB of memory, {machine['system']}, Python {machine['python']}, "
        f"{packages}{commit}.",
    ]
