"""The `report` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvlm_r1.cli.options import Json, page_to_write, print_result
from medvlm_r1.errors import RESEARCH_USE


def report_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders of evaluations, trainings or audits.")
    ],
    out: Annotated[Path, typer.Option("--out", callback=page_to_write, help="HTML file to write.")] = Path(
        "report.html"
    ),
    items: Annotated[int, typer.Option(min=0, help="Number of test items shown in full.")] = 12,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML file about one or more runs.

    Example: medvlm-r1 report runs/zero-shot runs/grpo --out report.html
    """
    from medvlm_r1.console import stderr_console

    with stderr_console().status("Writing the report"):
        from medvlm_r1.report import load_runs, render_report

        page = render_report(load_runs(runs), out, title="MedVLM-R1 report", summary=RESEARCH_USE, items=items)
    print_result({"report": str(page)}, [f"Report: {page}"], as_json=as_json)
