"""Short GRPO runs with random weights: measure the time and memory of a step, and check the saved model.

Each run calls `train_grpo` with a configuration, as a user does. All completions have the same length, so plain TRL and
the shared trainer train on the same amount of data.
"""

import contextlib
import io
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText
from trl import GRPOTrainer

from medvlm_r1.errors import UserError
from medvlm_r1.models.load import load_policy, phantom_base_dir, quiet_bars
from medvlm_r1.models.processor import load_processor
from medvlm_r1.phantom.benchmark import write_benchmark
from medvlm_r1.training.config import load_config
from medvlm_r1.training.dry_run.memory import RUNTIME
from medvlm_r1.training.dry_run.plan import make_plan
from medvlm_r1.training.grpo import train_grpo


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Sizes of a model with random weights, and of a GRPO step."""

    text: Mapping[str, Any]
    """Values that replace those of the language model's configuration."""
    vision: Mapping[str, Any]
    """Values that replace those of the vision tower's configuration."""
    edge: int
    """Height and width of the images in pixels."""
    completion: int
    """Number of tokens of every completion."""
    group: int
    """Number of completions per prompt."""
    prompts: int = 2
    """Number of prompts per step."""
    timed: int = 3
    """Number of timed steps, after two steps that are not timed."""
    memory: float = 0.0
    """Device memory in bytes that the training of full weights requires."""


_SETTINGS = yaml.safe_load(Path(__file__).with_name("steps.yaml").read_text(encoding="utf-8"))
SIZES = {device: Size(**size) for device, size in _SETTINGS["sizes"].items()}
"""Sizes by device type."""


def varied_rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Pseudo-random rewards that depend only on the tokens, so that every row has an advantage other than 0."""
    return [float(np.random.default_rng(ids).random()) for ids in completion_ids]


def write_base(folder: Path, size: Size, device: str, dtype: torch.dtype) -> Path:
    """Write a Qwen2-VL model with random weights and the processor of `phantom-base`, if the folder has no model."""
    if not (folder / "config.json").is_file():
        config = AutoConfig.from_pretrained(phantom_base_dir()).to_dict()
        kind = config.pop("model_type")
        config["text_config"] |= {**size.text, "layer_types": None}
        config["vision_config"] |= size.vision
        torch.manual_seed(0)
        with torch.device(device), quiet_bars():
            model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **config), dtype=dtype)
            model.save_pretrained(folder)
        load_processor(phantom_base_dir()).save_pretrained(folder)
    return folder


class Figures:
    """Progress callback that measures a run. The first two steps are not timed.

    Attributes:
        generation: Median seconds of generation per step.
        update: Median seconds of the update per step.
        step: Seconds per step: generation and update.
        memory: Peak device memory in bytes, including the runtime.
        estimate: The dry run's estimate of `memory`.
        peak_share: FLOP/s of the update, as a fraction of the peak measured with matrix products.
        losses: Loss of every step.
        gradients: Gradient norm of every step.
        notice: The trainer's message that prompts are not shared in the run or its generation; empty if they are.
        model: Folder of the trained model.
    """

    estimate: float
    model: Path

    def __init__(self, device: str) -> None:
        self._cuda, self._device = device == "cuda", device
        self._steps: list[tuple[float, float]] = []
        self._generated, self._begun, self._step = 0.0, self._now(), 0
        self._flops, self._counting = FlopCounterMode(display=False), contextlib.ExitStack()
        self._operations = [0, 0]

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextlib.contextmanager
    def timed_generation(self) -> Iterator[None]:
        """Time `GRPOTrainer._generate`, which both trainers call once for each generation."""
        plain = GRPOTrainer._generate

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun, before = self._now(), self._flops.get_total_flops()
            result = plain(*args, **kwargs)
            self._generated += self._now() - begun
            self._operations[0] += self._flops.get_total_flops() - before
            return result

        GRPOTrainer._generate = timed
        try:
            yield
        finally:
            GRPOTrainer._generate = plain

    def on_step(self, step: int, total: int, logs: Mapping[str, float]) -> None:
        """Record the end of a step; ignore calls with logs. The FLOPs of the second step are counted."""
        if logs or step == self._step:
            return
        self._step, now = step, self._now()
        if step == 1:
            self._counting.enter_context(self._flops)
        elif step == 2:
            self._counting.close()
            self._operations[1] = self._flops.get_total_flops() - self._operations[0]
            self._forget_peak()
        else:
            self._steps.append((self._generated, now - self._begun - self._generated))
        self._generated, self._begun = 0.0, self._now()

    def finish(self, logs: Sequence[Mapping[str, float]], printed: str) -> None:
        """Compute the figures at the end of the run.

        Args:
            logs: Rows of `metrics.jsonl`.
            printed: What the trainer printed on stderr.
        """
        self.memory = self._peak()
        self.generation, self.update = (statistics.median(values) for values in zip(*self._steps, strict=True))
        self.step = self.generation + self.update
        self.peak_share = self._operations[1] / self.update / self._matrix_peak()
        self.losses, self.gradients = [row["loss"] for row in logs], [row["grad_norm"] for row in logs]
        self.notice = next((line for line in printed.splitlines() if "TRL's way" in line), "")

    def _matrix_peak(self) -> float:
        """FLOP/s of the fastest of a few large matrix products."""
        size, dtype = (8192, torch.bfloat16) if self._cuda else (1024, torch.float32)
        a, b = (torch.randn(size, size, device=self._device, dtype=dtype) for _ in range(2))
        best = math.inf
        for _ in range(6):
            begun = self._now()
            a @ b
            best = min(best, self._now() - begun)
        return 2 * size**3 / best

    def _forget_peak(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: proc_pid_clear_refs(5)

    def _peak(self) -> float:
        """Peak bytes since `_forget_peak`: reserved GPU memory and the runtime, or the process's resident memory."""
        if self._cuda:
            return torch.cuda.max_memory_reserved() + RUNTIME
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return float(line.split()[1]) * 1024
        return 0.0


def run_grpo(folder: Path, device: str, size: Size, *, lora: bool, **options: Any) -> Figures:
    """Train a few GRPO steps with `train_grpo` and measure them.

    Args:
        folder: Folder that the model, the data and the run are written to.
        device: "cpu" or "cuda".
        size: Sizes of the model and the step.
        lora: Whether to train adapters on bfloat16 weights, instead of all weights in float32.
        **options: `sharing` (default True), and options of TRL's GRPOConfig.

    Raises:
        UserError: `train_grpo` rejects the run, a loss or gradient is NaN or Inf, or all gradients are 0.
    """
    sharing = options.pop("sharing", True)
    dtype = torch.bfloat16 if lora else torch.float32
    base = write_base(folder / f"base-{str(dtype).removeprefix('torch.')}", size, device, dtype)
    data = folder / "data"
    steps = 2 + size.timed
    if not data.is_dir():
        write_benchmark(data, split="train", n=max(8, size.prompts * steps))
    rows = size.group * size.prompts
    eos = AutoConfig.from_pretrained(base).get_text_config().eos_token_id
    trainer = {
        **_SETTINGS["trainer"],
        "max_steps": steps,
        "num_generations": size.group,
        "per_device_train_batch_size": rows,
        "max_completion_length": size.completion,
        "generation_kwargs": {"suppress_tokens": eos if isinstance(eos, list) else [eos]},
        "use_cpu": device == "cpu",
        "bf16": device == "cuda",
        **({"model_init_kwargs": {"dtype": "bfloat16"}} if lora else {}),
        **options,
    }
    out = folder / f"run-{len(list(folder.glob('run-*')))}"
    settings = {
        "model": str(base),
        "method": "grpo",
        "data": {"train": str(data)},
        "rewards": [{"name": f"{__name__}.varied_rewards"}],
        "out": str(out),
        "sharing": sharing,
        "min_pixels": size.edge**2,
        "max_pixels": size.edge**2,
        "trainer": trainer,
        **({"lora": {"r": 16, "alpha": 32}} if lora else {}),
    }
    file = folder / f"{out.name}.yaml"
    file.write_text(yaml.safe_dump(settings))
    config = load_config(file)
    figures, printed = Figures(device), io.StringIO()
    with figures.timed_generation(), contextlib.redirect_stderr(printed):
        figures.model = train_grpo(config, progress=figures)
    logs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    figures.finish(logs, printed.getvalue())
    memory = float(torch.cuda.get_device_properties(0).total_memory) if device == "cuda" else None
    plan = make_plan(config, cpu=device == "cpu", device=memory, completion=size.completion)
    figures.estimate = plan.peak(shared=plan.run.shares)
    if not all(map(math.isfinite, (*figures.losses, *figures.gradients))) or not any(figures.gradients):
        raise UserError(f"losses {figures.losses} and gradient norms {figures.gradients} should be finite and not 0")
    return figures


def check_saved(folder: Path, base: Path) -> str:
    """Check a trained model: its tensors have the names and dtypes of its base model, and it can be loaded.

    Args:
        folder: The trained model.
        base: The model it was trained from.

    Returns:
        A summary of the check.

    Raises:
        UserError: A name or dtype differs, no weight changed, or a loaded weight is NaN or Inf.
    """
    wanted, saved = _tensors(base), _tensors(folder)
    if saved.keys() != wanted.keys():
        names = sorted(saved.keys() ^ wanted.keys())
        raise UserError(f"{len(names)} tensor names differ from the base's, for example {names[0]}")
    other = [name for name in wanted if saved[name].dtype != wanted[name].dtype]
    if other:
        raise UserError(
            f"{len(other)} of {len(wanted)} tensors are {saved[other[0]].dtype}, in the base {wanted[other[0]].dtype}: "
            f"for example {other[0]}"
        )
    changed = sum(not torch.equal(saved[name], wanted[name]) for name in wanted)
    if not changed:
        raise UserError("the saved weights are those of the base: nothing was trained")
    name = str(next(iter(wanted.values())).dtype).removeprefix("torch.")
    policy = load_policy(str(folder), dtype=name, device="cpu")
    loaded = policy.model.state_dict()
    if not all(bool(torch.isfinite(value).all()) for value in loaded.values()):
        raise UserError("the loaded weights are not finite")
    return f"{len(wanted)} tensors in {name}, {changed} of them changed by the training"


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return tensors


def shard_on_one_process(device: str) -> None:
    """Set up FSDP2 in accelerate with a world size of 1. Call this function before a trainer is built.

    accelerate 1.15 enables FSDP only for GPUs and similar devices (`AcceleratorState`: MULTI_GPU, ..., not MULTI_CPU).
    PyTorch's FSDP2 also works on a CPU with gloo.
    """
    os.environ |= _SETTINGS["fsdp2"]
    if device == "cpu":
        from accelerate import PartialState, utils

        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
        PartialState._prepare_backend = lambda self, *_, **__: ("gloo", utils.DistributedType.MULTI_GPU)
    torch.distributed.init_process_group("gloo" if device == "cpu" else "cuda:nccl,cpu:gloo")
