"""The `demo` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medvlm_r1.cli.options import Json, Out
from medvlm_r1.stopping import stop_on_sigterm


def demo_command(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the training runs.")] = 0,
    as_json: Json = False,
) -> None:
    """Run the paper's experiment on PhantomVQA: zero-shot, SFT and GRPO, with a table and a report.

    Takes minutes on a laptop. Re-run to resume.

    Example: medvlm-r1 demo --out runs/demo
    """
    from rich.console import Console

    with stop_on_sigterm(out):
        from medvlm_r1.demo import print_table, run_demo

        results = run_demo(out, seed=seed)
    if as_json:
        print(json.dumps(results))
        return
    console = Console()
    print_table(results, console)
    console.print(f"Report: {out / 'report.html'}   Results: {out / 'results.json'}", soft_wrap=True)
