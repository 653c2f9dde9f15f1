"""`python -m benchmarks.engines`: time a GRPO step with sharing on and off, under FSDP2 or ZeRO-3 on CPUs.

Runs with sharing and runs without alternate in the same two processes. All completions are fixed random tokens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest import mock

import typer

from benchmarks import presets
from benchmarks.command import run
from benchmarks.replay import replaying
from medvlm_r1.cli.options import Json, print_result
from medvlm_r1.models import load
from medvlm_r1.recipes import recipe
from medvlm_r1.training import loop
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo

PROCESSES = 2
STEPS = 4
"""Steps of a run; the first one is not counted."""

Engine = StrEnum("Engine", {"fsdp2": "fsdp2", "zero3": "zero3"})
Name = StrEnum("Name", {"demo": "demo", "medium": "medium"})

SHARDED: set[str] = set()
"""Names of the modules whose weights were split over the processes."""


def shard_on_cpus() -> None:
    """Let accelerate shard weights over processes on CPUs, if the launch file selects FSDP2.

    PyTorch's FSDP2 works with gloo, and so does accelerate's use of it. But accelerate enables FSDP only for GPUs and
    similar devices (`AcceleratorState`: MULTI_GPU, MULTI_XPU, ... and not MULTI_CPU).
    """
    import torch.distributed
    from accelerate import PartialState, utils
    from torch.distributed import fsdp

    if os.environ.get("ACCELERATE_USE_FSDP") != "true":
        return
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda self, *_, **__: ("gloo", utils.DistributedType.MULTI_GPU)
    plain = fsdp.fully_shard

    def fully_shard(module: Any, **options: Any) -> Any:
        modules = module if isinstance(module, list | tuple) else [module]
        SHARDED.update(type(each).__name__ for each in modules)
        return plain(module, **options)

    fsdp.fully_shard = fully_shard


class _Clock:
    """Times at the ends of the steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step(self, step: int, total: int, logs: Any) -> None:
        if len(self.ends) < step:
            self.ends.append(time.perf_counter())


def take_turns(preset: presets.Preset, folder: Path, rounds: int) -> None:
    """Train with sharing on and off in turn, in one of the processes. The main process writes `seconds.jsonl`."""
    shard_on_cpus()
    plain = load.load_policy

    def load_policy(*args: Any, **kwargs: Any) -> Any:
        policy = plain(*args, **kwargs)
        replaying(policy.model, lambda prompt: presets.random_completions(preset, policy, prompt))
        return policy

    patches = mock.patch.object(loop, "load_policy", load_policy)
    for number in range(rounds):
        for sharing in ("on", "off") if number % 2 == 0 else ("off", "on"):
            clock = _Clock()
            changes = [f"sharing={sharing}", f"out={folder / f'{sharing}-{number}'}"]
            with patches:
                train_grpo(load_config(folder / "recipe.yaml", changes), progress=clock)
            if os.environ["RANK"] == "0":
                seconds = [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
                with (folder / "seconds.jsonl").open("a") as lines:
                    print(json.dumps({"sharing": sharing, "seconds": seconds}), file=lines)


def bench_engine(engine: str, preset: presets.Preset, rounds: int) -> dict[str, Any]:
    """Time the steps of a preset, in two processes with separate prompts.

    Args:
        engine: A launch file in `recipes/accelerate`.
        preset: The preset. With `demo`, each process has half of the prompts.
        rounds: Number of runs with sharing on, and of runs with sharing off.

    Returns:
        `runs` (sharing, and seconds of each counted step), the medians `on` and `off`, and their `ratio`.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        presets.build(preset, folder / "model")
        prompts = max(1, preset.prompts // PROCESSES)
        presets.write_questions(folder / "data", prompts * PROCESSES * STEPS, preset.pixels)
        trainer = {"max_steps": STEPS, "logging_steps": STEPS, "save_strategy": "no", "report_to": "none"}
        trainer |= {"gradient_accumulation_steps": 1, "per_device_train_batch_size": prompts * preset.group}
        settings = {
            "model": str(folder / "model") if preset.shape else "phantom-base",
            "method": "grpo",
            "data": {"train": str(folder / "data")},
            "rewards": [{"name": "benchmarks.side:varied_rewards"}],
            "trainer": presets.options(preset) | trainer,
        }
        (folder / "recipe.yaml").write_text(json.dumps(settings))
        options = [f"--num_processes={PROCESSES}", "--mixed_precision=no", "--main_process_port=0"]
        options += ["--config_file", str(recipe(f"accelerate/{engine}.yaml"))]
        command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *options, "-m", __spec__.name]
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        command += ["--engine", engine, "--preset", preset.name, "--rounds", str(rounds), "--folder", made]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        runs = [json.loads(line) for line in (folder / "seconds.jsonl").read_text().splitlines()]
    result: dict[str, Any] = {
        side: median(second for row in runs if row["sharing"] == side for second in row["seconds"])
        for side in ("on", "off")
    }
    return {"engine": engine, "preset": preset.name, "runs": runs, **result, "ratio": result["off"] / result["on"]}


def main(
    engine: Annotated[Engine, typer.Option(help="Engine.")] = Engine.fsdp2,
    preset: Annotated[Name, typer.Option(help="Shape of the step.")] = Name.demo,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 3,
    folder: Annotated[Path | None, typer.Option(hidden=True, help="Of a launched process.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a GRPO step with sharing on and off under FSDP2 or ZeRO-3, with two processes on CPUs.

    Example: python -m benchmarks.engines --engine fsdp2 --preset demo
    """
    chosen = presets.PRESETS[preset]
    if folder is not None:
        take_turns(chosen, folder, rounds)
        return
    result = bench_engine(engine, chosen, rounds)
    lines = [f"sharing {row['sharing']}: {', '.join(f'{s:.2f}' for s in row['seconds'])} s" for row in result["runs"]]
    lines.append(f"Median step: off {result['off']:.2f} s, on {result['on']:.2f} s, ratio {result['ratio']:.2f}.")
    print_result(result, lines, as_json=as_json)


if __name__ == "__main__":
    run(main, "engines")
