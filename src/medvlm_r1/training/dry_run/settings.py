"""Batch, run and devices of a configuration, with TRL's defaults."""

from __future__ import annotations

import functools

from medvlm_r1.errors import UserError
from medvlm_r1.training import options
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.dry_run.batch import Batch, Run
from medvlm_r1.training.dry_run.launch import Launch
from medvlm_r1.training.dry_run.memory import Placement, Precision
from medvlm_r1.training.dry_run.shape import Shape

_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "bf16": 2, "float16": 2, "fp16": 2, "half": 2}


def read_batch(config: RunConfig, samples: int, processes: int) -> Batch:
    """Size and number of the optimizer steps.

    Raises:
        UserError: There are fewer samples than prompts in one generation.
    """
    option = functools.partial(options.value, config.method, config.trainer)
    rows, accumulation = option("per_device_train_batch_size"), option("gradient_accumulation_steps")
    group = option("num_generations") if config.method == "grpo" else 1
    passes = 1
    if config.method == "grpo":
        size = option("generation_batch_size")
        passes = size // (rows * processes) if size else option("steps_per_generation") or accumulation
    batch = Batch(
        samples=samples,
        rows=rows,
        accumulation=accumulation,
        group=group,
        processes=processes,
        passes_per_generation=max(1, passes),
        iterations=option("num_iterations") if config.method == "grpo" else 1,
        epochs=float(option("num_train_epochs")),
        keeps_rest=config.method == "sft",
        max_steps=option("max_steps"),
    )
    if config.method == "grpo" and batch.generation_prompts > samples:
        raise UserError(
            f"One generation needs {batch.generation_prompts} prompts, and the data set has {samples}. Lower "
            "trainer.per_device_train_batch_size or trainer.gradient_accumulation_steps."
        )
    return batch


def read_shares(config: RunConfig, launch: Launch, notes: list[str]) -> bool:
    """Whether the run shares its prompts. A note explains why sharing is off or incomplete."""
    if config.method != "grpo" or not config.sharing:
        return False
    if launch.sharding in ("zero3", "fsdp2"):
        notes.append(f"Weights are sharded ({launch.sharding}): prompts are computed once per completion, as in TRL.")
        return False
    rows, group = (
        options.value(config.method, config.trainer, name)
        for name in ("per_device_train_batch_size", "num_generations")
    )
    if rows < group:
        notes.append(
            f"per_device_train_batch_size ({rows}) is below num_generations ({group}). Each prompt is therefore "
            f"computed {-(-group // rows)} times in the update; with {group} it is computed once."
        )
    return True


def read_run(config: RunConfig, batch: Batch, completion: int | None, notes: list[str]) -> Run:
    """Settings that determine the memory. `completion` replaces the limit on the tokens of a completion."""
    option = functools.partial(options.value, config.method, config.trainer)
    checkpointing = bool(option("gradient_checkpointing"))
    if config.method == "sft":
        # The letter and the end token.
        tokens = completion or 2
        return Run(batch=batch, completion=tokens, reference=False, generates=False, checkpointing=checkpointing)
    vllm = bool(option("use_vllm"))
    notes.append(
        f"Assumes {completion} tokens per completion (--completion-tokens)."
        if completion
        else "Assumes completions of the maximum length: an upper bound."
    )
    if vllm and option("vllm_mode") == "server":
        notes.append("The vLLM server runs on other devices; its memory is not counted.")
    elif vllm:
        notes.append("The memory that vLLM reserves is counted only when --memory is given.")
    return Run(
        batch=batch,
        completion=completion or option("max_completion_length"),
        reference=option("beta") != 0.0,
        vllm=vllm,
        checkpointing=checkpointing,
    )


def read_placement(config: RunConfig, shape: Shape, launch: Launch, *, cpu: bool = False) -> Placement:
    """Precision, sharding and optimizer.

    Args:
        config: The run.
        shape: Its model.
        launch: Its devices.
        cpu: Whether it runs on a CPU.

    Raises:
        UserError: The dtype of the weights is not supported.
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
    colocated = config.method == "grpo" and option("use_vllm") and option("vllm_mode") == "colocate"
    return Placement(
        precision=Precision(weights=weights, compute=2 if half else weights, adapters=config.lora is not None),
        processes=launch.processes,
        sharding=launch.sharding,
        optimizer=str(getattr(option("optim"), "value", option("optim"))),
        vllm_share=float(option("vllm_gpu_memory_utilization")) if colocated else 0.0,
        vllm_sleeps=bool(colocated and option("vllm_enable_sleep_mode")),
        cpu=cpu,
    )
