"""The `export` command. As in `cli`, it imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvlm_r1.cli_options import Out


def export_command(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished training.")],
    *,
    out: Out,
    results: Annotated[
        list[Path] | None, typer.Option(help="Run folder of an evaluation of it; may be given several times.")
    ] = None,
    audit: Annotated[list[Path] | None, typer.Option(help="JSON of `audit data`; may be given several times.")] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it there; a new repository is private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push-to-hub: a new repository is public.")] = False,
) -> None:
    """Write a trained model as a folder fit for publishing, with a model card of what was measured.

    Example: medvlm-r1 export runs/phantom-grpo --results runs/grpo --out published/phantom-grpo
    """
    from medvlm_r1.errors import RESEARCH_USE, UsageError
    from medvlm_r1.report.export import export
    from medvlm_r1.report.export import push_to_hub as push

    if public and push_to_hub is None:
        raise UsageError("--public says who may see an upload; give --push-to-hub OWNER/NAME too.")
    folder = export(run, out, evaluations=results or (), audits=audit or (), name=push_to_hub)
    print(f"Model and card: {folder}")
    if push_to_hub is not None:
        print(f"Uploaded: {push(folder, push_to_hub, public=public)}")
    print(RESEARCH_USE)
