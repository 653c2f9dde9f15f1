"""TRL's configuration object for a run, validated before a model is loaded."""

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError
from medvlm_r1.training import options
from medvlm_r1.training.config import RunConfig


def training_arguments(config: RunConfig, *, processes: int | None = None) -> Any:
    """Build TRL's configuration object for a run.

    Without a GPU the run uses the CPU in float32. Model arguments (`model_init_kwargs`) are omitted, because the policy
    is loaded before the trainer is built.

    Args:
        config: Configuration of the run.
        processes: For a dry run, the number of devices of the planned machine. The result then only serves to check
            the options.

    Raises:
        UsageError: TRL or transformers reject the options, or the package of a `report_to` is not installed.
    """
    import torch
    from transformers.integrations import get_reporting_integration_callbacks

    given = {**config.trainer}
    given.pop("model_init_kwargs", None)
    if processes is not None:
        for name in options.OF_THE_MACHINE:
            given.pop(name, None)
        given["use_cpu"] = True
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            given[name] = options.value(config.method, given, name) * processes
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        given.setdefault("use_cpu", True)
    if given.get("use_cpu"):
        given.setdefault("bf16", False)
        given.setdefault("dataloader_pin_memory", False)
    if config.method == "grpo":
        given["reward_weights"] = [reward.weight for reward in config.rewards]
    if config.data.order:
        given["shuffle_dataset"] = False
    if str(given.get("eval_strategy", "no")) != "no" and config.data.eval is None:
        raise UsageError("trainer.eval_strategy is set but data.eval names no folder to evaluate on")
    try:
        with warnings.catch_warnings():
            # transformers 5 renamed gradient_checkpointing, but TRL and its users still use the old name.
            warnings.simplefilter("ignore", FutureWarning)
            args = options.config_class(config.method)(
                output_dir=str(Path(config.out) / "checkpoints"), seed=config.seed, **given
            )
            _try_optimizer(args, other_machine=processes is not None)
            _try_generation(given)
            if processes is None:
                for reporter in get_reporting_integration_callbacks(args.report_to):
                    reporter()
    except (ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError, OSError) as error:
        hint = options.GROUPS if "generation_batch_size (" in str(error) else ""
        raise UsageError(f"TRL refuses the options under 'trainer': {error}{hint}") from error
    return args


def warn_of_one_process(args: Any) -> None:
    """Warn if `accelerate launch` was configured for several processes but started one, which makes a step smaller.

    On CPUs it starts several processes only with `mpirun`. Without `mpirun` it sets the address of the main process
    (`MASTER_ADDR`) but not the number of processes (`WORLD_SIZE`).
    """
    if not {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys() or "WORLD_SIZE" in os.environ:
        return
    if args.world_size == 1:
        rows, passes = args.per_device_train_batch_size, args.gradient_accumulation_steps
        print(
            "Warning: the configuration of `accelerate launch` has several processes, and one was started (MULTI_CPU "
            f"needs mpirun). A step has {rows * passes} completions: per_device_train_batch_size {rows} x "
            f"gradient_accumulation_steps {passes} x 1 process. To start N processes on CPUs: torchrun "
            "--nproc_per_node N -m medvlm_r1 train ...",
            file=sys.stderr,
        )


def _try_optimizer(args: Any, *, other_machine: bool) -> None:
    """Build the optimizer and the schedule for a single weight, so that transformers checks their options."""
    import torch
    from transformers import Trainer, get_scheduler

    weight = torch.nn.Parameter(torch.zeros(1))
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = kind([weight], **{name: value for name, value in settings.items() if name != "optim_dict"})
    except ImportError:
        # A dry run does not need bitsandbytes and similar packages.
        if not other_machine:
            raise
        optimizer = torch.optim.SGD([weight])
    get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=0,
        num_training_steps=100,
        scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
    )


def _try_generation(given: Mapping[str, Any]) -> None:
    """Check `generation_kwargs` with transformers, unless vLLM generates."""
    from transformers import GenerationConfig

    more = dict(given.get("generation_kwargs") or {})
    if given.get("use_vllm"):
        return
    unknown = sorted(more.keys() - GenerationConfig().__dict__.keys())
    if unknown:
        raise ValueError(
            f"generation_kwargs has {unknown[0]!r}; {did_you_mean(unknown[0], GenerationConfig().__dict__)}"
        )
    known = options.types_of("grpo")
    more = {name: options.typed(name, value, known[name]) if name in known else value for name, value in more.items()}
    if given.get("cache_implementation"):
        more["cache_implementation"] = given["cache_implementation"]
    GenerationConfig(**{"max_new_tokens": 1, "do_sample": True, **more}).validate()
