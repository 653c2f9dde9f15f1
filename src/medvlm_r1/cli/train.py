"""The `train grpo` and `train sft` commands, with their option `--dry-run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvlm_r1.cli.options import Json, Overrides, complete_recipe, described, find_recipe, print_result
from medvlm_r1.errors import UsageError

if TYPE_CHECKING:
    from medvlm_r1.training.config import RunConfig

train_app = typer.Typer(help="Train a policy with GRPO or SFT.", no_args_is_help=True)

_GRPO = """Train with GRPO: reinforcement learning from answers, without written reasoning. Re-run to resume.

Example: medvlm-r1 train grpo --config recipes/phantom.yaml trainer.learning_rate=5e-5
Example: medvlm-r1 train grpo --config recipes/paper-lora-24gb.yaml --dry-run --memory 24
"""
_SFT = """Train with SFT on the answer letter only, the paper's baseline. Re-run to resume.

Example: medvlm-r1 train sft --config recipes/phantom-sft.yaml
"""


@train_app.command("sft", help=_SFT)
@train_app.command("grpo", help=_GRPO)
@described
def train_command(
    context: typer.Context,
    config: Annotated[Path, typer.Option(autocompletion=complete_recipe)],
    overrides: Overrides = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run")] = False,
    memory: Annotated[float | None, typer.Option(metavar="GIB", min=0.1)] = None,
    cpu: Annotated[bool, typer.Option("--cpu")] = False,
    launch: Path | None = None,
    completion_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    as_json: Json = False,
) -> None:
    """Train with the method in the command name, `grpo` or `sft`. With `--dry-run`, only plan the training.

    Options:
        config: YAML recipe: a file, or one of the package, such as recipes/phantom.yaml.
        dry_run: Train nothing. Print steps, tokens and memory, or why the run is refused.
        memory: Dry run: GiB of each device. Refuse a run that does not fit.
        cpu: Dry run: plan for the CPU and the memory of this machine.
        launch: Dry run: accelerate file, such as recipes/accelerate/zero3.yaml.
        completion_tokens: Dry run: tokens per completion (default: the limit).
    """
    from medvlm_r1.training.config import load_config

    method = str(context.info_name)
    if not dry_run and (memory or cpu or launch or completion_tokens):
        raise UsageError("--memory, --cpu, --launch and --completion-tokens require --dry-run.")
    settings = load_config(find_recipe(config), overrides or [])
    if settings.method != method:
        raise UsageError(f"{config} has method: {settings.method}. Use `train {settings.method}`, or change it.")
    if settings.evaluate_every and settings.data.eval is None:
        raise UsageError(f"{config}: evaluate_every is set, but data.eval names no folder to evaluate on.")
    if dry_run:
        _dry_run(settings, memory, launch, completion_tokens, cpu=cpu, as_json=as_json)
    else:
        _train(settings, as_json=as_json)


def _train(settings: RunConfig, *, as_json: bool) -> None:
    from medvlm_r1.console import TrainingProgress, progress_bar

    with progress_bar(f"{settings.method.upper()} training") as advance:
        progress = TrainingProgress(advance)
        if settings.method == "grpo":
            from medvlm_r1.training.grpo import train_grpo as run
        else:
            from medvlm_r1.training.sft import train_sft as run
        watch = None
        if settings.evaluate_every and settings.data.eval:
            from functools import partial

            from medvlm_r1.evaluation.watch import HeldOut
            from medvlm_r1.models.load import image_fit
            from medvlm_r1.training.loop import bound_pixels

            # Without `skip_missing`, training refuses unusable images before it starts.
            fit = image_fit(settings.model, partial(bound_pixels, settings)) if settings.data.skip_missing else None
            tokens = int(settings.trainer.get("max_completion_length", 512))
            watch = HeldOut(Path(settings.data.eval), template=settings.template, max_new_tokens=tokens, fit=fit)
        model = run(settings, progress=progress, evaluate=watch)
    print_result({"model": str(model)}, [f"Model: {model}"], as_json=as_json)


def _dry_run(
    settings: RunConfig, memory: float | None, launch: Path | None, completion: int | None, *, cpu: bool, as_json: bool
) -> None:
    from medvlm_r1.console import progress_bar
    from medvlm_r1.training.dry_run.plan import make_plan, refuse_memory, report_lines
    from medvlm_r1.training.dry_run.settings import Launch, read_launch

    devices = read_launch(find_recipe(launch)) if launch else Launch()
    with progress_bar("Prompts measured") as advance:
        plan = make_plan(
            settings,
            launch=devices,
            cpu=cpu,
            device=memory * 2**30 if memory else None,
            completion=completion,
            progress=advance,
        )
    print_result(plan.record(), report_lines(plan), as_json=as_json)
    refuse_memory(plan)
