"""A GRPO run whose completions are written beforehand, so that runs can be compared: `written_run.py CONFIG OUT`.

It runs alone or under a launcher with several processes.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Sequence
from typing import Any

from accelerate.utils import gather_object

from benchmarks.replay import replaying
from medvlm_r1.training import loop
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo

GROUP = 4


def main(config: str, out: str, *overrides: str, progress: Any = None) -> None:
    plain = loop.load_policy

    def load_policy(*args: Any, **kwargs: Any) -> Any:
        policy = plain(*args, **kwargs)
        end = policy.model.generation_config.eos_token_id

        def completions(prompt: Sequence[int]) -> list[list[int]]:
            start = zlib.crc32(repr(prompt).encode()) % 50
            return [[20 + (start + 7 * row + place) % 90 for place in range(1 + row)] + [end] for row in range(GROUP)]

        replaying(policy.model, completions)
        return policy

    loop.load_policy = load_policy  # type: ignore[assignment]
    try:
        train_grpo(load_config(config, [f"out={out}", *overrides]), progress=progress, evaluate=_processes)
    finally:
        loop.load_policy = plain
    print("sharded:", *sorted(_sharded), sep="\n")


def _processes(policy: Any, step: int) -> dict[str, float]:
    """An evaluation that every process has to call."""
    return {"processes": len(gather_object([policy.model.training]))}


_sharded: set[str] = set()
"""Names of the modules whose weights were split over the processes."""


def shard_on_cpus() -> None:
    """Let accelerate shard weights over processes on CPUs, where the launch file is that of FSDP2.

    PyTorch's FSDP2 works over gloo, and so does all that accelerate does with it; but accelerate takes FSDP for GPUs
    and their like alone (`AcceleratorState`: MULTI_GPU, MULTI_XPU, ... and not MULTI_CPU).
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
        for one in module if isinstance(module, list | tuple) else [module]:
            _sharded.add(type(one).__name__)
        return plain(module, **options)

    fsdp.fully_shard = fully_shard


if __name__ == "__main__":
    shard_on_cpus()
    main(*sys.argv[1:])
