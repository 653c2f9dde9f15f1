"""The `audit` commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_r1.cli import options
from medvlm_r1.errors import RESEARCH_USE, UsageError
from medvlm_r1.stopping import stop_on_sigterm

audit_app = typer.Typer(help="Audit a data set or a model.", no_args_is_help=True)

PROBES = ("image", "options", "reasoning", "truth", "confidence", "pointing", "subgroups", "prevalence")
PAGE, FIGURES = "audit_data.html", "audit_data.json"
MODEL_FIGURES = "audit.json"


@audit_app.command("data")
@options.described
def audit_data_command(
    data: Annotated[Path, typer.Argument(metavar="DIR")],
    *,
    fit_on: Annotated[str | None, typer.Option(metavar="DIR_OR_MODALITY")] = None,
    out: Annotated[Path | None, typer.Option(callback=options.page_or_folder)] = None,
    write_clean: Annotated[Path | None, typer.Option(metavar="DIR", callback=options.folder_to_write)] = None,
    clean_of: Annotated[list[str] | None, typer.Option(metavar="BASELINE")] = None,
    as_json: options.Json = False,
) -> None:
    """Test whether questions can be answered without the image: blind baselines by modality, with a verdict.

    Baselines: majority (letter), longest (option), option_prior_loo (leave one out), option_prior_fit (with --fit-on).
    With --json, a page is written only if --out is given.

    Example: medvlm-r1 audit data data/phantom/test --fit-on data/phantom/train

    Options:
        data: Data folder, or FORMAT:SOURCE for published questions (med-r1:FILE).
        fit_on: Fit option_prior_fit on a training set (also FORMAT:SOURCE), or on a modality such as MRI.
        out: HTML file, or a folder for audit_data.html and audit_data.json (default: audit_data.html).
        write_clean: Write the data set without questions that blind baselines solve.
        clean_of: With --write-clean: only remove what this baseline solves; repeatable.
    """
    from medvlm_r1.audit.dataset.audit import audit_data, find_prior_source
    from medvlm_r1.audit.dataset.clean import report_lines
    from medvlm_r1.audit.dataset.clean import write_clean as write
    from medvlm_r1.console import progress_bar, stderr_console
    from medvlm_r1.data.folder import read_folder
    from medvlm_r1.data.importing.registry import open_folder

    if clean_of and write_clean is None:
        raise UsageError("--clean-of requires --write-clean DIR.")
    with (
        stderr_console().status("Blind baselines"),
        open_folder(str(data)) as (folder, left_out),
        open_folder(fit_on or "") as (wish, also_left_out),
    ):
        if write_clean is not None and folder != str(data):
            raise UsageError(f"--write-clean requires a data folder; import {data} with 'medvlm-r1 data import'.")
        samples = read_folder(folder)
        fit = find_prior_source(wish, Path(folder), samples) if fit_on is not None else None
        audit = audit_data(samples, fit)
    clean = None
    if write_clean is not None:
        with progress_bar("Clean set") as advance:
            clean = write(data, write_clean, samples, audit, baselines=clean_of or (), progress=advance)
    record = {
        "data": str(data),
        "left_out": [*left_out, *also_left_out],
        **audit.record(),
        "clean": clean.record() if clean else None,
    }
    lines = report_lines(audit, clean, record["left_out"])
    if out is not None or not as_json:
        from medvlm_r1.report.data_pages import render_data_audit

        out = out or Path(PAGE)
        page = render_data_audit(audit, out if options.is_page(out) else out / PAGE, data=data, clean=clean)
        if page != out:
            (out / FIGURES).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        lines.append(f"Report: {page}")
    options.print_result(record, [*lines, RESEARCH_USE], as_json=as_json)


@audit_app.command("model")
@options.described
def audit_model_command(
    model: options.Model,
    *,
    data: options.Data,
    out: Annotated[Path, typer.Option(metavar="RUN", callback=options.folder_to_write)],
    probes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROBE[,PROBE]",
            autocompletion=options.completion(*PROBES),
            help=f"{', '.join(PROBES)} (default: all).",
        ),
    ] = None,
    limit: options.Limit = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    max_new_tokens: options.NewTokens = 512,
    template: options.Template = "medvlm-r1",
    dtype: options.Dtype = "auto",
    skip_missing: options.SkipMissing = False,
    open_questions: Annotated[bool, typer.Option("--open")] = False,
    evaluation: Annotated[Path | None, typer.Option(metavar="RUN")] = None,
    as_json: options.Json = False,
) -> None:
    """Audit whether answers depend on the image and on the stated reasoning. Re-run to resume.

    Select probes with --probes image,options, or by repeating --probes.

    Example: medvlm-r1 audit model phantom-base --data data/phantom/test --out runs/audit --limit 60

    Options:
        out: Run folder for the answers and audit.json.
        batch_size: Questions per batch, each in all variants (default: 128; for a server, 32 requests).
        open_questions: Audit the open questions instead of those with options.
        evaluation: Reuse the answers of this evaluation; model, data and settings must be the same.
    """
    from medvlm_r1.console import progress_bar

    names = [name for given in probes or () for name in given.split(",") if name]
    if probes and not names:
        raise UsageError(
            f"--probes is {','.join(probes)!r}; wanted any of {', '.join(PROBES)}, or no --probes for all."
        )
    with stop_on_sigterm(out):
        from medvlm_r1.audit.runner import audit_model
        from medvlm_r1.report.html import render_model_audit

        with progress_bar("Answers") as advance:
            record = audit_model(
                model,
                data,
                out,
                probes=names,
                limit=limit,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                template=template,
                dtype=dtype,
                skip_missing=skip_missing,
                open_questions=open_questions,
                evaluation=evaluation,
                progress=advance,
            )
        page = render_model_audit(out)
    lines = [*model_audit_lines(record), f"Results: {out / MODEL_FIGURES}   Report: {page}", RESEARCH_USE]
    options.print_result({**record, "page": str(page)}, lines, as_json=as_json)


def model_audit_lines(record: Mapping[str, Any]) -> list[str]:
    """Format a model audit as lines: one line per verdict, then the counts of failed and unparsed answers."""
    from medvlm_r1.audit.registry import FURTHER, QUESTIONS, answer_word
    from medvlm_r1.audit.runner import counted

    lines = []
    for probe, question in (*QUESTIONS.values(), *FURTHER.items()):
        result = record["probes"].get(probe)
        if result or probe not in FURTHER:
            result = result or {"verdict": "not run", "sentence": "The probe was not selected."}
            verdict, sentence = result["verdict"], result["sentence"]
            lines.append(f"{answer_word(verdict, sentence).upper():<16}{question} {sentence}")
    return [*lines, counted(record)]
