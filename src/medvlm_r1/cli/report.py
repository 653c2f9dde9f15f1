"""The `report` and `export` commands."""

from pathlib import Path
from typing import Annotated

import typer

from medvlm_r1.cli.options import Json, Out, page_to_write, print_result
from medvlm_r1.errors import RESEARCH_USE, UsageError


def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    out: Annotated[Path, typer.Option(callback=page_to_write)] = Path("report.html"),
    items: Annotated[int, typer.Option(min=0)] = 12,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML file about one or more runs.

    Example: medvlm-r1 report runs/zero-shot runs/grpo --out report.html

    Options:
        runs: Run folders of evaluations, training runs or audits.
        out: HTML file to write.
        items: Number of test items shown in full.
    """
    from medvlm_r1.console import stderr_console

    with stderr_console().status("Writing the report"):
        from medvlm_r1.report import load_runs, render_report

        page = render_report(load_runs(runs), out, title="MedVLM-R1 report", summary=RESEARCH_USE, items=items)
    print_result({"report": str(page)}, [f"Report: {page}"], as_json=as_json)


def export_command(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    *,
    out: Out,
    results: list[Path] | None = None,
    audit: list[Path] | None = None,
    push_to_hub: Annotated[str | None, typer.Option(metavar="OWNER/NAME")] = None,
    public: Annotated[bool, typer.Option("--public")] = False,
    as_json: Json = False,
) -> None:
    """Write a trained model as a folder to publish, with a model card that reports the measured results.

    A LoRA adapter is merged into its base model, in the dtype of the base. FOLDER#BASE selects another base model.

    Example: medvlm-r1 export runs/phantom-grpo --results runs/grpo --out published/phantom-grpo
    Example: medvlm-r1 export runs/lora/checkpoints/checkpoint-50 --out published/lora-50

    Options:
        run: Run folder of a finished training, a checkpoint, or a folder with a LoRA adapter.
        results: Run folder of an evaluation of the model; repeatable.
        audit: JSON file of `audit data`; repeatable.
        push_to_hub: Upload to this Hub repository; a new one is private.
        public: With --push-to-hub: make a new repository public.
    """
    from medvlm_r1.console import stderr_console

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
