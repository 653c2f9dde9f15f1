"""`python -m benchmarks.grpo`: a GRPO step of plain `trl.GRPOTrainer` against `SharedPromptTrainer`.

Both sides have the same weights, prompts, seed and completions, and take turns, each in a process of its own. TRL runs
at the fastest of the micro-batches tried.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import safe_open

from benchmarks import presets
from benchmarks.command import run
from benchmarks.counting import matrix_peak
from benchmarks.presets import PRESETS, Preset
from benchmarks.side import OURS, TRL, Written
from benchmarks.turns import AGAIN, Figures, Side, Turns, fastest_first, fit_together, seconds
from medvlm_r1.cli.options import Json
from medvlm_r1.errors import UserError
from medvlm_r1.models.load import Policy

PARTS = ("generation", "update", "step")


def bench_grpo(
    name: str | Preset, *, rounds: int | None = None, progress: Callable[[int, int, str], None] | None = None
) -> dict[str, Any]:
    """Measures a preset.

    Args:
        name: Name of a preset, or one.
        rounds: Timed steps of each side; the preset's own number by default.
        progress: Called with (steps done, steps in all, what runs).

    Returns:
        `speedup.{generation,update,step}` (TRL's median time over ours), `memory_ratio` (our peak over TRL's),
        `peak_share` (of the measured matrix-product peak, reached by our update), `logp_max_diff`, `grad_rel_diff`,
        `sides.{trl,ours}` with times in seconds, memory in bytes, tokens and images for each prompt and operations,
        `tried` (TRL's micro-batches), `out_of_memory` (those with which TRL found no memory), `side_by_side` (whether
        both processes stood at once) and `machine`.

    Raises:
        UserError: A side failed.
    """
    preset = PRESETS[name] if isinstance(name, str) else name
    rounds = rounds or preset.rounds
    total, done = 2 * len(preset.micro_batches) + 2 * (rounds + 1), 0

    def told(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, what)

    dtype, device = getattr(torch, preset.dtype), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    times: dict[str, list[Figures]] = {TRL: [], OURS: []}
    counted, peaks = {}, []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        policy = presets.build(preset, folder / "model")
        steps = max(rounds + 2, AGAIN + 1)
        written = _written(preset, policy, steps)
        model = policy.name
        del policy

        def attempt(micro: int, timed: int) -> list[Figures]:
            nonlocal total
            total += timed + 1 if timed > 1 else 0
            with Side(preset, model, TRL, micro, steps, written) as side:
                figures = []
                for _ in range(timed + 1):
                    figures.append(side.step())
                    told(f"TRL at micro-batch {micro}")
            return figures[1:]  # the first warms up

        tried = fastest_first(preset.micro_batches, attempt)
        rows = {TRL: next(iter(tried)), OURS: preset.rows}

        def start(side: str) -> Side:
            return Side(preset, model, side, rows[side], steps, written)

        for which in rows:
            with start(which) as side:
                counted[which] = side.step(folder / f"{which}.safetensors")
            told(f"{which} counted")
        grads = _relative_difference(folder / "ours.safetensors", folder / "trl.safetensors")
        together = fit_together([_peak(tried[rows[TRL]]), counted[OURS]["memory"]])
        with Turns(start, together=together) as turns:
            for number in range(rounds):
                peaks.append(matrix_peak(dtype, device))
                for which in rows:
                    times[which].append(turns.step(which))
                    told(f"{which}, round {number + 1} of {rounds}")
    medians = {
        which: {part: statistics.median(figures[part] for figures in taken) for part in PARTS}
        for which, taken in times.items()
    }
    memory = {which: _peak(figures) for which, figures in times.items()}
    operations = counted[OURS]["operations"]["update"]
    return {
        "preset": preset.name,
        "about": preset.about,
        "rounds": rounds,
        "speedup": {part: medians[TRL][part] / medians[OURS][part] for part in PARTS},
        "memory_ratio": memory[OURS] / memory[TRL],
        "peak_share": operations / medians[OURS]["update"] / max(peaks),
        "logp_max_diff": _largest_difference(counted[OURS]["logps"], counted[TRL]["logps"]),
        "grad_rel_diff": grads,
        "side_by_side": together,
        "out_of_memory": [micro for micro, found in tried.items() if not found],
        "tried": {
            str(micro): {"step": seconds(found), "memory": _peak(found)} for micro, found in tried.items() if found
        },
        "sides": {
            which: {
                "micro_batch": rows[which],
                **medians[which],
                "memory": memory[which],
                "tokens_per_prompt": {p: n / preset.prompts for p, n in counted[which]["tokens"].items()},
                "images_per_prompt": {p: n / preset.prompts for p, n in counted[which]["images"].items()},
                "operations": counted[which]["operations"],
                "rounds": [{part: figures[part] for part in PARTS} for figures in times[which]],
            }
            for which in (TRL, OURS)
        },
        "machine": {
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "matrix_peak": max(peaks),
            **{name: version(name) for name in ("torch", "transformers", "trl")},
        },
    }


def _peak(steps: Sequence[Figures]) -> int:
    return max(int(figures["memory"]) for figures in steps)


def _written(preset: Preset, policy: Policy, steps: int) -> Written:
    """What the embedded base itself samples for the prompts of the run; None where completions are random tokens."""
    if preset.shape is not None:
        return None
    processor, model = policy.processor, policy.model
    end, longest = model.generation_config.eos_token_id, presets.options(preset)["max_completion_length"]
    written = {}
    torch.manual_seed(0)
    for row in presets.rows(preset, policy, steps):
        text = processor.apply_chat_template(row["prompt"], add_generation_prompt=True)
        inputs = processor(text=[text] * preset.group, images=[row["images"]] * preset.group, return_tensors="pt")
        prompt = inputs["input_ids"][0].tolist()
        output = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=longest)
        tokens = output[:, len(prompt) :].tolist()
        written[tuple(prompt)] = [ids[: ids.index(end) + 1] if end in ids else ids for ids in tokens]
    return written


def _largest_difference(ours: Mapping[tuple[int, ...], list[float]], theirs: Mapping[tuple[int, ...], Any]) -> float:
    if ours.keys() != theirs.keys():
        raise UserError("The two sides did not score the same completions.")
    return float(max(abs(a - b) for row in ours for a, b in zip(ours[row], theirs[row], strict=True)))


def _relative_difference(ours: Path, theirs: Path) -> float:
    """Norm of the difference of two files of gradients over the norm of the second."""
    with safe_open(ours, "pt") as a, safe_open(theirs, "pt") as b:
        names = list(b.keys())
        if set(a.keys()) != set(names):
            raise UserError("The two sides have gradients of different weights.")
        apart = sum(float((a.get_tensor(name) - b.get_tensor(name)).pow(2).sum()) for name in names)
        norm = sum(float(b.get_tensor(name).pow(2).sum()) for name in names)
    if norm == 0:
        raise UserError("Plain TRL's gradient is 0, so there is nothing to compare: every group's rewards are equal.")
    return float((apart / norm) ** 0.5)


def grpo_lines(found: Mapping[str, Any]) -> list[str]:
    """The measurements of `bench_grpo` as lines of a table."""
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


class Shape(StrEnum):
    """Presets of `python -m benchmarks.grpo`."""

    demo = "demo"
    medium = "medium"
    paper = "paper"


def main(
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

    Example: python -m benchmarks.grpo --preset medium
    """
    from medvlm_r1.console import progress_bar

    with progress_bar("Steps") as advance:
        found = bench_grpo(preset.value, rounds=rounds, progress=advance)
    print(json.dumps(found) if as_json else "\n".join(grpo_lines(found)))


if __name__ == "__main__":
    run(main, "grpo")
