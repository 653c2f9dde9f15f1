"""The results page as Markdown, made from `results.json` alone: no figure is written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medvlm_r1.bench.results_compared import audit_section, shortcut_section
from medvlm_r1.bench.results_demo_table import demo_section
from medvlm_r1.bench.results_timed import audit_cost_section, grpo_section, serve_section, step_section
from medvlm_r1.errors import RESEARCH_USE

Section = Callable[[Mapping[str, Any]], list[str]]

SECTIONS: dict[str, tuple[str, Section]] = {
    "demo": ("PhantomVQA: zero-shot, SFT and GRPO, with and without thinking", demo_section),
    "shortcut": ("Rewards where the questions give their answers away", shortcut_section),
    "audit": ("The audit on models whose faults are known", audit_section),
    "grpo-demo": ("A GRPO step against plain TRL: the demo", grpo_section),
    "grpo-medium": ("A GRPO step against plain TRL: a larger model and larger images", grpo_section),
    "audit-cost": ("What an audit costs", audit_cost_section),
    "serve": ("A server under load", serve_section),
    "step": ("A step of full size, and what the dry run says of it", step_section),
}

OPENING = f"""# Results

{RESEARCH_USE}

PhantomVQA is synthetic: its images are computed from phantoms, not taken of patients, and the base model was built for
it. The figures here say nothing about patients, and nothing about how any model does on clinical images.

This page is written by `medvlm-r1 bench results` (`make results`) from the measurements alone, which are in
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
            lines += [f"Not run yet. `medvlm-r1 bench results --parts {name}` measures it.", ""]
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
        "Made by `medvlm-r1 bench results`; by hand (words in capitals stand for seeds and folders):",
        "",
        *(f"    {command}" for command in record["commands"]),
        "",
        f"On {machine['cores']} cores ({', '.join(machine['devices'])}; {threads} of PyTorch) and "
        f"{machine['memory_gb']:.1f} GB of memory, {machine['system']}, Python {machine['python']}, "
        f"{packages}{commit}.",
    ]
