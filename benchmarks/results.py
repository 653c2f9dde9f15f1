"""`python -m benchmarks.results`: everything the results page shows, measured by one command that can be interrupted.

A folder holds all of it: one folder a part, `parts/NAME.json` for each finished part, and the page made from these
files alone. The same call again goes on where it stood.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.command import run
from benchmarks.grounded import Bar
from benchmarks.results_demo import RunDemo
from benchmarks.results_page import render_page
from benchmarks.results_parts import DEFAULT_SIZES, NAMES, Part, Sizes, all_parts, chosen_names
from medvlm_r1.cli.options import Json, folder_to_write
from medvlm_r1.disk import atomic_write, exclusive_lock
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.evaluation.store import write_results
from medvlm_r1.models.environment import versions
from medvlm_r1.training.dry_run.memory import machine_memory

PAGE, FIGURES = "results.md", "results.json"


def bench_results(
    out: Path,
    *,
    run_demo: RunDemo,
    bar: Bar,
    parts: Sequence[str] = (),
    seeds: int = 5,
    sizes: Sizes = DEFAULT_SIZES,
    page: Path | None = None,
) -> dict[str, Any]:
    """Measure the parts asked for that are not there yet, and write the page of all that are there.

    The page is renewed after every part, so an interruption leaves one of what is finished.

    Args:
        out: folder of everything.
        run_demo: the demo of a folder and a seed (`demo.run_demo`).
        bar: shows progress.
        parts: names of parts or of groups of them; all by default. Others that stand in the folder are shown too.
        seeds: of the trainings of the demo, and of the questions of the audit.
        sizes: how much of everything.
        page: folder of `results.md` and `results.json`; `out` by default.

    Returns:
        The content of `results.json`: `research_use`, and `parts` by name, each with `commands`, `settings`, `machine`
        and `figures`, or None where it has not been run.

    Raises:
        UsageError: an unknown part.
        UserError: the folder is in use or holds something else, or a measurement failed.
        KeyboardInterrupt: interrupted; everything finished is kept.
    """
    wanted = chosen_names(parts)
    known = all_parts(seeds=seeds, run_demo=run_demo, sizes=sizes)
    with exclusive_lock(out):
        results = _write(out, page or out)
        for name in wanted:
            if _stands(results["parts"][name], known[name]):
                continue
            _measure(out, known[name], bar)
            results = _write(out, page or out)
    return results


def _stands(record: dict[str, Any] | None, part: Part) -> bool:
    return record is not None and record["settings"] == part.settings


def _measure(out: Path, part: Part, bar: Bar) -> None:
    figures = part.measure(out / part.name, bar)
    record = {"commands": part.commands, "settings": part.settings, "machine": _machine(), "figures": figures}
    kept = out / "parts"
    kept.mkdir(exist_ok=True)
    write_results(kept, record, f"{part.name}.json")


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
    """What a part ran on: nothing that names the machine itself."""
    found: Mapping[str, Any] = versions()
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(machine_memory() / 1e9, 1),
        "devices": found["devices"],
        "system": f"{platform.system()} {platform.machine()}",
        "python": found["python"],
        "packages": found["packages"],
        "commit": found["commit"],
    }


def main(
    out: Annotated[
        Path,
        typer.Option(
            callback=folder_to_write, help="Folder of everything measured; given again, it goes on where it stood."
        ),
    ] = Path("runs/results"),
    *,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]",
            help="demo, shortcut, audit, or cost (grpo-demo, grpo-medium, audit-cost, serve, step); all by default.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Of the trainings of demo, and of the questions of audit; shortcut takes 3 at most."),
    ] = 5,
    page: Annotated[
        Path | None,
        typer.Option(
            callback=folder_to_write, help="Folder of results.md and results.json; the one of --out by default."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """The results page: every table of ours, measured over seeds, with intervals and commands. Hours for all of it.

    The parts of cost are timed and want the machine to themselves. Parts measured before are shown too.

    Example: python -m benchmarks.results --parts demo,audit --out runs/results
    """
    from medvlm_r1.console import progress_bar
    from medvlm_r1.demo import run_demo
    from medvlm_r1.errors import RESEARCH_USE

    found = bench_results(
        out,
        run_demo=lambda folder, seed: run_demo(folder, seed=seed),
        bar=progress_bar,
        parts=parts or (),
        seeds=seeds,
        page=page,
    )
    if as_json:
        print(json.dumps(found))
        return
    for name, record in found["parts"].items():
        print(f"{name:<12} {'not run' if record is None else 'measured'}")
    print(f"Page: {(page or out) / PAGE}\n{RESEARCH_USE}")


if __name__ == "__main__":
    run(main, "results")
