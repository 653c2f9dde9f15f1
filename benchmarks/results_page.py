"""The results page as Markdown, made from `results.json` alone: no figure is written by hand.

The text is in `results.md`, one macro per part. The functions here make its tables and format its figures.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy.stats import sem, t

from benchmarks.audit import JUDGED, KNOWN, TRAINED, unexpected, verdict_cell
from benchmarks.grounded import OUT_OF_DOMAIN
from benchmarks.grpo import PARTS
from benchmarks.no_think import STAGES
from benchmarks.step import step_rows
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.evaluation.score import share
from medvlm_r1.evaluation.statistics import CONFIDENCE

TITLES = {
    "demo": "PhantomVQA: zero-shot, SFT and GRPO, with and without thinking",
    "shortcut": "Rewards on questions that give their answers away",
    "audit": "The audit on models whose faults are known",
    "grpo-demo": "A GRPO step compared with plain TRL: the demo",
    "grpo-medium": "A GRPO step compared with plain TRL: a larger model and larger images",
    "audit-cost": "Cost of an audit",
    "step": "A step of full size, and the estimate of the dry run",
}
"""Heading of each part, in page order."""
UNTRAINED = ("zero_shot", "zero_shot_no_think")
_DIFFERENCES = [("grpo", name) for name in ("zero_shot", "sft", "grpo_no_think")]
_DIFFERENCES += [("grpo_no_think", "start_no_think")]
_PERCENT = (0.0, 100.0)

Figures = Mapping[str, Any]


def render_page(results: Figures) -> str:
    """Render the results page.

    Args:
        results: The content of `results.json`; a part that is None is listed as not run.
    """
    lines = [_macro("opening")()]
    for name, title in TITLES.items():
        record = results["parts"][name]
        if record is None:
            text = f"Not run yet. `python -m benchmarks.results --parts {name}` measures it."
        else:
            text = f"{render_part(name, record['figures'])}\n\n{_macro('made_by')(record)}"
        lines += ["", f"## {title}", "", text]
    return "\n".join(lines) + "\n"


def render_part(name: str, figures: Figures) -> str:
    """Text and tables of one part, without its heading and commands."""
    return _macro("grpo" if name.startswith("grpo") else name.replace("-", "_"))(figures)


def _macro(name: str) -> Callable[..., str]:
    macro = getattr(_templates(), name)
    return lambda *values: str(macro(*values)).strip()


@cache
def _templates() -> Any:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    functions: list[Any] = [table, brackets, over_seeds, interval, repeats, stage_rows, difference_rows, type_rows]
    functions += [seed_rows, shortcut_rows, paired_rows, audit_rows, grpo_rows, step_rows]
    environment.globals |= {function.__name__: function for function in functions}
    environment.globals |= {"research_use": RESEARCH_USE, "JUDGED": JUDGED, "OUT_OF_DOMAIN": OUT_OF_DOMAIN}
    return environment.get_template("results.md").module


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, with its first column aligned left and the others right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines)


def brackets(ends: Sequence[float], form: str = ".1f") -> str:
    """Format an interval in brackets, without a place for a line break."""
    low, high = ends
    return f"[{low:{form}},\u00a0{high:{form}}]"


def over_seeds(values: Sequence[float], form: str = ".1f", *, limits: tuple[float, float] | None = None) -> str:
    """The mean of one value per seed with its t interval; the value alone if there is only one.

    Args:
        values: One per seed.
        form: Format of a number.
        limits: Limits of the interval, such as 0 and 100 for percent.
    """
    mean = f"{statistics.fmean(values):{form}}"
    if len(values) < 2:
        return mean
    low, high = t_interval(values)
    if limits is not None:
        low, high = max(low, limits[0]), min(high, limits[1])
    return f"{mean} {brackets((low, high), form)}"


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % Student's t interval of the mean of at least two independent values, such as one per seed."""
    mean, error = float(np.mean(values)), float(sem(values))
    if error == 0:
        return mean, mean
    low, high = t.interval(CONFIDENCE, len(values) - 1, mean, error)
    return float(low), float(high)


def interval(values: Sequence[float], form: str = ".2f") -> str:
    """The t interval of the mean of repeated measurements, in brackets; a dash if there is only one."""
    return brackets(t_interval(values), form) if len(values) > 1 else "-"


def _share(cell: Figures) -> str:
    return f"{cell['percent']:.1f} {brackets(cell['ci95'])}"


def _cells(stage: Figures) -> list[str]:
    mean = {"percent": stage["mean"], "ci95": stage["mean_ci95"]}
    return [_share(cell) for cell in (*stage["accuracy"].values(), mean, stage["well_formed"])]


def _columns(seeds: Sequence[Figures], stage: str) -> list[list[float]]:
    """Accuracies of a stage by modality, and their mean: one value per seed."""
    columns = [[seed[stage]["accuracy"][name]["percent"] for seed in seeds] for name in seeds[0][stage]["accuracy"]]
    return [*columns, [seed[stage]["mean"] for seed in seeds]]


def repeats(seeds: Sequence[Figures], stage: str) -> bool:
    """Whether a stage has the same figures for every seed."""
    return all(seed[stage] == seeds[0][stage] for seed in seeds)


def stage_rows(seeds: Sequence[Figures]) -> list[list[str]]:
    """Rows of a table: accuracies of every stage over the seeds, and chance."""
    rows = []
    for stage, name in STAGES.items():
        if stage in UNTRAINED:
            rows.append([f"{name} \\*", *_cells(seeds[0][stage])])
        else:
            columns = [*_columns(seeds, stage), [seed[stage]["well_formed"]["percent"] for seed in seeds]]
            rows.append([name, *(over_seeds(column, limits=_PERCENT) for column in columns)])
    chance = seeds[0]["grpo"]["chance"].values()
    return [*rows, ["A guess among the options", *(f"{percent:.1f}" for percent in chance), "-"]]


def difference_rows(seeds: Sequence[Figures]) -> list[list[str]]:
    """Differences of stages in points, paired by seed."""
    rows = []
    for a, b in _DIFFERENCES:
        pairs = zip(_columns(seeds, a), _columns(seeds, b), strict=True)
        differences = [[x - y for x, y in zip(*pair, strict=True)] for pair in pairs]
        rows.append([f"{STAGES[a]} minus {STAGES[b]}", *(over_seeds(column, "+.1f") for column in differences)])
    return rows


def type_rows(seeds: Sequence[Figures]) -> list[list[str]]:
    """Rows of a table: accuracy after GRPO by question type and modality."""
    by_type = [seed["grpo"]["by_type"] for seed in seeds]

    def cell(modality: str, kind: str) -> str:
        cells = [types[modality][kind] for types in by_type if kind in types.get(modality, {})]
        values = [cell["percent"] for cell in cells]
        return f"{over_seeds(values, limits=_PERCENT)} of {cells[0]['n']}" if cells else "-"

    kinds = sorted({kind for types in by_type[0].values() for kind in types})
    return [[kind, *(cell(modality, kind) for modality in seeds[0]["grpo"]["accuracy"])] for kind in kinds]


def seed_rows(seeds: Sequence[Figures]) -> list[list[str]]:
    """Rows of a table: the figures of each seed, with the most frequent letter and its percent of all answers."""
    rows = []
    for number, seed in enumerate(seeds):
        for stage, name in STAGES.items():
            if stage not in UNTRAINED or not repeats(seeds, stage):
                letters = seed[stage]["letters"]
                most = max(letters, key=letters.__getitem__)
                letter = f"{most} {100 * letters[most] / sum(letters.values()):.0f}"
                cut_off = f"{seed[stage]['cut_off']['percent']:.1f}"
                rows.append([f"{number}: {name}", *_cells(seed[stage]), cut_off, letter])
    return rows


def _leaves(tree: Figures, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """The numbers of a tree of figures with their keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, key), value


def shortcut_rows(seeds: Sequence[Figures], arms: Sequence[str]) -> list[list[str]]:
    """Rows of a table: one figure per row and one arm per column, as the mean over the seeds with its interval."""
    by_arm = {arm: [dict(_leaves(seed[arm])) for seed in seeds] for arm in arms}

    def cell(arm: str, path: tuple[str, ...]) -> str:
        values = [figures[path] for figures in by_arm[arm] if path in figures]
        if not values:
            return "-"
        if path[-1].endswith("_right"):  # a share of the training log
            return over_seeds(values, ".2f", limits=(0.0, 1.0))
        # Differences in points have no limits.
        return over_seeds(values, "+.1f") if "reliance" in path else over_seeds(values, limits=_PERCENT)

    paths = dict.fromkeys(path for arm in arms for path in by_arm[arm][0])
    return [[" ".join(path).replace("_", " "), *(cell(arm, path) for arm in arms)] for path in paths]


def paired_rows(seeds: Sequence[Figures], arms: Sequence[str]) -> list[list[str]]:
    """Out-of-domain accuracy of each arm minus that of each earlier arm, in points, paired by seed."""
    rows = []
    for n, arm in enumerate(arms[1:], start=1):
        pairs = [[seed[arm]["out_of_domain"] - seed[other]["out_of_domain"] for seed in seeds] for other in arms[:n]]
        rows.append([arm, *(over_seeds(differences, "+.1f") for differences in pairs), *["-"] * (len(arms) - 1 - n)])
    return rows


def audit_rows(figures: Figures) -> list[list[str]]:
    """Rows of a table: the verdicts on every known model, and how many are as expected."""
    rows = []
    for name, model in figures["models"].items():
        cells = [verdict_cell(model, question).replace("*", " \\*") for question in JUDGED]
        expected = "-"
        if name in (*KNOWN, TRAINED):
            known = share([not unexpected({name: [run]}) for run in model["verdicts"]])
            expected = f"{known['correct']} of {known['n']}, {brackets(known['ci95'], '.0f')} %"
        rows.append([f"{name}: {'the GRPO model of the demo' if name == 'e' else model['about']}", *cells, expected])
    return rows


def grpo_rows(figures: Figures) -> list[list[str]]:
    """Rows of a table: plain TRL and this project by part of the step: seconds, memory, tokens, and ratios."""
    trl, ours = figures["sides"]["trl"], figures["sides"]["ours"]
    rows = []
    for phase in PARTS:
        ratios = [a[phase] / b[phase] for a, b in zip(trl["rounds"], ours["rounds"], strict=True)]
        ends = (
            brackets([math.exp(end) for end in t_interval([math.log(r) for r in ratios])], ".2f") if ratios[1:] else "-"
        )
        mean = statistics.geometric_mean(ratios)
        rows.append([f"{phase}, seconds", f"{trl[phase]:.2f}", f"{ours[phase]:.2f}", f"{mean:.2f}", ends])
    memory = [side["memory"] / 1e9 for side in (trl, ours)]
    rows.append(["peak memory, GB", *(f"{size:.2f}" for size in memory), f"{memory[0] / memory[1]:.2f}", "-"])
    for phase in PARTS[:2]:
        tokens = [side["tokens_per_prompt"][phase] for side in (trl, ours)]
        ratio = f"{tokens[0] / tokens[1]:.2f}" if tokens[1] else "-"
        rows.append([f"tokens per prompt, {phase}", *(f"{count:.0f}" for count in tokens), ratio, "counted"])
    return rows
