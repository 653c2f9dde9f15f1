"""Number of devices and sharding, from an `accelerate launch` file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medvlm_r1.errors import UsageError

Sharding = Literal["none", "zero2", "zero3", "fsdp2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Devices of a run."""

    processes: int = 1
    sharding: Sharding = "none"


def read_launch(path: Path) -> Launch:
    """Read one of recipes/accelerate/*.yaml, or a file of the same kind.

    Raises:
        UsageError: accelerate cannot read it, or the dry run does not support its sharding (FSDP1, ZeRO-1).
    """
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        config = load_config_from_file(str(path))
    # PyYAML and accelerate raise exceptions of many types.
    except Exception as error:
        # An empty file, or a list, ends in an AttributeError of accelerate.
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
