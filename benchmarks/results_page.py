"""The results page as Markdown, made from `results.json` alone: no figure is written by hand.

The text is in `results.md`, one macro per part. The functions here make its tables and format its figures.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy.stats import sem, t

from benchmarks.audit import JUDGED, KNOWN, TRAINED, unexpected, verdict_cell
from benchmarks.demo_seeds import CONTROL, LOOKS, STAGES, TEXT_ROWS
from benchmarks.grounded import OUT_OF_DOMAIN
from benchmarks.grpo import PARTS
from benchmarks.step import step_rows
from medvlm_r1.demo import AUDITED, SETS
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.evaluation.score import share
from medvlm_r1.evaluation.statistics import CONFIDENCE

TITLES = {
    "demo": "PhantomVQA: the paper's table, with questions that give their answers away and without",
    "shortcut": "Rewards on questions that give their answers away",
    "audit": "The audit on models whose faults are known",
    "grpo-demo": "A GRPO step compared with plain TRL: the demo",
    "grpo-medium": "A GRPO step compared with plain TRL: a larger model and larger images",
    "audit-cost": "Cost of an audit",
    "step": "A step of full size, and the estimate of the dry run",
}
"""Heading of each part, in page order."""
UNTRAINED = ("zero_shot",)
_DIFFERENCES = [("grpo", name) for name in ("zero_shot", "sft", "grpo_no_think")]
_DIFFERENCES += [("sft", "zero_shot"), ("sft", CONTROL), ("grpo_no_think", "zero_shot")]
_PERCENT = (0.0, 100.0)

Figures = Mapping[str, Any]


def render_page(results: Figures) -> str:
    """The page.

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
    functions: list[Any] = [table, brackets, over_seeds, interval, repeats, stage_rows, difference_rows, favored_rows]
    functions += [
        looks_rows,
        difference_columns,
        type_rows,
        seed_rows,
        shortcut_rows,
        paired_rows,
        audit_rows,
        grpo_rows,
        step_rows,
    ]
    environment.globals |= {function.__name__: function for function in functions}
    environment.globals |= {
        "research_use": RESEARCH_USE,
        "JUDGED": JUDGED,
        "OUT_OF_DOMAIN": OUT_OF_DOMAIN,
        "SETS": SETS,
    }
    return environment.get_template("results.md").module


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, with its first column aligned left and the others right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines)


def brackets(ends: Sequence[float], form: str = ".1f") -> str:
    """An interval that no line break divides."""
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


def _columns(seeds: Sequence[Figures], stage: str, name: str) -> list[list[float]]:
    """Accuracies of a stage on a test set by modality, and their mean: one value per seed."""
    figures = [seed[stage][name] for seed in seeds]
    columns = [[seed["accuracy"][modality]["percent"] for seed in figures] for modality in figures[0]["accuracy"]]
    return [*columns, [seed["mean"] for seed in figures]]


def repeats(seeds: Sequence[Figures], stage: str) -> bool:
    """Whether a stage has the same figures for every seed."""
    return all(seed[stage] == seeds[0][stage] for seed in seeds)


def stage_rows(figures: Figures, name: str) -> list[list[str]]:
    """The rows without a model, and every stage over the seeds, on one test set."""
    seeds = figures["seeds"]
    rows = []
    for row, label in TEXT_ROWS.items():
        rows.append([label, *(f"{percent:.1f}" for percent in figures["text"][row][name].values()), "-"])
    for stage, label in STAGES.items():
        if stage in UNTRAINED:
            rows.append([f"{label} \\*", *_cells(seeds[0][stage][name])])
        else:
            columns = [
                *_columns(seeds, stage, name),
                [seed[stage][name]["well_formed"]["percent"] for seed in seeds],
            ]
            rows.append([label, *(over_seeds(column, limits=_PERCENT) for column in columns)])
    return rows


def difference_columns(names: Sequence[str]) -> list[str]:
    """The names as columns of both test sets."""
    return [f"{label}: {name}" for label in SETS.values() for name in names]


def difference_rows(seeds: Sequence[Figures]) -> list[list[str]]:
    """Differences of stages in points on both test sets, paired by seed."""
    rows = []
    for a, b in _DIFFERENCES:
        cells = []
        for name in SETS:
            pairs = zip(_columns(seeds, a, name), _columns(seeds, b, name), strict=True)
            differences = [[x - y for x, y in zip(*pair, strict=True)] for pair in pairs]
            cells += [over_seeds(column, "+.1f") for column in differences]
        rows.append([f"{STAGES[a]} minus {STAGES[b]}", *cells])
    return rows


def favored_rows(seeds: Sequence[Figures]) -> list[list[str]]:
    """Accuracy of every stage where the favored option is wrong, with the number of questions."""

    def cell(stage: str, name: str, modality: str) -> str:
        shares = [seed[stage][name]["favored_wrong"][modality] for seed in seeds]
        if not shares[0]["n"]:
            return "-"
        return f"{over_seeds([share['percent'] for share in shares], limits=_PERCENT)} of {shares[0]['n']}"

    modalities = seeds[0]["grpo"]["clean"]["accuracy"]
    return [
        [label, *(cell(stage, name, modality) for name in SETS for modality in modalities)]
        for stage, label in STAGES.items()
    ]


def looks_rows(seeds: Sequence[Figures]) -> list[list[str]]:
    """What the audit found about the image, over the seeds."""
    rows = []
    for stage in AUDITED:
        audits = [seed["audit"][stage] for seed in seeds]
        verdicts = Counter(audit["looks"] for audit in audits)
        verdict = ", ".join(f"{verdict} {count} of {len(audits)}" for verdict, count in verdicts.items())
        accuracies = (over_seeds([audit[name] for audit in audits], limits=_PERCENT) for name in LOOKS)
        rows.append([STAGES[stage], *accuracies, verdict])
    return rows


def type_rows(seeds: Sequence[Figures]) -> list[list[str]]:
    """GRPO on the clean questions by question type and modality."""
    by_type = [seed["grpo"]["clean"]["by_type"] for seed in seeds]

    def cell(modality: str, kind: str) -> str:
        cells = [types[modality][kind] for types in by_type if kind in types.get(modality, {})]
        values = [cell["percent"] for cell in cells]
        return f"{over_seeds(values, limits=_PERCENT)} of {cells[0]['n']}" if cells else "-"

    kinds = sorted({kind for types in by_type[0].values() for kind in types})
    return [[kind, *(cell(modality, kind) for modality in seeds[0]["grpo"]["clean"]["accuracy"])] for kind in kinds]


def seed_rows(seeds: Sequence[Figures], name: str) -> list[list[str]]:
    """Each seed by itself on one test set, with the most frequent letter and its percent of all answers."""
    rows = []
    for number, seed in enumerate(seeds):
        for stage, label in STAGES.items():
            if stage not in UNTRAINED or not repeats(seeds, stage):
                figures = seed[stage][name]
                letters = figures["letters"]
                most = max(letters, key=letters.__getitem__)
                letter = f"{most} {100 * letters[most] / sum(letters.values()):.0f}"
                rows.append([f"{number}: {label}", *_cells(figures), f"{figures['cut_off']['percent']:.1f}", letter])
    return rows


def _leaves(tree: Figures, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """The numbers of a tree of figures with their keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*path, key), value


def shortcut_rows(seeds: Sequence[Figures], arms: Sequence[str]) -> list[list[str]]:
    """Every figure of every arm over the seeds."""
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
    """Each arm out of domain minus those before it, paired by seed."""
    rows = []
    for n, arm in enumerate(arms[1:], start=1):
        pairs = [[seed[arm]["out_of_domain"] - seed[other]["out_of_domain"] for seed in seeds] for other in arms[:n]]
        rows.append([arm, *(over_seeds(differences, "+.1f") for differences in pairs), *["-"] * (len(arms) - 1 - n)])
    return rows


def audit_rows(figures: Figures) -> list[list[str]]:
    """The verdicts on every known model, and how many are as expected."""
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
    """Plain TRL and this project by part of the step: seconds, memory, tokens, and their ratios."""
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
