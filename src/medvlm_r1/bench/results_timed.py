"""Sections of the results page that are measured by the clock or in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medvlm_r1.bench.grpo import PARTS
from medvlm_r1.bench.results_cells import geometric, interval, over_seeds, table


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


def serve_section(figures: Mapping[str, Any]) -> list[str]:
    """Throughput of one client and of many, over servers."""
    rounds: Sequence[Mapping[str, Any]] = figures["rounds"]
    first, n = rounds[0], len(rounds)
    rows = []
    for label, key, form in (
        ("replies a second", "replies_per_second", ".2f"),
        ("tokens a second", "tokens_per_second", ".0f"),
        ("processor seconds a reply", "processor_seconds_per_reply", ".3f"),
    ):
        pairs = [(found[key]["one"], found[key]["all"]) for found in rounds]
        # Only some systems tell of a process's seconds.
        if all(one and many for one, many in pairs):
            columns = [[one for one, _ in pairs], [many for _, many in pairs]]
            ratios = [many / one for one, many in pairs]
            rows.append([label, *(over_seeds(column, form) for column in columns), over_seeds(ratios, ".2f")])
    lines = [
        f"{n} servers one after another, each under a load of {first['seconds']:.0f} s from one client and then from "
        f"{first['clients']}; mean and 95 % t interval over the servers (n = {n}).",
        "",
        *table(["", "one client", f"{first['clients']} clients", "ratio"], rows),
        "",
        f"{sum(found['replies'] for found in rounds)} replies to {first['clients']} clients; "
        f"{sum(found['wrong'] for found in rounds)} in all were not the request's own, "
        f"{sum(found['refused'] for found in rounds)} were refused.",
    ]
    grown = [
        (found["memory"]["end"] - found["memory"]["begin"]) / 2**20
        for found in rounds
        if None not in found["memory"].values()
    ]
    if grown:
        lines[-1] += f" Under the load of all clients a server grew by {over_seeds(grown, '+.0f')} MB."
    return lines


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
