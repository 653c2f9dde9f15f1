"""The command line: verbs only. Every verb imports what it needs when it runs, so that help answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medvlm_r1.cli.audit import audit_app
from medvlm_r1.cli.data import data_app
from medvlm_r1.cli.errors import Interrupted, run_told
from medvlm_r1.cli.export import export_command
from medvlm_r1.cli.options import (
    Data,
    Json,
    Limit,
    Model,
    NewTokens,
    Out,
    SkipMissing,
    Template,
    TemplateName,
    at_home,
    completes,
    page_to_write,
)
from medvlm_r1.cli.serve import serve_command
from medvlm_r1.cli.train import train_app
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.stopping import ends_on_sigterm

_PLANES = ("axial", "coronal", "sagittal")
_WINDOWS = ("brain", "lung", "soft-tissue", "bone", "percentile", "full", "stored")
HELP = f"Vision-language models that reason about radiology images. {RESEARCH_USE}"


# As a newcomer meets them.
_ORDER = (
    *("demo", "data", "train", "eval", "compare", "audit", "report"),
    *("ask", "serve", "export", "env"),
)
# Of the other verbs nothing is kept that would be used again.
_GOES_ON = (*("demo", "eval", "train grpo", "train sft", "audit model"),)
_ANEW = "Interrupted before it was done; the same command again does all of it."


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            verb = ctx.invoked_subcommand if ctx.parent is None else f"{ctx.info_name} {ctx.invoked_subcommand}"
            raise Interrupted(str(interrupt) or ("" if verb in _GOES_ON else _ANEW)) from interrupt


class _Verbs(_Group):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


_GROUPS = {"data": data_app, "train": train_app, "audit": audit_app}
# Flags of typer's own that are not given have no value, and it loads pydantic to check that.
_NOT_GIVEN = dict.fromkeys(("help", "install_completion", "show_completion"), False)
app = typer.Typer(
    cls=_Verbs,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"default_map": {**_NOT_GIVEN, **dict.fromkeys(_GROUPS, _NOT_GIVEN)}},
)
for _name, _group in _GROUPS.items():
    app.add_typer(_group, name=_name, cls=_Group)
app.command("export")(export_command)
app.command("serve")(serve_command)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"medvlm-r1 {version('medvlm-r1')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the trainings.")] = 0,
    as_json: Json = False,
) -> None:
    """The paper's experiment on PhantomVQA: zero-shot, SFT, GRPO; a table and a report. Minutes on a laptop.

    The same command again goes on where it stood.

    Example: medvlm-r1 demo --out runs/demo
    """
    from rich.console import Console

    with ends_on_sigterm(out):
        from medvlm_r1.demo import print_table, run_demo

        results = run_demo(out, seed=seed)
    if as_json:
        print(json.dumps(results))
        return
    console = Console()
    print_table(results, console)
    console.print(f"Report: {out / 'report.html'}   Figures: {out / 'results.json'}", soft_wrap=True)


@app.command("eval")
def evaluate_command(
    model: Model,
    *,
    data: Data,
    out: Out,
    skip_missing: SkipMissing = False,
    limit: Limit = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Questions answered at once; of a server, requests under way.")
    ] = 32,
    max_new_tokens: NewTokens = 512,
    template: TemplateName = Template.medvlm_r1,
    as_json: Json = False,
) -> None:
    """Answer every question of a data folder greedily and score it. The same command again goes on where it stood.

    Example: medvlm-r1 eval phantom-base --data data/phantom/test --out runs/zero-shot
    """
    from medvlm_r1.console import accuracy_lines, progress_bar

    with ends_on_sigterm(out), progress_bar("Answers") as advance:
        from medvlm_r1.evaluation.run import evaluate

        results = evaluate(
            model,
            data,
            out,
            skip_missing=skip_missing,
            limit=limit,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            template=template.value,
            progress=advance,
        )
    if as_json:
        print(json.dumps(results))
        return
    print("\n".join([*accuracy_lines(results), f"Figures: {out / 'results.json'}", RESEARCH_USE]))


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of an evaluation.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another on the same data.")],
    as_json: Json = False,
) -> None:
    """Compare two evaluations item by item: difference with interval, exact test; both count subjects.

    Settings that differ (template, token limit, image size, ...) are listed first. Other images, questions or options
    under the same ids are refused.

    Example: medvlm-r1 compare runs/zero-shot runs/grpo
    """
    from medvlm_r1.console import stderr_console

    with stderr_console().status("Comparing"):
        from medvlm_r1.evaluation.compare import compare as compare_runs
        from medvlm_r1.evaluation.compare import left_out

        result = compare_runs(run_a, run_b)
    if as_json:
        print(json.dumps(result))
        return
    print("\n".join([*(f"Settings differ: {setting}" for setting in result["settings_differ"]), left_out(result)]))
    for name, row in [*result["modalities"].items(), ("all", result["all"])]:
        low, high = row["ci95"]
        print(
            f"{name:<8} n {row['n']:>5}  {row['accuracy_a']['percent']:5.1f} % -> {row['accuracy_b']['percent']:5.1f} %"
            f"  difference {row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
            f"  right in one alone {row['b']} / {row['c']}  {row['test']} p {row['p']:.2g}"
        )
    print(RESEARCH_USE)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of evaluations, trainings or audits.")],
    out: Annotated[Path, typer.Option("--out", callback=page_to_write, help="The HTML file.")] = Path("report.html"),
    items: Annotated[int, typer.Option(min=0, help="Test items shown in full.")] = 12,
    as_json: Json = False,
) -> None:
    """One self-contained HTML file from any number of runs.

    Example: medvlm-r1 report runs/zero-shot runs/grpo --out report.html
    """
    from medvlm_r1.console import stderr_console

    with stderr_console().status("Writing the report"):
        from medvlm_r1.report import load_runs, render_report

        page = render_report(load_runs(runs), out, title="MedVLM-R1 report", summary=RESEARCH_USE, items=items)
    print(json.dumps({"report": str(page)}) if as_json else f"Report: {page}")


@app.command()
def ask(
    model: Model,
    *,
    image: Annotated[Path, typer.Option(help="The picture: PNG, JPEG, TIFF, BMP, DICOM or NIfTI.")],
    question: Annotated[str, typer.Option(help="The question.")],
    option: Annotated[
        list[str] | None,
        typer.Option(help="One answer without its letter; repeat the option. None: an open question."),
    ] = None,
    frame: Annotated[int | None, typer.Option(help="Of a file with several, counted from 0.")] = None,
    plane: Annotated[
        str | None,
        typer.Option(autocompletion=completes(*_PLANES), help="NIfTI: axial, coronal or sagittal."),
    ] = None,
    slice_: Annotated[int | None, typer.Option("--slice", help="NIfTI: across the plane, counted from 0.")] = None,
    window: Annotated[
        str | None,
        typer.Option(
            autocompletion=completes(*_WINDOWS), help=f"{', '.join(_WINDOWS)}, or CENTRE/WIDTH in stored units."
        ),
    ] = None,
    max_new_tokens: NewTokens = 512,
    as_json: Json = False,
) -> None:
    """Ask one question about one image.

    Example: medvlm-r1 ask phantom-base --image ct.png --question "Which organ?" --option liver --option kidney
    Example: medvlm-r1 ask phantom-base --image ct.dcm --window 40/400 --question "What is seen?"
    """
    from medvlm_r1.console import stderr_console
    from medvlm_r1.data.images import View, load_picture
    from medvlm_r1.data.question import question_faults
    from medvlm_r1.errors import UsageError
    from medvlm_r1.models.generate import check_images
    from medvlm_r1.models.load import image_fit
    from medvlm_r1.models.remote import is_server
    from medvlm_r1.serving.medvlm import MedVLM, Question, prepare

    if faults := question_faults(question, option or ()):
        raise UsageError(f"this cannot be asked: {'; '.join(faults)}.")
    picture = load_picture(image, View(frame=frame, plane=plane, slice=slice_, window=window))
    asked = Question(image=picture, question=question, options=option or ())
    # What is wrong with a question is told before a model is loaded.
    prepared = prepare(asked)
    if not is_server(model):
        check_images(0, prepared.item, image_fit(model))
    with stderr_console().status(f"Asking {model}"), MedVLM.load(model, max_new_tokens=max_new_tokens) as medvlm:
        [answer] = medvlm.ask_batch([asked])
    if as_json:
        print(json.dumps(answer.as_record()))
        return
    found = f"{answer.letter}) {answer.option}" if answer.option else answer.answer if not option else None
    print(f"Image:     {answer.image_note}")
    print(f"Reasoning: {answer.reasoning or '(none)'}")
    print(f"Answer:    {found or f'none in the wanted form; it wrote: {answer.text}'}")
    if answer.confidence is not None:
        shares = (f"{name} {share:.1%}".replace("%", " %") for name, share in answer.confidence.items())
        print(f"Sureness:  {', '.join(shares)} (of the model; not how often it is right)")
    print(answer.notice)


@app.command()
def env(as_json: Json = False) -> None:
    """Versions and devices, for a bug report.

    Example: medvlm-r1 env --json
    """
    from medvlm_r1.console import stderr_console
    from medvlm_r1.models.environment import versions

    # torch, which knows the devices, takes seconds to load.
    with stderr_console().status("Looking for devices"):
        found = versions()
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        shown = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else value
        print(f"{name}: {', '.join(shown) if isinstance(shown, list) else shown}")


def main() -> None:
    """Entry point: errors for users are one message, without a traceback."""
    # typer itself prints errors in a frame, which breaks their lines and hides them from `grep`.
    code = run_told(lambda: app(at_home(sys.argv[1:]), prog_name="medvlm-r1", standalone_mode=False))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
