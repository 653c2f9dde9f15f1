"""`python -m benchmarks.grpo`: a GRPO step of plain `trl.GRPOTrainer` compared with `SharedPromptTrainer`.

Both sides have the same weights, prompts, seed and completions. They alternate, each in its own process. TRL runs at
the fastest micro-batch of those tried.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from safetensors import safe_open

from benchmarks import presets
from benchmarks.command import run
from benchmarks.presets import PRESETS, Preset
from benchmarks.process import Child, OutOfMemory
from benchmarks.side import OURS, TRL, Written, matrix_peak, serve
from medvlm_r1.cli.options import Json, print_result
from medvlm_r1.errors import UserError
from medvlm_r1.models.load import Policy
from medvlm_r1.training.dry_run.memory import machine_memory

PARTS = ("generation", "update", "step")
Figures = dict[str, Any]
"""Figures of one step, see `side.py`."""
_NEAR, AGAIN = 1.1, 2
"""A factor and a number of steps: each of TRL's micro-batches within this factor of the fastest is timed for this
number of further steps."""
_SHARE = 0.9
"""Share of the memory that both sides may use together."""


class Side(Child):
    """A trainer in another process."""

    def __init__(self, preset: Preset, model: str, side: str, micro: int, steps: int, written: Written) -> None:
        super().__init__(serve, preset, model, side, micro, steps, written)
        self.receive()

    def step(self, gradients: Path | None = None) -> Figures:
        """Take one timed step. If a file is given, count the operations and save the gradients instead."""
        self.pipe.send(gradients and str(gradients))
        return self.receive()


def alternate(start: Callable[[str], Side], rounds: int, *, together: bool) -> Iterator[tuple[str, Figures]]:
    """Time steps of both sides alternately, so that a slowdown of the machine affects both.

    If both processes do not fit into memory together, only one runs at a time. It is then started for each timed step,
    takes a warm-up step first, and ends afterwards.

    Args:
        start: Starts the process of a side.
        rounds: Number of timed steps of each side.
        together: Whether both processes fit into memory together.

    Yields:
        Name and figures of a step.
    """
    with ExitStack() as stack:
        running = {name: stack.enter_context(start(name)) for name in (TRL, OURS) if together}
        for side in running.values():
            side.step()  # warm-up
        for name in (TRL, OURS) * rounds:
            if together:
                yield name, running[name].step()
            else:
                with start(name) as alone:
                    alone.step()  # warm-up
                    yield name, alone.step()


def fit_together(sizes: Sequence[float]) -> bool:
    """Whether processes of these sizes (bytes) fit together into the memory of the GPU, or of a machine without a GPU.

    Resident sizes count shared pages more than once, so the error is on the safe side.
    """
    on_gpu = torch.cuda.is_available()
    memory = float(torch.cuda.get_device_properties(0).total_memory) if on_gpu else machine_memory()
    return sum(sizes) < _SHARE * memory


def fastest_first(
    micro_batches: Sequence[int], attempt: Callable[[int, int], list[Figures]]
) -> dict[int, list[Figures]]:
    """Time steps at each micro-batch, and order the micro-batches by median time, fastest first.

    One step cannot separate micro-batches near the fastest. They are timed again in the reverse order, so that a
    machine that slows down is not mistaken for a slow micro-batch. A micro-batch that runs out of memory has no steps.

    Args:
        micro_batches: Rows per forward pass.
        attempt: Takes rows and a number of timed steps; returns their figures, with `step` in seconds.

    Raises:
        OutOfMemory: No micro-batch fits.
    """
    tried: dict[int, list[Figures]] = {}
    for micro in micro_batches:
        try:
            tried[micro] = attempt(micro, 1)
        except OutOfMemory:
            tried[micro] = []
    if not any(tried.values()):
        raise OutOfMemory(f"Plain TRL ran out of memory with {min(micro_batches)} rows. Take a smaller preset.")
    bound = _NEAR * min(map(median_step, tried.values()))
    near = [micro for micro, steps in tried.items() if median_step(steps) <= bound]
    if len(near) > 1:
        for micro in reversed(near):
            tried[micro] = tried[micro] + attempt(micro, AGAIN)
    return dict(sorted(tried.items(), key=lambda item: (item[0] not in near, median_step(item[1]))))


def median_step(steps: Sequence[Mapping[str, Any]]) -> float:
    """Median seconds of a step; infinite if there are no steps."""
    return float(statistics.median(figures["step"] for figures in steps)) if steps else float("inf")


def bench_grpo(
    preset: Preset, *, rounds: int | None = None, progress: Callable[[int, int, str], None] = lambda *_: None
) -> dict[str, Any]:
    """Compare the GRPO step of plain TRL with the shared step, for one preset.

    Args:
        preset: The preset.
        rounds: Number of timed steps of each side; by default that of the preset.
        progress: Called with (steps done, all steps, description of the current step).

    Returns:
        A dictionary:

        * `speedup.{generation,update,step}`: TRL's median time divided by ours;
        * `memory_ratio`: our peak memory divided by TRL's;
        * `peak_share`: operations per second of our update, as a share of the measured matrix-product peak;
        * `logp_max_diff`, `grad_rel_diff`: differences of the log-probabilities and of the gradients;
        * `sides.{trl,ours}`: seconds, bytes of memory, tokens and images per prompt, and operations;
        * `tried`, `out_of_memory`: TRL's micro-batches, and those that ran out of memory;
        * `side_by_side`: whether both processes ran at once;
        * `machine`: description of the machine.

    Raises:
        UserError: The process of a side failed.
    """
    rounds = rounds or preset.rounds
    total, done = 2 * len(preset.micro_batches) + 2 * (rounds + 1), 0

    def report(note: str) -> None:
        nonlocal done
        done += 1
        progress(done, total, note)

    dtype, device = getattr(torch, preset.dtype), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    times: dict[str, list[Figures]] = {TRL: [], OURS: []}
    counted, peaks = {}, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        policy = presets.build(preset, folder / "model")
        steps = max(rounds + 2, AGAIN + 1)
        written, model = _written(preset, policy, steps), policy.name
        del policy

        def attempt(micro: int, timed: int) -> list[Figures]:
            nonlocal total
            total += timed + 1 if timed > 1 else 0
            figures = []
            with Side(preset, model, TRL, micro, steps, written) as side:
                for _ in range(timed + 1):
                    figures.append(side.step())
                    report(f"TRL at micro-batch {micro}")
            return figures[1:]  # the first is the warm-up

        tried = fastest_first(preset.micro_batches, attempt)
        micro_batch = {TRL: next(iter(tried)), OURS: preset.rows}

        def start(side: str) -> Side:
            return Side(preset, model, side, micro_batch[side], steps, written)

        for name in micro_batch:
            with start(name) as side:
                counted[name] = side.step(folder / f"{name}.safetensors")
            report(f"{name} counted")
        gradients = _relative_difference(folder / "ours.safetensors", folder / "trl.safetensors")
        together = fit_together([_peak(tried[micro_batch[TRL]]), counted[OURS]["memory"]])
        for name, figures in alternate(start, rounds, together=together):
            times[name].append(figures)
            report(f"{name}, round {len(times[name])} of {rounds}")
            peaks.append(matrix_peak(dtype, device))
    medians = {
        name: {phase: statistics.median(figures[phase] for figures in taken) for phase in PARTS}
        for name, taken in times.items()
    }
    memory = {name: _peak(figures) for name, figures in times.items()}
    return {
        "preset": preset.name,
        "about": preset.about,
        "rounds": rounds,
        "speedup": {phase: medians[TRL][phase] / medians[OURS][phase] for phase in PARTS},
        "memory_ratio": memory[OURS] / memory[TRL],
        "peak_share": counted[OURS]["operations"]["update"] / medians[OURS]["update"] / max(peaks),
        "logp_max_diff": _largest_difference(counted[OURS]["logps"], counted[TRL]["logps"]),
        "grad_rel_diff": gradients,
        "side_by_side": together,
        "out_of_memory": [micro for micro, figures in tried.items() if not figures],
        "tried": {
            str(micro): {"step": median_step(figures), "memory": _peak(figures)}
            for micro, figures in tried.items()
            if figures
        },
        "sides": {
            name: {
                "micro_batch": micro_batch[name],
                **medians[name],
                "memory": memory[name],
                "tokens_per_prompt": {p: n / preset.prompts for p, n in counted[name]["tokens"].items()},
                "images_per_prompt": {p: n / preset.prompts for p, n in counted[name]["images"].items()},
                "operations": counted[name]["operations"],
                "rounds": [{phase: figures[phase] for phase in PARTS} for figures in times[name]],
            }
            for name in (TRL, OURS)
        },
        "machine": {
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "matrix_peak": max(peaks),
            **{package: version(package) for package in ("torch", "transformers", "trl")},
        },
    }


def _peak(steps: Sequence[Figures]) -> int:
    return max(int(figures["memory"]) for figures in steps)


def _written(preset: Preset, policy: Policy, steps: int) -> Written:
    """Completions that the embedded base samples for the prompts of the run; None for random tokens."""
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


def grpo_lines(figures: Mapping[str, Any]) -> list[str]:
    """Format the measurements of `bench_grpo` as lines of a table."""
    trl, ours, machine = figures["sides"]["trl"], figures["sides"]["ours"], figures["machine"]
    lines = [
        f"{figures['preset']}: {figures['about']}. {figures['rounds']} rounds on {machine['threads']} threads, torch "
        f"{machine['torch']}, transformers {machine['transformers']}, TRL {machine['trl']}.",
        f"{'':<34}{'TRL':>10}{'ours':>10}{'ratio':>9}",
    ]
    rows = [("rows of a forward pass", trl["micro_batch"], ours["micro_batch"], "d")]
    rows += [(f"{phase}, seconds", trl[phase], ours[phase], ".2f") for phase in PARTS]
    rows.append(("peak memory, GB", trl["memory"] / 1e9, ours["memory"] / 1e9, ".2f"))
    for phase in PARTS[:2]:
        for name, key, unit, form in (
            ("tokens per prompt", "tokens_per_prompt", 1, ".0f"),
            ("tower passes per prompt", "images_per_prompt", 1, ".1f"),
            ("GFLOP", "operations", 1e9, ".1f"),
        ):
            rows.append((f"{name}, {phase}", trl[key][phase] / unit, ours[key][phase] / unit, form))
    for name, theirs, mine, form in rows:
        ratio = f"{theirs / mine:8.2f}x" if mine else f"{'-':>9}"
        lines.append(f"{name:<34}{theirs:>10{form}}{mine:>10{form}}{ratio}")
    if not figures["side_by_side"]:
        lines.append("one process at a time: the memory does not hold both")
    tried = [
        f"{micro}: {step['step']:.2f} s and {step['memory'] / 1e9:.2f} GB" for micro, step in figures["tried"].items()
    ]
    tried += [f"{micro}: out of memory" for micro in figures["out_of_memory"]]
    return [
        *lines,
        f"TRL by rows of a forward pass: {', '.join(tried)}",
        f"matrix-product peak {machine['matrix_peak'] / 1e9:.0f} GFLOP/s; our update reaches "
        f"{100 * figures['peak_share']:.0f} % of it",
        f"largest difference of a log-probability {figures['logp_max_diff']:.1e}, relative difference of the gradient "
        f"{figures['grad_rel_diff']:.1e}",
    ]


def main(
    preset: Annotated[
        Literal["demo", "medium", "paper"],
        typer.Option(
            help="demo: the embedded base, 2 minutes. medium: 8 + 8 layers and 448-pixel images, 15 minutes. "
            "paper: Qwen2-VL-2B's shape, 24 GB and half an hour without a GPU."
        ),
    ] = "demo",
    rounds: Annotated[int | None, typer.Option(min=1, help="Timed steps of each side.")] = None,
    as_json: Json = False,
) -> None:
    """Compare a GRPO step of plain TRL, at its fastest micro-batch, with this project's: times, memory, differences.

    Example: python -m benchmarks.grpo --preset medium
    """
    from medvlm_r1.console import progress_bar

    with progress_bar("Steps") as advance:
        figures = bench_grpo(PRESETS[preset], rounds=rounds, progress=advance)
    print_result(figures, grpo_lines(figures), as_json=as_json)


if __name__ == "__main__":
    run(main, "grpo")
