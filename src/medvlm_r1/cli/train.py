"""The `train` commands. As in `cli`, every verb imports what it needs when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_r1.cli.dry_run import Cards, DryRun, LaunchFile, Scales, Tokens
from medvlm_r1.cli.options import Json, Overrides, complete_recipe, find_recipe

train_app = typer.Typer(help="Train a policy by GRPO or SFT.", no_args_is_help=True)


def _train(
    method: str, config: Path, overrides: list[str] | None, plan: dict[str, Any] | None, *, as_json: bool
) -> None:
    from medvlm_r1.console import TrainingProgress, progress_bar
    from medvlm_r1.errors import UsageError
    from medvlm_r1.training.config import load_config

    settings = load_config(find_recipe(config), overrides or [])
    if settings.method != method:
        raise UsageError(f"{config} says method: {settings.method}; wanted {method}, or use `train {settings.method}`.")
    if settings.evaluate_every and settings.data.eval is None:
        raise UsageError(f"{config}: evaluate_every is set, and data.eval names no folder to evaluate on.")
    if plan is not None:
        from medvlm_r1.cli.dry_run import dry_run

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
            from functools import partial

            from medvlm_r1.evaluation.watch import HeldOut
            from medvlm_r1.models.load import image_fit
            from medvlm_r1.training.loop import bound_pixels

            # Without `skip_missing` the training refuses such images before it starts.
            fit = image_fit(settings.model, partial(bound_pixels, settings)) if settings.data.skip_missing else None
            tokens = int(settings.trainer.get("max_completion_length", 512))
            watch = HeldOut(Path(settings.data.eval), template=settings.template, max_new_tokens=tokens, fit=fit)
        model = run(settings, progress=progress, evaluate=watch)
    print(json.dumps({"model": str(model)}) if as_json else f"Model: {model}")


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
    if cards or launch or completion or scales:
        raise UsageError("--card, --launch, --completion-tokens and --scale belong to --dry-run; give that too.")
    return None


Config = Annotated[
    Path,
    typer.Option(
        "--config",
        autocompletion=complete_recipe,
        help="A YAML recipe: a file, or one that comes with the package, such as recipes/phantom.yaml.",
    ),
]


_GRPO = """Reinforcement learning from answers alone. The same command again goes on where it stood.

Example: medvlm-r1 train grpo --config recipes/phantom.yaml trainer.learning_rate=5e-5
Example: medvlm-r1 train grpo --config recipes/paper.yaml --dry-run --card rtx-4090
"""
_SFT = """Imitation of the answer letter alone, the paper's baseline. The same command again goes on where it stood.

Example: medvlm-r1 train sft --config recipes/phantom-sft.yaml
"""


@train_app.command("sft", help=_SFT)
@train_app.command("grpo", help=_GRPO)
def train_command(
    context: typer.Context,
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
    """Train by the method that the verb is named for."""
    plan = _plan(dry_run, card, launch, completion_tokens, as_json, scale)
    _train(str(context.info_name), config, overrides, plan, as_json=as_json)
