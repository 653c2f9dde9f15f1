"""`python -m benchmarks.results`: all figures of the results page, measured by one command. Re-run to resume.

The output folder has one folder per part, and `parts/NAME.json` for each finished part. The page is made from these
files alone.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.audit import bench_audit
from benchmarks.audit_cost import audit_cost
from benchmarks.command import run
from benchmarks.grounded import MAX_NEW_TOKENS, bench_grounded
from benchmarks.grpo import bench_grpo
from benchmarks.no_think import CHANGES, TEMPLATE, measure_demo
from benchmarks.presets import PRESETS
from benchmarks.results_page import TITLES, render_page
from benchmarks.step import bench_step
from medvlm_r1 import demo
from medvlm_r1.cli.options import Json, folder_to_write, print_result
from medvlm_r1.console import progress_bar
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.disk import atomic_write, exclusive_lock
from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError
from medvlm_r1.evaluation.store import write_results
from medvlm_r1.models.device import versions
from medvlm_r1.models.load import PHANTOM_BASE
from medvlm_r1.recipes import recipe
from medvlm_r1.training.dry_run.memory import machine_memory

PAGE, FIGURES = "results.md", "results.json"
COST = ("grpo-demo", "grpo-medium", "audit-cost", "step")
NAMES = tuple(TITLES)
SHORTCUT_SEEDS = 3
"""Maximum number of seeds of the comparison of rewards: each seed is a start and two trainings."""
_STEP_RECIPE, _PIXELS, _COMPLETION = "paper-lora-24gb.yaml", 384, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of the measurements; the defaults are those of the page."""

    demo: demo.Sizes = field(default_factory=demo.Sizes)
    audit_items: int = 300
    train_a: bool = True
    """Whether the audit also has a trained model that ignores the image."""
    cost_items: int = 300
    cost_rounds: int = 3


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the page.

    Attributes:
        commands: Commands that make its figures by hand.
        settings: A stored result is reused if it was made with these settings.
        measure: Measures the figures, in a folder of its own.
    """

    commands: tuple[str, ...]
    settings: dict[str, Any]
    measure: Callable[[Path], dict[str, Any]]


def bench_results(
    out: Path, *, parts: Sequence[str] = (), seeds: int = 5, sizes: Sizes = Sizes(), page: Path | None = None
) -> dict[str, Any]:
    """Measure the selected parts that are missing, and write the page of all finished parts.

    The page is renewed after every part, so an interruption leaves a page of the finished ones.

    Args:
        out: Output folder.
        parts: Names of parts or groups; all by default. Other finished parts in the folder are shown too.
        seeds: Number of training seeds of the demo, and of question sets of the audit.
        sizes: Sizes of the measurements.
        page: Folder of `results.md` and `results.json`; `out` by default.

    Returns:
        The content of `results.json`: `research_use`, and `parts` by name, each with `commands`, `settings`, `machine`
        and `figures`, or None if it was not measured.

    Raises:
        UsageError: A part is unknown.
        UserError: The folder is in use or contains something else, or a measurement failed.
        KeyboardInterrupt: Interrupted; finished parts are kept.
    """
    selected = select_parts(parts)
    known = all_parts(seeds=seeds, sizes=sizes)
    with exclusive_lock(out):
        results = _write(out, page or out)
        for name in selected:
            record, part = results["parts"][name], known[name]
            if record is None or record["settings"] != part.settings:
                figures = part.measure(out / name)
                record = {"commands": part.commands, "settings": part.settings, "machine": _machine()}
                (out / "parts").mkdir(exist_ok=True)
                write_results(out / "parts", record | {"figures": figures}, f"{name}.json")
                results = _write(out, page or out)
    return results


def select_parts(texts: Sequence[str]) -> list[str]:
    """Names of the selected parts, in page order; all if none is named.

    Args:
        texts: Names of parts or groups, comma-separated.

    Raises:
        UsageError: A name is unknown; the message names the nearest.
    """
    names = [name.strip() for text in texts for name in text.split(",")] or list(NAMES)
    known = {**{name: (name,) for name in NAMES}, "cost": COST}
    for name in names:
        if name not in known:
            raise UsageError(f"unknown part of the results {name!r}; {did_you_mean(name, known)}")
    selected = {part for name in names for part in known[name]}
    return [name for name in NAMES if name in selected]


def all_parts(*, seeds: int, sizes: Sizes) -> dict[str, Part]:
    """Every part by name, in page order.

    Args:
        seeds: As in `bench_results`.
        sizes: Sizes of the measurements.
    """
    repeats = min(seeds, SHORTCUT_SEEDS)

    def audit(folder: Path) -> dict[str, Any]:
        trained_demo = folder.parent / "demo" / "seed-0" / "grpo" / "model"
        with progress_bar("Audit of known models: items") as advance:
            return bench_audit(
                items=sizes.audit_items,
                seeds=seeds,
                models={"e": str(trained_demo)} if trained_demo.is_dir() else {},
                trained=folder if sizes.train_a else None,
                progress=advance,
            )

    def grpo(preset: str) -> Part:
        def measure(_: Path) -> dict[str, Any]:
            with progress_bar(f"GRPO step, {preset}") as advance:
                return bench_grpo(PRESETS[preset], progress=advance)

        return Part((f"python -m benchmarks.grpo --preset {preset}",), {"rounds": PRESETS[preset].rounds}, measure)

    def cost(_: Path) -> dict[str, Any]:
        with progress_bar("Cost of the audit: rounds") as advance:
            return audit_cost(PHANTOM_BASE, items=sizes.cost_items, rounds=sizes.cost_rounds, progress=advance)

    def step(_: Path) -> dict[str, Any]:
        with progress_bar("A step of full size") as advance:
            figures = bench_step(recipe(_STEP_RECIPE), pixels=_PIXELS, completion=_COMPLETION, progress=advance)
        # Metrics of random weights and made-up rewards.
        del figures["measured"]["logs"]
        return figures

    changes = " ".join(f"'{change}'" for change in CHANGES)
    evaluated = (("NO-THINK/model", "EVAL"), ("START", "START-EVAL"), (PHANTOM_BASE, "BASE-EVAL"))
    parts = {
        "demo": Part(
            (
                "medvlm-r1 demo --seed SEED --out DEMO",
                f"medvlm-r1 train grpo --config recipes/phantom.yaml {changes} model=START data.train=DEMO/data/train "
                "seed=SEED out=NO-THINK",
                *(
                    f"medvlm-r1 eval {model} --data DEMO/data/test --template {TEMPLATE} --max-new-tokens "
                    f"{MAX_NEW_TOKENS} --out {out}"
                    for model, out in evaluated
                ),
            ),
            {"seeds": seeds},
            lambda folder: measure_demo(folder, seeds=seeds, sizes=sizes.demo),
        ),
        "shortcut": Part(
            (f"python -m benchmarks.grounded --seeds {repeats}",),
            {"seeds": repeats},
            lambda folder: bench_grounded(folder, seeds=repeats),
        ),
        "audit": Part(
            (
                f"python -m benchmarks.audit --items {sizes.audit_items} --seeds {seeds}"
                + (" --model e=DEMO/grpo/model --trained TRAINED" if sizes.train_a else ""),
            ),
            {"items": sizes.audit_items, "seeds": seeds},
            audit,
        ),
        "grpo-demo": grpo("demo"),
        "grpo-medium": grpo("medium"),
        "audit-cost": Part(
            (
                f"python -m benchmarks.audit_cost {PHANTOM_BASE} --items {sizes.cost_items} "
                f"--rounds {sizes.cost_rounds}",
            ),
            {"items": sizes.cost_items, "rounds": sizes.cost_rounds},
            cost,
        ),
        "step": Part(
            (
                f"python -m benchmarks.step --config recipes/{_STEP_RECIPE} --pixels {_PIXELS} "
                f"--completion-tokens {_COMPLETION}",
            ),
            {"recipe": _STEP_RECIPE, "pixels": _PIXELS, "completion": _COMPLETION},
            step,
        ),
    }
    return {name: parts[name] for name in NAMES}


def _write(out: Path, page: Path) -> dict[str, Any]:
    """Make the page from the finished parts."""
    results = {"research_use": RESEARCH_USE, "parts": {name: _read(out / "parts" / f"{name}.json") for name in NAMES}}
    page.mkdir(parents=True, exist_ok=True)
    write_results(page, results, FIGURES)
    atomic_write(page / PAGE, render_page(results))
    return results


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        assert record.keys() >= {"commands", "settings", "machine", "figures"}
    except (ValueError, AssertionError, AttributeError) as error:
        raise UserError(
            f"{file} is no finished part of the results ({error or 'keys are missing'}); delete it, and the same "
            "command measures it again."
        ) from error
    return record


def _machine() -> dict[str, Any]:
    """Description of the machine, without its name."""
    environment = versions()
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(machine_memory() / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        **{key: environment[key] for key in ("devices", "python", "packages", "commit")},
    }


def main(
    out: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder of all measurements. Re-run to resume.")
    ] = Path("runs/results"),
    *,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]", help=f"demo, shortcut, audit, or cost ({', '.join(COST)}); all by default."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Training seeds of demo, and question sets of audit; shortcut uses at most 3.")
    ] = 5,
    page: Annotated[
        Path | None,
        typer.Option(callback=folder_to_write, help="Folder of results.md and results.json (default: --out)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the results page: tables over seeds, with intervals and commands. All parts take hours.

    The cost parts are timed, so run nothing else on the machine. Parts that were measured earlier are shown too.

    Example: python -m benchmarks.results --parts demo,audit --out runs/results
    """
    results = bench_results(out, parts=parts or (), seeds=seeds, page=page)
    lines = [f"{name:<12} {'measured' if record else 'not run'}" for name, record in results["parts"].items()]
    print_result(results, [*lines, f"Page: {(page or out) / PAGE}", RESEARCH_USE], as_json=as_json)


if __name__ == "__main__":
    run(main, "results")
