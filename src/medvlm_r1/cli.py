"""The command line: verbs only. Every verb imports what it needs when it runs, so that help answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medvlm_r1.cli_audit import audit_app
from medvlm_r1.cli_bench import bench_app
from medvlm_r1.cli_data import data_app
from medvlm_r1.cli_export import export_command
from medvlm_r1.cli_options import Json, Out, Overrides, Template, TemplateName
from medvlm_r1.cli_plan import Cards, DryRun, LaunchFile, Scales, Tokens
from medvlm_r1.cli_serve import serve_command
from medvlm_r1.errors import RESEARCH_USE, UserError

HELP = f"Vision-language models that reason about radiology images. {RESEARCH_USE}"


class _Interrupted(Exception):
    """Ctrl-C with what it says; typer keeps a KeyboardInterrupt to itself and says nothing."""


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise _Interrupted(str(interrupt)) from interrupt


app = typer.Typer(cls=_Verbs, help=HELP, no_args_is_help=True, pretty_exceptions_enable=False)
train_app = typer.Typer(help="Train a policy by GRPO or SFT.", no_args_is_help=True)
phantom_app = typer.Typer(help="PhantomVQA's embedded base model.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(phantom_app, name="phantom")
app.add_typer(audit_app, name="audit")
app.add_typer(bench_app, name="bench")
app.command("export")(export_command)
app.command("serve")(serve_command)


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the trainings.")] = 0,
    as_json: Json = False,
) -> None:
    """The paper's experiment on PhantomVQA: zero-shot, SFT, GRPO; a table and a report. Minutes on a laptop."""
    from rich.console import Console

    from medvlm_r1.demo import print_table, run_demo

    results = run_demo(out, seed=seed)
    if as_json:
        print(json.dumps(results))
        return
    console = Console()
    print_table(results, console)
    console.print(f"Report: {out / 'report.html'}   Figures: {out / 'results.json'}", soft_wrap=True)


def _train(method: str, config: Path, overrides: list[str] | None, plan: dict[str, Any] | None) -> None:
    from medvlm_r1.console import TrainingProgress, progress_bar
    from medvlm_r1.errors import UsageError
    from medvlm_r1.training.config import load_config

    settings = load_config(config, overrides or [])
    if settings.method != method:
        raise UsageError(f"{config} says method: {settings.method}; wanted {method}, or use `train {settings.method}`.")
    if plan is not None:
        from medvlm_r1.cli_plan import dry_run

        dry_run(settings, **plan)
        return
    with progress_bar(f"{method.upper()} training") as advance:
        progress = TrainingProgress(advance)
        if method == "grpo":
            from medvlm_r1.training.grpo import train_grpo as run
        else:
            from medvlm_r1.training.sft import train_sft as run
        watch = None
        if settings.evaluate_every and settings.data.eval:
            from medvlm_r1.evaluation.watch import HeldOut

            tokens = int(settings.trainer.get("max_completion_length", 512))
            watch = HeldOut(Path(settings.data.eval), template=settings.template, max_new_tokens=tokens)
        model = run(settings, progress=progress, evaluate=watch)
    print(f"Model: {model}")


def _plan(
    dry_run: bool,
    cards: list[str] | None,
    launch: Path | None,
    completion: int | None,
    as_json: bool,
    scales: list[int] | None = None,
) -> dict[str, Any] | None:
    from medvlm_r1.errors import UsageError

    if dry_run:
        given = {"cards": cards or [], "launch": launch, "completion": completion, "as_json": as_json}
        return {**given, "scales": scales or []}
    if cards or launch or completion or as_json or scales:
        raise UsageError(
            "--card, --launch, --completion-tokens, --scale and --json belong to --dry-run; give that too."
        )
    return None


Config = Annotated[Path, typer.Option("--config", help="A YAML recipe, such as recipes/phantom.yaml.")]


@train_app.command("grpo")
def train_grpo_command(
    config: Config,
    overrides: Overrides = None,
    *,
    dry_run: DryRun = False,
    card: Cards = None,
    launch: LaunchFile = None,
    completion_tokens: Tokens = None,
    scale: Scales = None,
    as_json: Json = False,
) -> None:
    """Reinforcement learning from answers alone. The same command again goes on where it stood.

    Example: medvlm-r1 train grpo --config recipes/phantom.yaml trainer.learning_rate=5e-5
    Example: medvlm-r1 train grpo --config recipes/paper.yaml --dry-run --card rtx-4090
    """
    _train("grpo", config, overrides, _plan(dry_run, card, launch, completion_tokens, as_json, scale))


@train_app.command("sft")
def train_sft_command(
    config: Config,
    overrides: Overrides = None,
    *,
    dry_run: DryRun = False,
    card: Cards = None,
    launch: LaunchFile = None,
    completion_tokens: Tokens = None,
    as_json: Json = False,
) -> None:
    """Imitation of the answer letter alone, the paper's baseline. The same command again goes on where it stood."""
    _train("sft", config, overrides, _plan(dry_run, card, launch, completion_tokens, as_json))


@app.command("eval")
def evaluate_command(
    model: Annotated[
        str, typer.Argument(help="A folder, a hub id, phantom-base, or openai:URL#NAME for a model on a server.")
    ],
    *,
    data: Annotated[Path, typer.Option(help="Data folder.")],
    out: Out,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out rows whose images are not there.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions answered at once; of a server, requests under way.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(help="Longer answers are cut off, and counted.")] = 512,
    template: TemplateName = Template.medvlm_r1,
    as_json: Json = False,
) -> None:
    """Answer every question of a data folder greedily and score it. The same command again goes on where it stood.

    Example: medvlm-r1 eval phantom-base --data data/phantom/test --out runs/zero-shot
    """
    from medvlm_r1.console import accuracy_lines, progress_bar
    from medvlm_r1.evaluation.run import evaluate

    with progress_bar("Answers") as advance:
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
    run_a: Annotated[Path, typer.Argument(help="Folder of an evaluation.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of another on the same data.")],
    as_json: Json = False,
) -> None:
    """Compare two evaluations item by item: difference with interval, exact McNemar."""
    from medvlm_r1.evaluation.compare import compare as compare_runs

    result = compare_runs(run_a, run_b)
    if as_json:
        print(json.dumps(result))
        return
    for name, row in [*result["modalities"].items(), ("all", result["all"])]:
        low, high = row["ci95"]
        print(
            f"{name:<8} n {row['n']:>5}  {row['accuracy_a']['percent']:5.1f} % -> {row['accuracy_b']['percent']:5.1f} %"
            f"  difference {row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
            f"  right in one alone {row['b']} / {row['c']}  McNemar p {row['p']:.2g}"
        )
    print(RESEARCH_USE)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluations, trainings or audits.")],
    out: Annotated[Path, typer.Option("--out", help="The HTML file.")] = Path("report.html"),
    items: Annotated[int, typer.Option(help="Test items shown in full.")] = 12,
) -> None:
    """One self-contained HTML file from any number of runs."""
    from medvlm_r1.report import load_runs, render_report

    page = render_report(load_runs(runs), out, title="MedVLM-R1 report", summary=RESEARCH_USE, items=items)
    print(f"Report: {page}")


@app.command()
def ask(
    model: Annotated[
        str, typer.Argument(help="A folder, a hub id, phantom-base, or openai:URL#NAME for a model on a server.")
    ],
    *,
    image: Annotated[Path, typer.Option(help="The picture: PNG, JPEG, TIFF, BMP, DICOM or NIfTI.")],
    question: Annotated[str, typer.Option(help="The question.")],
    option: Annotated[
        list[str] | None, typer.Option(help="An answer to choose from; give it several times. None: an open question.")
    ] = None,
    frame: Annotated[int | None, typer.Option(help="Of a file with several, counted from 0.")] = None,
    plane: Annotated[str | None, typer.Option(help="NIfTI: axial, coronal or sagittal.")] = None,
    slice_: Annotated[int | None, typer.Option("--slice", help="NIfTI: across the plane, counted from 0.")] = None,
    window: Annotated[
        str | None,
        typer.Option(help="brain, lung, soft-tissue, bone, percentile, full, stored, or CENTRE/WIDTH."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 512,
    as_json: Json = False,
) -> None:
    """Ask one question about one image.

    Example: medvlm-r1 ask phantom-base --image ct.dcm --window 40/400 --question "..." --option A --option B
    """
    from medvlm_r1.data.images import View, load_picture
    from medvlm_r1.serving.medvlm import MedVLM, Question, prepare

    picture = load_picture(image, View(frame=frame, plane=plane, slice=slice_, window=window))
    asked = Question(image=picture, question=question, options=option or ())
    # What is wrong with a question is told before a model is loaded.
    prepare(asked)
    with MedVLM.load(model, max_new_tokens=max_new_tokens) as medvlm:
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
    """Versions and devices, for a bug report."""
    from medvlm_r1.training.run_folder import versions

    found = versions()
    print(json.dumps(found) if as_json else "\n".join(f"{name}: {value}" for name, value in found.items()))


@phantom_app.command()
def pretrain(
    out: Out = Path("runs/phantom-base"),
    work: Annotated[Path, typer.Option(help="Folder of the stages; the same command again goes on from there.")] = Path(
        "runs/pretrain"
    ),
    seed: Annotated[int, typer.Option(help="Seed of weights, subjects and texts.")] = 0,
) -> None:
    """Build the embedded base model from nothing, in five stages: 84 minutes on 2 cores."""
    from medvlm_r1.console import progress_bar
    from medvlm_r1.training.base.pretrain import pretrain as build

    with progress_bar("Base model") as advance:

        def show(stage: str, step: int, steps: int, figures: dict[str, float]) -> None:
            shown = "".join(f"  {name} {number:.2f}" for name, number in figures.items() if name != "seconds")
            advance(step, steps, note=stage + shown)

        build(out, work, seed=seed, report=show)
    print(f"Model: {out}")


def main() -> None:
    """Entry point: errors for users are one message, without a traceback."""
    try:
        app()
    except UserError as error:
        print(f"medvlm-r1: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        from medvlm_r1.disk import refusal

        said = refusal(error)
        if said is None:
            raise
        print(f"medvlm-r1: {said}; the same command goes on from there.", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, _Interrupted) as interrupt:
        said = str(interrupt) or "Interrupted. What is finished is kept; the same command again goes on from there."
        print(f"\nmedvlm-r1: {said}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
