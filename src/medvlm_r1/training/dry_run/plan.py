"""Plan of a training run: steps, tokens and memory, and checks that refuse a run that cannot work."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvlm_r1.console import fill
from medvlm_r1.data import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.models.load import locate
from medvlm_r1.models.processor import ImageFit, load_processor
from medvlm_r1.training import options
from medvlm_r1.training.arguments import training_arguments
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.dataset import select_by_difficulty
from medvlm_r1.training.dry_run import settings
from medvlm_r1.training.dry_run.memory import components, machine_memory, phases
from medvlm_r1.training.dry_run.shape import Prompts, Shape, measure, read_shape, shortest_answer
from medvlm_r1.training.loop import bound_pixels, load_sets, overlap_warning


def refuse_cuts(plan: Plan, samples: Sequence[Sample], shortest: str, tokens: int) -> None:
    """Refuse a run that would truncate prompts, or whose completions are too short to be well-formed.

    Args:
        plan: The plan of the run.
        samples: The questions, in the order of the plan's prompts.
        shortest: The shortest well-formed completion.
        tokens: Number of tokens of `shortest`, including the end token.

    Raises:
        UserError: A sequence is too long or a limit too low. The message gives the lengths and what to change.
    """
    config, prompts = plan.config, plan.prompts
    option = functools.partial(options.value, config.method, config.trainer)
    worst = max(range(len(prompts)), key=lambda i: prompts.tokens[i])
    image = prompts.image_tokens[worst]
    longest = f"the longest prompt, {samples[worst].id!r}, has {prompts.longest} tokens ({image} image tokens)"
    if config.method == "grpo":
        limit = option("max_completion_length")
        if limit < tokens:
            raise UserError(
                f"trainer.max_completion_length is {limit}, but the shortest well-formed answer of template "
                f"{config.template!r}, {shortest}, has {tokens} tokens. No completion could be well-formed. Raise it "
                f"to at least {tokens}, and higher to leave room for reasoning."
            )
        room = option("vllm_max_model_length") if option("use_vllm") else None
        name = "trainer.vllm_max_model_length"
    else:
        limit, room, name = plan.run.completion, option("max_length"), "trainer.max_length"
    needed = prompts.longest + limit
    if room is not None and needed > room:
        raise UserError(
            f"{name} is {room}, but {longest} and is followed by up to {limit} tokens. It would be cut off. "
            f"Raise it to {needed}, or lower max_pixels."
        )
    if needed > plan.shape.positions:
        raise UserError(
            f"{config.model} has {plan.shape.positions} positions, but {longest} and is followed by up to {limit} "
            "tokens. Lower max_pixels or trainer.max_completion_length."
        )


def refuse_memory(plan: Plan) -> None:
    """Refuse a run that needs more memory than its device has. If the device memory is unknown, do nothing.

    Raises:
        UserError: The run does not fit. The message gives the estimate, the device memory and the largest parts.
    """
    peak = plan.peak(shared=plan.run.shares)
    if plan.device is None or peak <= plan.device:
        return
    sizes = sorted(plan.memory(shared=plan.run.shares).items(), key=lambda item: -item[1])[:3]
    largest = ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in sizes)
    raise UserError(
        f"The run does not fit: it needs about {peak / 2**30:.1f} GiB on each device, "
        f"which has {plan.device / 2**30:.1f} GiB. The largest parts: {largest}. Lower "
        "trainer.per_device_train_batch_size or max_pixels, set trainer.gradient_checkpointing, use lora, or shard the "
        "weights (--launch recipes/accelerate/zero3.yaml)."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Result of `make_plan`."""

    config: RunConfig
    shape: Shape
    prompts: Prompts
    run: settings.Run
    device: float | None
    """Memory of each device in bytes; None if it is unknown."""
    notes: tuple[str, ...]

    @property
    def columns(self) -> dict[str, bool]:
        """Names of the variants to show, and whether each shares prompts. SFT has only the variant without sharing."""
        return {"shared": True, "plain": False} if self.run.generates else {"plain": False}

    def memory(self, *, shared: bool) -> dict[str, float]:
        """Estimated bytes on each device, by part (weights, gradients, activations, ...)."""
        return components(self.shape, self.prompts, self.run, shared=shared)

    def phases(self, *, shared: bool) -> dict[str, float]:
        """Estimated bytes on each device during generation, and at the peak of the update."""
        return phases(self.memory(shared=shared), self.run, self.device)

    def peak(self, *, shared: bool) -> float:
        """Estimated peak bytes on each device."""
        return max(self.phases(shared=shared).values())

    def record(self) -> dict[str, Any]:
        """The plan as a mapping that can be written as JSON."""
        run, prompts = self.run, self.prompts
        return {
            "model": {"name": self.config.model, "family": self.shape.family, **asdict(self.shape.parameters)},
            "method": self.config.method,
            "devices": run.launch.processes,
            "cpu": run.cpu,
            "device_memory": self.device,
            "sharding": run.launch.sharding,
            "shares": run.shares,
            "steps": run.steps,
            "epochs": run.epochs_done,
            "prompts_per_step": run.step_prompts,
            "completions_per_step": run.step_prompts * run.group if run.generates else 0,
            "completion_tokens": run.completion,
            "prompts": {
                "count": len(prompts),
                "tokens": _spread(prompts.tokens),
                "image_tokens": _spread(prompts.image_tokens),
                "patches": _spread([sum(images) for images in prompts.patches]),
            },
            "memory": {
                name: {**self.memory(shared=shared), "peak": self.peak(shared=shared)}
                for name, shared in self.columns.items()
            },
            "notes": list(self.notes),
        }


def _spread(values: Sequence[int]) -> dict[str, float]:
    least, median, high, most = np.percentile(values, [0, 50, 95, 100], method="nearest").tolist()
    return {"min": least, "median": median, "mean": statistics.fmean(values), "p95": high, "max": most}


def make_plan(
    config: RunConfig,
    *,
    launch: settings.Launch = settings.Launch(),  # noqa: B008 - frozen
    cpu: bool = False,
    device: float | None = None,
    completion: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Plan a training run without loading weights.

    Args:
        config: Result of `load_config`.
        launch: Number of processes and sharding.
        cpu: Whether the run uses this machine's CPU; `trainer.use_cpu` has the same effect.
        device: Memory of each device in bytes. Default: unknown for a GPU, this machine's main memory for a CPU.
        completion: Number of tokens assumed for every completion. Default: the maximum, which gives an upper bound.
        progress: Called with the number of prompts counted so far and the total.

    Raises:
        UserError: The data or the model cannot be read, prompts would be truncated, or completions are too short to be
            well-formed. Memory is not checked here (see `refuse_memory`).
    """
    cpu = cpu or bool(config.trainer.get("use_cpu"))
    if cpu and device is None:
        device = machine_memory()
    training_arguments(config, processes=launch.processes)
    folder = locate(config.model, weights=False)
    shape = read_shape(folder, config)
    processor = _processor(folder)
    bound_pixels(config, processor.image_processor)
    sets = load_sets(config, ImageFit(model=config.model, processor=processor.image_processor))
    samples, _ = select_by_difficulty(config, sets["train"])
    warning = overlap_warning(config, sets)
    notes = [warning] if warning else []
    run = settings.read_run(config, shape, len(samples), launch, notes, cpu=cpu, completion=completion)
    prompts = measure(processor, config.data.train, samples, config.template, progress)
    plan = Plan(config=config, shape=shape, prompts=prompts, run=run, device=device, notes=tuple(notes))
    refuse_cuts(plan, samples, *shortest_answer(processor, config.template))
    return plan


def report_lines(plan: Plan) -> list[str]:
    """The plan as lines of text, with the memory of each device by part."""
    return fill(Path(__file__).with_name("report.txt"), plan=plan, prompts=plan.record()["prompts"])


def _processor(folder: Any) -> Any:
    processor = load_processor(folder)
    if not hasattr(processor, "_get_num_multimodal_tokens"):
        raise UserError(f"{folder}: its processor cannot compute the number of image tokens, which the dry run needs.")
    return processor
