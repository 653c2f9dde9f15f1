"""`python -m benchmarks.step`: one measured training step of a recipe, compared with the dry run's memory estimate.

The step runs in a child process through `train_grpo`, as in `medvlm-r1 train grpo`. It ends after the optimizer step,
before the final model is written. With stand-ins the recipe needs no download: random weights in the shape of
Qwen2-VL-2B and synthetic questions replace its model and data.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from trl import GRPOTrainer

from benchmarks import presets
from benchmarks.command import Recipe, run
from benchmarks.presets import PRESETS, Preset
from benchmarks.process import Child, memory_now, now, peak_memory, reported, reset_peak
from medvlm_r1.cli.options import Json, Overrides, find_recipe, print_result
from medvlm_r1.errors import UsageError
from medvlm_r1.training import options
from medvlm_r1.training.config import RunConfig, load_config
from medvlm_r1.training.dry_run.plan import make_plan
from medvlm_r1.training.grpo import train_grpo


def bench_step(
    config: Path,
    overrides: Sequence[str] = (),
    *,
    stand_ins: Preset | None = PRESETS["paper"],
    pixels: int = 384,
    completion: int = 16,
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> dict[str, Any]:
    """Measure one step of a recipe.

    Args:
        config: A GRPO recipe.
        overrides: `a.b=value` overrides of the recipe.
        stand_ins: Shape of a random model that replaces the model of the recipe, with synthetic questions as its data.
            None for the recipe's own model and data, with completions up to the limit of the recipe.
        pixels: Side of the synthetic images.
        completion: Tokens per completion with synthetic questions.
        progress: Called with (done, total, current stage).

    Returns:
        A dictionary:

        * `measured`: seconds and peak bytes by phase; bytes of the libraries and before the step; the logged metrics of
          the step;
        * `planned`: parts and peaks that the dry run estimates for the same configuration and device, in bytes;
        * `ratio`: the planned peak divided by the measured peak.

    Raises:
        UserError: The training failed, or the plan refuses the configuration.
    """
    with tempfile.TemporaryDirectory(prefix="bench-step-") as made:
        folder = Path(made)
        changes = ["trainer.max_steps=1", "trainer.report_to=none", "trainer.save_strategy='no'"]
        changes.append(f"out={folder / 'run'}")
        if stand_ins is not None:
            progress(0, 3, "random weights")
            with Child(_write_model, stand_ins, folder / "model") as child:
                child.receive()
            changes += _one_pass(folder, load_config(config, overrides), pixels, completion)
        settings = load_config(config, [*changes, *overrides, f"out={folder / 'run'}"])
        if settings.method != "grpo":
            raise UsageError(f"{config} has method: {settings.method}; benchmarks.step needs method: grpo.")
        progress(1, 3, "dry run")
        plan = make_plan(settings, cpu=not torch.cuda.is_available())
        progress(2, 3, "one step")
        with Child(_train, settings.model_dump(mode="json")) as child:
            measured = child.receive()
    progress(3, 3, "done")
    parts, phases = plan.memory(shared=plan.run.shares), plan.phases(shared=plan.run.shares)
    if torch.cuda.is_available():
        # The allocator does not count the CUDA context and the libraries.
        phases = {phase: size - parts["runtime"] for phase, size in phases.items()}
    planned = {"parts": parts, "phases": phases, "peak": max(phases.values())}
    peak = max(measured["peak"].values())
    return {
        "recipe": config.name,
        "stand_ins": stand_ins is not None and stand_ins.about,
        "parameters": plan.shape.parameters.total,
        "trained": plan.shape.parameters.trained,
        "prompt_tokens": plan.prompts.longest,
        "image_tokens": max(plan.prompts.image_tokens),
        "completions": plan.run.generation_rows,
        "completion_tokens": plan.run.completion,
        "measured": measured,
        "planned": planned,
        "peak": peak,
        "ratio": planned["peak"] / peak,
        "machine": {
            "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU",
            "threads": torch.get_num_threads(),
            **{name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        },
    }


def _one_pass(folder: Path, config: RunConfig, pixels: int, completion: int) -> list[str]:
    """Write synthetic MRI questions; return overrides for a step of one pass over them, with the folder's model."""
    rows, group = (
        options.value("grpo", config.trainer, name) for name in ("per_device_train_batch_size", "num_generations")
    )
    presets.write_questions(folder / "data", max(1, rows // group), pixels)
    rewards = [*(reward.model_dump() for reward in config.rewards), {"name": "benchmarks.side:varied_rewards"}]
    return [
        f"model={folder / 'model'}",
        f"data.train={folder / 'data'}",
        "trainer.gradient_accumulation_steps=1",
        f"trainer.max_completion_length={completion}",
        # Random weights rarely end a completion; this prevents shorter ones.
        f"trainer.generation_kwargs={{min_new_tokens: {completion}}}",
        # Random completions earn no reward of the recipe, so all advantages would be 0.
        f"rewards={json.dumps(rewards)}",
    ]


def _write_model(pipe: Any, preset: Preset, folder: Path) -> None:
    with reported(pipe):
        presets.build(preset, folder)
        pipe.send({"folder": str(folder)})


class _Measured(Exception):
    """Raised after the measured step to end the training."""


def _train(pipe: Any, config: Mapping[str, Any]) -> None:
    with reported(pipe), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figures: dict[str, Any] = {"seconds": {}, "peak": {}, "libraries": memory_now()}
        try:
            with _timed_generation(figures):
                train_grpo(RunConfig.model_validate(config), progress=_FirstStep(figures))
        except _Measured:
            pipe.send(figures)


@contextmanager
def _timed_generation(figures: dict[str, Any]) -> Iterator[None]:
    """Record time and peak memory of generation; the update starts when it ends."""
    plain = GRPOTrainer._generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        figures["before"] = memory_now()
        reset_peak()
        start = now()
        result = plain(*args, **kwargs)
        figures["begun"] = now()
        figures["seconds"]["generation"] = figures["begun"] - start
        figures["peak"]["generation"] = peak_memory()
        reset_peak()
        return result

    with mock.patch.object(GRPOTrainer, "_generate", generate):
        yield


class _FirstStep:
    """End the training after its first step."""

    def __init__(self, figures: dict[str, Any]) -> None:
        self._figures = figures

    def on_step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        figures = self._figures
        if "update" not in figures["seconds"]:
            figures["seconds"]["update"] = now() - figures.pop("begun")
            figures["peak"]["update"] = peak_memory()
        if logs:
            figures["logs"] = {name: value for name, value in logs.items() if isinstance(value, int | float)}
            raise _Measured


def step_lines(result: Mapping[str, Any]) -> list[str]:
    """Result of `bench_step` as text."""
    machine = result["machine"]
    packages = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "trl", "peft"))
    table = [["", "seconds", "peak, GB", "estimate, GB", "estimate over peak"], *step_rows(result)]
    return [
        f"{result['recipe']}: {result['parameters']:,} parameters, {result['trained']:,} trained"
        + (f" ({result['stand_ins']})" if result["stand_ins"] else ""),
        f"{result['completions']} completions of {result['completion_tokens']} tokens; prompts of up to "
        f"{result['prompt_tokens']} tokens, {result['image_tokens']} of them image tokens.",
        f"On {machine['device']} with {machine['threads']} threads, {packages}.",
        *(f"{row[0]:<14}" + "".join(f"{cell:>20}" for cell in row[1:]) for row in table),
        f"The estimate of the dry run is {result['ratio']:.2f} times the measured peak.",
    ]


def step_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Phase, seconds, measured and estimated peak in GB, and their ratio, for each phase and the step."""
    measured, planned = result["measured"], result["planned"]
    rows = [
        (phase, seconds, measured["peak"][phase], planned["phases"][phase])
        for phase, seconds in measured["seconds"].items()
    ]
    rows.append(("step", sum(measured["seconds"].values()), result["peak"], planned["peak"]))
    return [
        [name, f"{seconds:.1f}", f"{peak / 1e9:.2f}", f"{plan / 1e9:.2f}", f"{plan / peak:.2f}"]
        for name, seconds, peak, plan in rows
    ]


def main(
    config: Recipe = Path("recipes/paper-lora-24gb.yaml"),
    overrides: Overrides = None,
    *,
    own: Annotated[
        bool,
        typer.Option(
            "--own",
            help="Use the recipe's own model and data. Otherwise: random weights in the shape of Qwen2-VL-2B "
            "(4.4 GB on disk during the run) and one synthetic question.",
        ),
    ] = False,
    pixels: Annotated[int, typer.Option(min=28, help="Side of the synthetic image.")] = 384,
    completion_tokens: Annotated[int, typer.Option(min=1, help="Tokens per completion, without --own.")] = 16,
    as_json: Json = False,
) -> None:
    """Measure one training step of a recipe, and compare it with the memory estimate of `--dry-run`.

    Example: python -m benchmarks.step --config recipes/paper-lora-24gb.yaml --json
    """
    from medvlm_r1.console import progress_bar

    # Check the recipe before gigabytes of random weights are written.
    load_config(find_recipe(config), overrides or [])
    with progress_bar("Measuring") as advance:
        result = bench_step(
            find_recipe(config),
            overrides or [],
            stand_ins=None if own else PRESETS["paper"],
            pixels=pixels,
            completion=completion_tokens,
            progress=advance,
        )
    print_result(result, step_lines(result), as_json=as_json)


if __name__ == "__main__":
    run(main, "step")
