"""The `export` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvlm_r1.cli.options import Json, Out, print_result


def export_command(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Run folder of a finished training, a checkpoint, or a folder with a LoRA adapter.",
        ),
    ],
    *,
    out: Out,
    results: Annotated[
        list[Path] | None, typer.Option(help="Run folder of an evaluation of the model; repeatable.")
    ] = None,
    audit: Annotated[list[Path] | None, typer.Option(help="JSON file of `audit data`; repeatable.")] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload to this Hub repository; a new one is private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push-to-hub: make a new repository public.")] = False,
    as_json: Json = False,
) -> None:
    """Write a trained model as a folder to publish, with a model card that reports the measured results.

    A LoRA adapter is merged into its base model, in the dtype of the base. FOLDER#BASE selects another base model.

    Example: medvlm-r1 export runs/phantom-grpo --results runs/grpo --out published/phantom-grpo
    Example: medvlm-r1 export runs/lora/checkpoints/checkpoint-50 --out published/lora-50
    """
    from medvlm_r1.console import stderr_console
    from medvlm_r1.errors import RESEARCH_USE, UsageError

    if public and push_to_hub is None:
        raise UsageError("--public requires --push-to-hub OWNER/NAME.")
    with stderr_console().status("Writing model and card"):
        from medvlm_r1.report.export import export
        from medvlm_r1.report.export import push_to_hub as push

        folder = export(run, out, evaluations=results or (), audits=audit or (), name=push_to_hub)
    uploaded = None
    if push_to_hub is not None:
        with stderr_console().status(f"Uploading to {push_to_hub}"):
            uploaded = push(folder, push_to_hub, public=public)
    lines = [f"Model and card: {folder}", *([f"Uploaded: {uploaded}"] if uploaded else []), RESEARCH_USE]
    record = {"folder": str(folder), "uploaded": uploaded, "notice": RESEARCH_USE}
    print_result(record, lines, as_json=as_json)
