"""`train ... --dry-run`: what a training would do and cost, as tables or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvlm_r1.cli.options import completes, find_recipe

if TYPE_CHECKING:
    from rich.table import Table

    from medvlm_r1.training.config import RunConfig
    from medvlm_r1.training.dry_run.plan import Plan
    from medvlm_r1.training.dry_run.scale import Scaled

CARD_NAMES = ("a100-80gb", "h100-80gb", "rtx-4090", "cpu")

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Train nothing: print steps, tokens, operations, memory and time.")
]
Cards = Annotated[
    list[str] | None,
    typer.Option(
        "--card",
        autocompletion=completes(*CARD_NAMES),
        help=f"Dry run: plan for this card or this cpu ({', '.join(CARD_NAMES)}); may be repeated.",
    ),
]
LaunchFile = Annotated[
    Path | None, typer.Option("--launch", help="Dry run: the accelerate file, such as recipes/accelerate/zero3.yaml.")
]
Tokens = Annotated[
    int | None, typer.Option("--completion-tokens", min=1, help="Dry run: tokens of a completion; else its limit.")
]
Scales = Annotated[
    list[int] | None,
    typer.Option("--scale", min=1, help="Dry run: also the step on so many cards, such as 1, 8, 64; may be repeated."),
]


def dry_run(
    config: RunConfig,
    *,
    cards: Sequence[str],
    launch: Path | None,
    completion: int | None,
    scales: Sequence[int],
    as_json: bool,
) -> None:
    """Print the plan of a configuration.

    Raises:
        UserError: The run cannot be done (see `make_plan`, `refuse_memory`).
    """
    from medvlm_r1.console import progress_bar
    from medvlm_r1.training.dry_run.cards import card_named
    from medvlm_r1.training.dry_run.launch import Launch, read_launch
    from medvlm_r1.training.dry_run.plan import make_plan, refuse_memory
    from medvlm_r1.training.dry_run.scale import scale, scale_record

    chosen = [card_named(name) for name in cards]
    devices = read_launch(find_recipe(launch)) if launch else Launch()
    with progress_bar("Prompts measured") as advance:
        plan = make_plan(config, launch=devices, cards=chosen, completion=completion, progress=advance)
    steps = {card.name: scale(plan, card, scales) for card in plan.cards} if scales else {}
    if as_json:
        record = plan.record()
        print(json.dumps(record | {"scale": {name: scale_record(found) for name, found in steps.items()}}))
    else:
        print_plan(plan)
        print_scale(plan, steps)
    refuse_memory(plan)


def print_plan(plan: Plan) -> None:
    """The plan as text and tables."""
    from rich.console import Console

    from medvlm_r1.console import print_whole

    console = Console()
    for line in _lines(plan):
        console.print(line, soft_wrap=True, highlight=False)
    for table in (_operations(plan), _memory(plan), _cards(plan)):
        print_whole(console, table)
    for line in _small_print(plan):
        console.print(line, soft_wrap=True, highlight=False)


def _lines(plan: Plan) -> list[str]:
    record, batch = plan.record(), plan.run.batch
    counted = record["prompts"]
    sharded = "" if plan.placement.sharding == "none" else f", sharded by {plan.placement.sharding}"

    def spread(values: dict[str, float]) -> str:
        return f"mean {values['mean']:,.0f}, median {values['median']:,}, 95 % {values['p95']:,}, max {values['max']:,}"

    lines = [
        f"Model         {plan.config.model}: {plan.shape.family}, {plan.shape.parameters.total:,} parameters, "
        f"{plan.shape.parameters.trained:,} trained",
        f"Devices       {batch.processes}{sharded}",
        f"Steps         {batch.steps:,} of {batch.step_prompts:g} prompts"
        + (f" x {batch.group} completions" if plan.run.generates else "")
        + f" ({len(plan.prompts):,} prompts, {batch.epochs_done:.3g} epochs)",
        f"Prompt tokens {spread(counted['tokens'])}",
        f"Image tokens  {spread(counted['image_tokens'])} in a prompt",
        f"Tokens        {batch.step_prompts * (plan.prompts.mean + batch.group * plan.run.completion):,.0f} in a step, "
        "each prompt once",
    ]
    if plan.run.generates:
        lines.append(f"Prompts       computed once per {'prompt (sharing on)' if plan.shares else 'completion'}")
    return lines


def _columns(plan: Plan) -> dict[str, bool]:
    return {"sharing": True, "without": False} if plan.run.generates else {"plain": False}


def _operations(plan: Plan) -> Table:
    from rich.table import Table

    from medvlm_r1.training.dry_run.work import PARTS, total

    unit, name = (1e12, "TFLOP") if total(plan.work(shared=False)) >= 1e11 else (1e9, "GFLOP")
    table = Table(title=f"Operations of a step on a device ({name})", title_justify="left")
    for name in ("", "", *PARTS, "sum"):
        table.add_column(name, justify="left" if not name else "right")
    for column, shared in _columns(plan).items():
        work = plan.work(shared=shared)
        for number, (phase, parts) in enumerate(work.items()):
            cells = [f"{parts[part] / unit:,.2f}" for part in PARTS]
            table.add_row(column if number == 0 else "", phase, *cells, f"{sum(parts.values()) / unit:,.2f}")
        sums = [f"{sum(parts[part] for parts in work.values()) / unit:,.2f}" for part in PARTS]
        table.add_row("", "all", *sums, f"{total(work) / unit:,.2f}", end_section=True)
    return table


def _memory(plan: Plan) -> Table:
    from rich.table import Table

    table = Table(title="Memory of a device (GiB, estimated)", title_justify="left")
    table.add_column("")
    sides = {column: plan.memory(shared=shared) for column, shared in _columns(plan).items()}
    for column in sides:
        table.add_column(column, justify="right")
    for part in next(iter(sides.values())):
        table.add_row(part, *(f"{side[part] / 2**30:.2f}" for side in sides.values()))
    table.add_section()
    peaks = (plan.peak(None, shared=shared) for shared in _columns(plan).values())
    table.add_row("at the fullest time", *(f"{size / 2**30:.2f}" for size in peaks))
    return table


def _cards(plan: Plan) -> Table:
    from rich.table import Table

    table = Table(title="Cards (time estimated)", title_justify="left")
    for name in ("card", "prompts", "memory GiB", "fits", "step s", "writing s", "run h"):
        table.add_column(name, justify="left" if name in ("card", "prompts", "fits") else "right")
    for card in plan.cards:
        for column, shared in _columns(plan).items():
            times = plan.seconds(card, shared=shared)
            table.add_row(
                card.label,
                column,
                f"{plan.peak(card, shared=shared) / 2**30:.1f} of {card.memory / 2**30:.0f}",
                "yes" if plan.fits(card, shared=shared) else "no",
                *(("-", "-", "-") if times is None else _durations(times, plan.run.batch.steps)),
            )
    return table


def print_scale(plan: Plan, steps: Mapping[str, Sequence[Scaled]]) -> None:
    """The step on several numbers of cards, a table for each kind of card."""
    from rich.console import Console
    from rich.table import Table

    from medvlm_r1.console import print_whole
    from medvlm_r1.training.dry_run.cards import LINK_SHARE, MACHINE_CARDS, NETWORK

    console = Console()
    for card in plan.cards:
        if not steps.get(card.name):
            continue
        table = Table(title=f"A step on more cards: {card.label} (computed, not measured)", title_justify="left")
        for name in ("cards", "step", "prompts", "rows x passes"):
            table.add_column(name, justify="left" if name == "step" else "right")
        for name in ("writing s", "update s", "sending s", "step s", "prompts/s", "GB sent", "GB synced"):
            table.add_column(name, justify="right")
        way = ""
        for one in steps[card.name]:
            if way and one.way != way:
                table.add_section()
            way = one.way
            seconds = (one.generation, one.update, one.sending, one.seconds, one.rate)
            table.add_row(
                str(one.cards), one.way, f"{one.prompts:g}", f"{one.rows} x {one.passes}",
                *(f"{value:.3g}" for value in seconds),
                f"{one.gradient_bytes / 1e9:.3g}", f"{one.sync_bytes / 1e9:.3g}",
            )  # fmt: skip
        print_whole(console, table)
    if steps:
        console.print(
            "larger: n times the prompts, every card works as one alone. same: the step's prompts dealt out; numbers "
            "of cards its rows do not divide among are left out. Writing includes the prompts' own pass. Sending "
            f"assumes {LINK_SHARE:.0%} of the links inside a machine of {MACHINE_CARDS} cards, and of "
            f"{NETWORK / 1e9:g} GB/s a card between machines, and that none of it is hidden behind the update.",
            soft_wrap=True,
            highlight=False,
        )


def _durations(times: dict[str, float], steps: int) -> tuple[str, str, str]:
    return f"{times['step']:.3g}", f"{times['writing']:.3g}", f"{times['step'] * steps / 3600:.2g}"


def _small_print(plan: Plan) -> list[str]:
    from medvlm_r1.training.dry_run.cards import BANDWIDTH_SHARE, MATRIX_SHARE, TOKEN_SECONDS

    return [
        f"Time assumes {MATRIX_SHARE:.0%} of the vendor's dense bf16 peak and, while completions are written, "
        f"{BANDWIDTH_SHARE:.0%} of the bandwidth, or {TOKEN_SECONDS * 1000:.0f} ms a token in transformers' loop if "
        "that is slower (vLLM has none). These are assumptions, never measured on these cards. Left out: communication "
        "between devices, image decoding, rewards.",
        "Parameters, tokens and operations are counted; memory is an estimate (activations for the longest prompt with "
        f"full completions, {plan.memory(shared=plan.shares)['runtime'] / 2**30:.2g} GiB for libraries and the like).",
        *plan.notes,
    ]
