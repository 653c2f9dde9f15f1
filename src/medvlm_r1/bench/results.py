"""`medvlm-r1 bench results`: everything the results page shows, measured by one command that can be interrupted.

A folder holds all of it: one folder a part, `parts/NAME.json` for each finished part, and the page made from these
files alone. The same call again goes on where it stood.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from medvlm_r1.bench.grounded import Bar
from medvlm_r1.bench.results_demo import RunDemo
from medvlm_r1.bench.results_page import render_page
from medvlm_r1.bench.results_parts import Part, all_parts
from medvlm_r1.bench.results_sizes import DEFAULT_SIZES, NAMES, Sizes, chosen_names
from medvlm_r1.disk import only_process, write_whole
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.evaluation.store import write_results
from medvlm_r1.training.plan.cards import this_machine
from medvlm_r1.training.run_folder import versions

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
    with only_process(out):
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
    write_whole(page / PAGE, render_page(results))
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
        "memory_gb": round(this_machine().memory / 1e9, 1),
        "devices": found["devices"],
        "system": f"{platform.system()} {platform.machine()}",
        "python": found["python"],
        "packages": found["packages"],
        "commit": found["commit"],
    }
