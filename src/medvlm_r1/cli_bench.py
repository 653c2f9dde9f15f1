"""The `bench` commands. As in `cli`, every verb imports what it needs when it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_r1.cli_options import Json, Overrides, OwnModel, complete_recipe, find_recipe, folder_to_write
from medvlm_r1.cli_plan import Cards, Tokens

bench_app = typer.Typer(help="Measurements: side by side with plain TRL, and of the audit.", no_args_is_help=True)

Recipe = Annotated[Path, typer.Option("--config", autocompletion=complete_recipe, help="A GRPO recipe.")]


class Shape(StrEnum):
    """Presets of `bench grpo`."""

    demo = "demo"
    medium = "medium"
    paper = "paper"


@bench_app.command("grpo")
def bench_grpo_command(
    preset: Annotated[
        Shape,
        typer.Option(
            help="demo: the embedded base, 2 minutes. medium: 8 + 8 layers and 448-pixel images, 15 minutes. "
            "paper: Qwen2-VL-2B's shape, 24 GB and half an hour without a GPU."
        ),
    ] = Shape.demo,
    rounds: Annotated[int | None, typer.Option(min=1, help="Timed steps of each side.")] = None,
    as_json: Json = False,
) -> None:
    """A GRPO step of plain TRL, at its fastest micro-batch, against this project's: times, memory, differences.

    Example: medvlm-r1 bench grpo --preset medium
    """
    from medvlm_r1.console import progress_bar

    with progress_bar("Steps") as advance:
        from medvlm_r1.bench.grpo import bench_grpo

        found = bench_grpo(preset.value, rounds=rounds, progress=advance)
    print(json.dumps(found) if as_json else "\n".join(_lines(found)))


@bench_app.command("step")
def bench_step_command(
    config: Recipe = Path("recipes/paper-lora-24gb.yaml"),
    overrides: Overrides = None,
    *,
    own: Annotated[
        bool,
        typer.Option(
            "--own",
            help="The recipe's own model and data. Without it: random weights in the shape of Qwen2-VL-2B "
            "(4.4 GB on disk while it runs) and one made-up question.",
        ),
    ] = False,
    pixels: Annotated[int, typer.Option(min=28, help="Side of the made-up image.")] = 384,
    completion_tokens: Annotated[int, typer.Option(min=1, help="Tokens of every completion, without --own.")] = 16,
    as_json: Json = False,
) -> None:
    """One step of a recipe, measured, beside the memory that `train grpo --dry-run` estimates for it.

    Example: medvlm-r1 bench step --config recipes/paper-lora-24gb.yaml --json
    """
    from medvlm_r1.bench.presets import PRESETS
    from medvlm_r1.console import progress_bar
    from medvlm_r1.training.config import load_config

    # What is wrong with the recipe is told before gigabytes of stand-in weights are written.
    load_config(find_recipe(config), overrides or [])
    with progress_bar("Measuring") as advance:
        from medvlm_r1.bench.step import bench_step, step_lines

        found = bench_step(
            find_recipe(config),
            overrides or [],
            stand_ins=None if own else PRESETS["paper"],
            pixels=pixels,
            completion=completion_tokens,
            progress=advance,
        )
    print(json.dumps(found) if as_json else "\n".join(step_lines(found)))


@bench_app.command("scale")
def bench_scale_command(
    config: Recipe = Path("recipes/paper.yaml"),
    overrides: Overrides = None,
    *,
    card: Cards = None,
    cards: Annotated[list[int] | None, typer.Option("--cards", min=1, help="Numbers of cards: 1, 8 and 64.")] = None,
    pixels: Annotated[int, typer.Option(min=28, help="Side of the made-up images.")] = 384,
    completion_tokens: Tokens = None,
    as_json: Json = False,
) -> None:
    """A recipe's dry run on 1, 8 and 64 cards, without its model and data. Computed; nothing is run.

    Qwen2-VL-2B's shape and made-up questions stand in for them.

    Example: medvlm-r1 bench scale --card a100-80gb --completion-tokens 150
    """
    from medvlm_r1.cli_plan import print_plan, print_scale
    from medvlm_r1.console import progress_bar
    from medvlm_r1.training.plan.cards import card_named
    from medvlm_r1.training.plan.scale import COUNTS, scale, scale_record

    with progress_bar("Prompts measured") as advance:
        from medvlm_r1.bench.step import plan_of_stand_ins

        plan = plan_of_stand_ins(
            find_recipe(config),
            overrides or [],
            pixels=pixels,
            completion=completion_tokens,
            cards=[card_named(name) for name in card or ()],
            progress=advance,
        )
    steps = {one.name: scale(plan, one, cards or COUNTS) for one in plan.cards}
    if as_json:
        print(json.dumps(plan.record() | {"scale": {name: scale_record(found) for name, found in steps.items()}}))
    else:
        print_plan(plan)
        print_scale(plan, steps)


@bench_app.command("audit")
def bench_audit_command(
    items: Annotated[
        int, typer.Option(min=3, help="PhantomVQA questions a seed, divided evenly between the modalities.")
    ] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Sets of questions.")] = 5,
    shortcut: Annotated[
        bool, typer.Option("--shortcut", help="Questions whose options give the answers away.")
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="A checkpoint to audit beside them; may be given several times."),
    ] = None,
    trained: Annotated[
        Path | None,
        typer.Option(
            callback=folder_to_write,
            help="Train a model to ignore the image, in this folder, and audit it too; kept for the next time.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """The audit on models whose faults are known: do its verdicts tell them from one that tells the truth?

    Example: medvlm-r1 bench audit --items 60 --seeds 1 --model base=phantom-base
    """
    from medvlm_r1.console import progress_bar
    from medvlm_r1.errors import RESEARCH_USE, UsageError

    models: dict[str, str] = {}
    for given in model or ():
        name, equals, folder = given.partition("=")
        if not (name and equals and folder) or name in models:
            raise UsageError(f"--model {given!r}: wanted NAME=FOLDER, each name once")
        models[name] = folder
    with progress_bar("Items") as advance:
        from medvlm_r1.bench.audit import audit_lines, bench_audit

        found = bench_audit(
            items=items, seeds=seeds, shortcut=shortcut, models=models, trained=trained, progress=advance
        )
    print(json.dumps(found) if as_json else "\n".join([*audit_lines(found), RESEARCH_USE]))


@bench_app.command("audit-cost")
def bench_audit_cost_command(
    model: OwnModel = "phantom-base",
    items: Annotated[int, typer.Option(min=1, help="PhantomVQA questions.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, help="Timed repetitions.")] = 3,
    as_json: Json = False,
) -> None:
    """How many plain evaluations does the full audit of a model cost, on the same questions?

    Example: medvlm-r1 bench audit-cost phantom-base --items 60
    """
    from medvlm_r1.console import progress_bar

    with progress_bar("Rounds") as advance:
        from medvlm_r1.bench.audit_cost import audit_cost, cost_lines

        found = audit_cost(model, items=items, rounds=rounds, progress=advance)
    print(json.dumps(found) if as_json else "\n".join(cost_lines(found)))


@bench_app.command("grounded")
def bench_grounded_command(
    out: Annotated[
        Path,
        typer.Option(callback=folder_to_write, help="Folder of data and runs; given again, it goes on where it stood."),
    ] = Path("runs/bench-grounded"),
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 3,
    as_json: Json = False,
) -> None:
    """Rewards on questions that give their answers away: plain accuracy against `grounded`, on clean questions after.

    Example: medvlm-r1 bench grounded --seeds 1
    """
    from medvlm_r1.bench.grounded import bench_grounded, grounded_lines
    from medvlm_r1.console import progress_bar

    found = bench_grounded(out, seeds=seeds, bar=progress_bar)
    print(json.dumps(found) if as_json else "\n".join(grounded_lines(found)))


@bench_app.command("serve")
def bench_serve_command(
    model: OwnModel = "phantom-base",
    *,
    clients: Annotated[int, typer.Option(min=1, help="Parallel clients.")] = 32,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of each load: of one client, then of all.")] = 60.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 512,
    as_json: Json = False,
) -> None:
    """A server of its own under load: throughput of many clients against one, mixed-up replies, memory.

    Example: medvlm-r1 bench serve --clients 32
    """
    from medvlm_r1.console import progress_bar

    with progress_bar("Loads") as advance:
        from medvlm_r1.bench.serve import bench_serve, serve_lines

        found = bench_serve(model, clients=clients, seconds=seconds, max_new_tokens=max_new_tokens, progress=advance)
    print(json.dumps(found) if as_json else "\n".join(serve_lines(found)))


@bench_app.command("results")
def bench_results_command(
    out: Annotated[
        Path,
        typer.Option(
            callback=folder_to_write, help="Folder of everything measured; given again, it goes on where it stood."
        ),
    ] = Path("runs/results"),
    *,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]",
            help="demo, shortcut, audit, or cost (grpo-demo, grpo-medium, audit-cost, serve, step); all by default.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Of the trainings of demo, and of the questions of audit; shortcut takes 3 at most."),
    ] = 5,
    page: Annotated[
        Path | None,
        typer.Option(
            callback=folder_to_write, help="Folder of results.md and results.json; the one of --out by default."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """The results page: every table of ours, measured over seeds, with intervals and commands. Hours for all of it.

    The parts of cost are timed and want the machine to themselves. Parts measured before are shown too.

    Example: medvlm-r1 bench results --parts demo,audit --out runs/results
    """
    from medvlm_r1.console import progress_bar, stderr_console
    from medvlm_r1.demo import run_demo
    from medvlm_r1.errors import RESEARCH_USE

    with stderr_console().status("Loading"):
        from medvlm_r1.bench.results import PAGE, bench_results

    found = bench_results(
        out,
        run_demo=lambda folder, seed: run_demo(folder, seed=seed),
        bar=progress_bar,
        parts=parts or (),
        seeds=seeds,
        page=page,
    )
    if as_json:
        print(json.dumps(found))
        return
    for name, record in found["parts"].items():
        print(f"{name:<12} {'not run' if record is None else 'measured'}")
    print(f"Page: {(page or out) / PAGE}\n{RESEARCH_USE}")


def _lines(found: Mapping[str, Any]) -> list[str]:
    trl, ours, machine = found["sides"]["trl"], found["sides"]["ours"], found["machine"]
    lines = [
        f"{found['preset']}: {found['about']}. {found['rounds']} rounds on {machine['threads']} threads, torch "
        f"{machine['torch']}, transformers {machine['transformers']}, TRL {machine['trl']}.",
        f"{'':<34}{'TRL':>10}{'ours':>10}{'ratio':>9}",
    ]

    def row(name: str, theirs: float, mine: float, form: str = ".2f") -> None:
        ratio = f"{theirs / mine:8.2f}x" if mine else f"{'-':>9}"
        lines.append(f"{name:<34}{theirs:>10{form}}{mine:>10{form}}{ratio}")

    row("rows of a forward pass", trl["micro_batch"], ours["micro_batch"], "d")
    for part in ("generation", "update", "step"):
        row(f"{part}, seconds", trl[part], ours[part])
    row("peak memory, GB", trl["memory"] / 1e9, ours["memory"] / 1e9)
    for part in ("generation", "update"):
        row(f"tokens a prompt, {part}", trl["tokens_per_prompt"][part], ours["tokens_per_prompt"][part], ".0f")
        row(f"tower passes a prompt, {part}", trl["images_per_prompt"][part], ours["images_per_prompt"][part], ".1f")
        row(f"GFLOP, {part}", trl["operations"][part] / 1e9, ours["operations"][part] / 1e9, ".1f")
    tried = ", ".join(
        f"{micro}: {figures['step']:.2f} s and {figures['memory'] / 1e9:.2f} GB"
        for micro, figures in found["tried"].items()
    )
    tried += "".join(f", {micro}: out of memory" for micro in found["out_of_memory"])
    alone = [] if found["side_by_side"] else ["one process at a time: the memory does not hold both"]
    return [
        *lines,
        *alone,
        f"TRL by rows of a forward pass: {tried}",
        f"matrix-product peak {machine['matrix_peak'] / 1e9:.0f} GFLOP/s; our update reaches "
        f"{100 * found['peak_share']:.0f} % of it",
        f"largest difference of a log-probability {found['logp_max_diff']:.1e}, relative difference of the gradient "
        f"{found['grad_rel_diff']:.1e}",
    ]
