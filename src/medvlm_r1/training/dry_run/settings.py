"""Settings that the dry run needs, from a configuration with TRL's defaults: the run and its devices."""

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.training import options
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.dry_run.shape import Shape

Sharding = Literal["none", "zero2", "zero3", "fsdp2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Number of processes (one per device) and sharding of a run."""

    processes: int = 1
    sharding: Sharding = "none"


def read_launch(path: Path) -> Launch:
    """Read a configuration file of `accelerate launch`, such as recipes/accelerate/*.yaml.

    Raises:
        UsageError: accelerate cannot read the file, or the dry run does not support its sharding (FSDP1, ZeRO-1).
    """
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        config = load_config_from_file(str(path))
    # PyYAML and accelerate raise exceptions of many types.
    except Exception as error:
        # accelerate raises an AttributeError for an empty file or a list.
        why = "it has no keys with values" if isinstance(error, AttributeError) else error
        raise UsageError(f"{path}: not a configuration of accelerate launch ({why})") from error
    kind = str(getattr(config.distributed_type, "value", config.distributed_type))
    processes = max(1, int(config.num_processes))
    if kind in ("NO", "MULTI_GPU", "MULTI_CPU"):
        return Launch(processes=processes)
    stage = (config.deepspeed_config or {}).get("zero_stage")
    if kind == "DEEPSPEED" and stage in (2, 3):
        return Launch(processes=processes, sharding="zero2" if stage == 2 else "zero3")
    version = (config.fsdp_config or {}).get("fsdp_version")
    if kind == "FSDP" and version == 2:
        return Launch(processes=processes, sharding="fsdp2")
    raise UsageError(
        f"{path}: distributed_type {kind} (ZeRO stage {stage}, FSDP version {version}); the dry run supports one "
        "device, MULTI_GPU, ZeRO-2, ZeRO-3 and FSDP2."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Number of steps of a run, and the settings that determine its memory use. For SFT a group has one row."""

    samples: int
    """Questions in the data set."""
    rows: int
    """Rows per forward and backward pass on a device (`per_device_train_batch_size`)."""
    accumulation: int
    """Forward and backward passes per optimizer step (`gradient_accumulation_steps`)."""
    group: int
    """Completions per prompt (`num_generations`)."""
    passes_per_generation: int
    """Number of passes that the completions of one generation are split into (`steps_per_generation`)."""
    completion: int
    """Tokens per completion."""
    weights: int
    """Bytes per stored weight."""
    compute: int
    """Bytes per activation in a matrix product."""
    adapters: bool = False
    """Whether only low-rank adapters are trained, in float32."""
    launch: Launch = Launch()
    iterations: int = 1
    """Number of times each completion is used (`num_iterations`)."""
    epochs: float = 1.0
    max_steps: int = -1
    """Number of optimizer steps, instead of `epochs`, if it is above 0."""
    optimizer: str = "adamw_torch_fused"
    checkpointing: bool = False
    """Whether layers are recomputed in the backward pass (`gradient_checkpointing`)."""
    cpu: bool = False
    """Whether the device is a CPU, whose memory also holds the libraries."""
    generates: bool = False
    """Whether completions are generated; False for SFT, which uses an incomplete last batch."""
    shares: bool = False
    """Whether the run shares prompts."""
    reference: bool = False
    """Whether a reference model is used (beta above 0)."""
    vllm: bool = False
    """Whether vLLM generates, with its own memory for weights and KV cache."""
    vllm_share: float = 0.0
    """Share of the device memory reserved by a colocated vLLM."""
    vllm_sleeps: bool = False
    """Whether vLLM releases its memory during the update."""

    @property
    def generation_rows(self) -> int:
        """Number of completions per generation, on all devices together."""
        return self.rows * self.launch.processes * self.passes_per_generation

    @property
    def generation_prompts(self) -> int:
        """Number of prompts per generation, on all devices together."""
        return self.generation_rows // self.group

    @property
    def passes_per_epoch(self) -> int:
        """Passes per epoch on a device. GRPO drops an incomplete last generation (`RepeatSampler` of TRL)."""
        if not self.generates:
            return math.ceil(self.samples / self.generation_prompts)
        return self.samples // self.generation_prompts * self.passes_per_generation * self.iterations

    @property
    def steps(self) -> int:
        """Number of optimizer steps, computed as in transformers' `Trainer.set_initial_training_values`."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.epochs * max(math.ceil(self.passes_per_epoch / self.accumulation), 1))

    @property
    def step_prompts(self) -> float:
        """Number of new prompts per optimizer step, on all devices together."""
        return self.rows * self.accumulation * self.launch.processes / (self.iterations * self.group)

    @property
    def epochs_done(self) -> float:
        """Number of epochs that the steps correspond to."""
        return self.steps * self.step_prompts / self.samples

    def prompts_in(self, rows: int) -> int:
        """Number of prompts that `rows` adjacent rows on a device belong to."""
        return max(1, math.ceil(rows / self.group))

    @property
    def precision(self) -> str:
        """Precision of the run, as a key in the tables of `dry_run.memory`."""
        if self.weights == 4:
            return "float32" if self.compute == 4 else "autocast"
        return "adapters" if self.adapters else "half"

    @property
    def weight(self) -> int:
        """Bytes per weight of the base model during the run."""
        return 2 if self.deepspeed and self.compute == 2 else self.weights

    @property
    def learned(self) -> int:
        """Bytes per trained weight. Its gradient has the same size."""
        return 4 if self.adapters and not self.deepspeed else self.weight

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed is used: bf16 weights, and float32 master weights in the optimizer."""
        return self.launch.sharding in ("zero2", "zero3")


_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "bf16": 2, "float16": 2, "fp16": 2, "half": 2}


def read_run(
    config: RunConfig,
    shape: Shape,
    samples: int,
    launch: Launch,
    notes: list[str],
    *,
    cpu: bool = False,
    completion: int | None = None,
) -> Run:
    """Read the settings of a run from its configuration, with TRL's defaults.

    Args:
        config: Configuration of the run.
        shape: Sizes of its model.
        samples: Number of questions in the data set.
        launch: Number of processes and sharding.
        notes: Assumptions and limitations are appended to this list.
        cpu: Whether the run uses a CPU.
        completion: Tokens per completion, instead of the configured maximum.

    Raises:
        UserError: There are fewer samples than prompts in one generation, or the dtype of the weights is not supported.
    """
    option = functools.partial(options.value, config.method, config.trainer)
    dtype = str((config.trainer.get("model_init_kwargs") or {}).get("dtype", "float32")).removeprefix("torch.")
    weights = _BYTES.get(shape.dtype if dtype == "auto" else dtype)
    if weights is None:
        raise UserError(
            f"trainer.model_init_kwargs: dtype {dtype!r} is not supported; wanted {', '.join(_BYTES)} or auto."
        )
    # TRL's default is bf16. On a CPU the default is float32 (`arguments.training_arguments`).
    half = bool(option("fp16")) or (option("bf16") is True if cpu else option("bf16") is not False)
    rows, accumulation = option("per_device_train_batch_size"), option("gradient_accumulation_steps")
    settings: dict[str, Any] = {
        "samples": samples,
        "rows": rows,
        "accumulation": accumulation,
        "epochs": float(option("num_train_epochs")),
        "max_steps": option("max_steps"),
        "weights": weights,
        "compute": 2 if half else weights,
        "adapters": config.lora is not None,
        "launch": launch,
        "optimizer": str(getattr(option("optim"), "value", option("optim"))),
        "checkpointing": bool(option("gradient_checkpointing")),
        "cpu": cpu,
    }
    if config.method == "sft":
        # The completion is the letter and the end token.
        return Run(**settings, group=1, passes_per_generation=1, completion=completion or 2)
    size = option("generation_batch_size")
    passes = size // (rows * launch.processes) if size else option("steps_per_generation") or accumulation
    vllm = bool(option("use_vllm"))
    colocated = vllm and option("vllm_mode") == "colocate"
    run = Run(
        **settings,
        group=option("num_generations"),
        passes_per_generation=max(1, passes),
        iterations=option("num_iterations"),
        completion=completion or option("max_completion_length"),
        generates=True,
        shares=config.sharing,
        reference=option("beta") != 0.0,
        vllm=vllm,
        vllm_share=float(option("vllm_gpu_memory_utilization")) if colocated else 0.0,
        vllm_sleeps=bool(colocated and option("vllm_enable_sleep_mode")),
    )
    if run.generation_prompts > samples:
        raise UserError(
            f"One generation needs {run.generation_prompts} prompts, and the data set has {samples}. Lower "
            "trainer.per_device_train_batch_size or trainer.gradient_accumulation_steps."
        )
    if run.shares and launch.sharding in ("zero3", "fsdp2"):
        notes.append(f"Weights are sharded ({launch.sharding}), but every device holds all of them while it generates.")
    if run.shares and rows < run.group:
        notes.append(
            f"per_device_train_batch_size ({rows}) is below num_generations ({run.group}). Each prompt is therefore "
            f"computed {-(-run.group // rows)} times in the update; with {run.group} it is computed once."
        )
    notes.append(
        f"Assumes {completion} tokens per completion (--completion-tokens)."
        if completion
        else "Assumes completions of the maximum length: an upper bound."
    )
    if colocated:
        notes.append("The memory that vLLM reserves is counted only when --memory is given.")
    elif vllm:
        notes.append("The vLLM server runs on other devices; its memory is not counted.")
    return run
