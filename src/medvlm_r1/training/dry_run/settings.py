"""What of a configuration the arithmetic needs: the batch, the run and how it lies on its devices."""

from __future__ import annotations

import functools

from medvlm_r1.errors import UserError
from medvlm_r1.training import options
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.dry_run.batch import Batch
from medvlm_r1.training.dry_run.launch import Launch
from medvlm_r1.training.dry_run.memory import Placement, Precision
from medvlm_r1.training.dry_run.shape import Shape
from medvlm_r1.training.dry_run.work import Prompts, Run

FEATURES_BYTES = 512e6
"""`training.grpo.FEATURES_MB`, which the tests hold this against: importing it would import the whole trainer."""
_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "bf16": 2, "float16": 2, "fp16": 2, "half": 2}


def read_batch(config: RunConfig, samples: int, processes: int) -> Batch:
    """How the run is cut into steps.

    Raises:
        UserError: There are too few samples for one generation.
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
            f"One generation takes {batch.generation_prompts} prompts and the data have {samples}; lower "
            "trainer.per_device_train_batch_size or trainer.gradient_accumulation_steps."
        )
    return batch


def read_shares(config: RunConfig, launch: Launch, notes: list[str]) -> bool:
    """Whether this run shares its prompts; a note says why not where it would be expected."""
    if config.method != "grpo" or not config.sharing:
        return False
    if launch.sharding in ("zero3", "fsdp2"):
        notes.append(f"Weights are sharded ({launch.sharding}): prompts are computed once per completion, TRL's way.")
        return False
    rows, group = (
        options.value(config.method, config.trainer, name)
        for name in ("per_device_train_batch_size", "num_generations")
    )
    if rows < group:
        notes.append(
            f"per_device_train_batch_size ({rows}) is below num_generations ({group}): in the update a prompt is "
            f"computed {-(-group // rows)} times; with {group} it is computed once."
        )
    return True


def read_kept(shape: Shape, prompts: Prompts, batch: Batch) -> float:
    """Share of the images whose features are not kept from an earlier epoch (`training.grpo.FEATURES_MB`)."""
    size = sum(prompts.image_tokens) * shape.model.text.hidden * shape.model.tower.levels * 2
    return min(1.0, 1.0 / batch.epochs_done) if size <= FEATURES_BYTES and batch.epochs_done else 1.0


def read_run(config: RunConfig, batch: Batch, completion: int | None, kept: float, notes: list[str]) -> Run:
    """What is computed of the batch. `completion` replaces the limit on the tokens of a completion."""
    option = functools.partial(options.value, config.method, config.trainer)
    checkpointing = bool(option("gradient_checkpointing"))
    if config.method == "sft":
        # The letter and the token that ends the turn.
        return Run(
            batch=batch, completion=completion or 2, reference=False, old_policy=False, generates=False,
            checkpointing=checkpointing, kept=1.0,
        )  # fmt: skip
    vllm = bool(option("use_vllm"))
    notes.append(
        f"Completions are counted with {completion} tokens each, as asked."
        if completion
        else "Every completion is counted with its full length, which bounds the cost from above."
    )
    if vllm:
        notes.append("vLLM writes the completions and computes a prompt once by itself, in both columns.")
        if option("vllm_mode") == "server":
            notes.append("The vLLM server runs on devices of its own; its work is counted, its memory is not.")
        else:
            notes.append("The share of the memory that vLLM takes is in the figures of the cards alone.")
    if option("beta") == 0.0:
        notes.append("beta is 0: no reference; groups of equal rewards would be left out, which is not counted.")
    return Run(
        batch=batch,
        completion=completion or option("max_completion_length"),
        reference=option("beta") != 0.0,
        old_policy=batch.scores_old_policy or (vllm and option("vllm_importance_sampling_correction")),
        prefix_cached=vllm,
        checkpointing=checkpointing,
        kept=1.0 if option("sync_ref_model") else kept,
    )


def read_placement(config: RunConfig, shape: Shape, launch: Launch, *, cpu: bool = False) -> Placement:
    """Types, sharding and optimizer; `cpu` when the run has no GPU.

    Raises:
        UserError: A type of weights that is not counted.
    """
    option = functools.partial(options.value, config.method, config.trainer)
    asked = str((config.trainer.get("model_init_kwargs") or {}).get("dtype", "float32")).removeprefix("torch.")
    weights = _BYTES.get(shape.dtype if asked == "auto" else asked)
    if weights is None:
        raise UserError(
            f"trainer.model_init_kwargs: dtype {asked!r} is not counted; wanted {', '.join(_BYTES)} or auto."
        )
    # TRL: bf16 unless fp16 is asked for; on a CPU where it is asked for (`arguments.training_arguments`).
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
