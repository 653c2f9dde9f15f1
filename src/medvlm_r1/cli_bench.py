"""The `bench` commands. As in `cli`, every verb imports what it needs when it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from medvlm_r1.cli_options import Json

bench_app = typer.Typer(help="Measurements side by side with plain TRL.", no_args_is_help=True)


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
            help="demo: the embedded base, 2 minutes. medium: 8 + 8 layers and 448-pixel images, 10 minutes. "
            "paper: Qwen2-VL-2B's shape, 24 GB and hours without a GPU."
        ),
    ] = Shape.demo,
    rounds: Annotated[int | None, typer.Option(min=1, help="Timed steps of each side.")] = None,
    as_json: Json = False,
) -> None:
    """A GRPO step of plain TRL, at its fastest micro-batch, against this project's: times, memory, differences.

    Example: medvlm-r1 bench grpo --preset medium
    """
    from medvlm_r1.bench.grpo import bench_grpo
    from medvlm_r1.console import progress_bar

    with progress_bar("Steps") as advance:
        found = bench_grpo(preset.value, rounds=rounds, progress=advance)
    print(json.dumps(found) if as_json else "\n".join(_lines(found)))


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
    return [
        *lines,
        f"TRL by rows of a forward pass: {tried}",
        f"matrix-product peak {machine['matrix_peak'] / 1e9:.0f} GFLOP/s; our update reaches "
        f"{100 * found['peak_share']:.0f} % of it",
        f"largest difference of a log-probability {found['logp_max_diff']:.1e}, relative difference of the gradient "
        f"{found['grad_rel_diff']:.1e}",
    ]
