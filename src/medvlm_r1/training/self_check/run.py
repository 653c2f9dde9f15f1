"""Run the checks of `medvlm-r1 doctor`, each in its own process, and write the report.

`python -m medvlm_r1.training.self_check.run NAME DEVICE` runs one check and prints its lines as JSON.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from medvlm_r1.console import fill
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import UserError

TIMEOUT = 300
"""Seconds after which a check is aborted and reported as failed."""


class Line(NamedTuple):
    """One line of the report."""

    check: str
    status: Literal["pass", "fail", "not available"]
    detail: str


def _equality(title: str, device: str, folder: Path) -> Iterator[Line]:
    import torch

    from medvlm_r1.models.families import FAMILIES
    from medvlm_r1.training.self_check.equality import compare

    torch.backends.cudnn.allow_tf32 = False
    for family in sorted(FAMILIES):
        for dtype in (torch.float32, torch.bfloat16):
            agrees, detail = compare(family, dtype, device)
            name = f"{title}, {family}, {str(dtype).removeprefix('torch.')}"
            yield Line(name, "pass" if agrees else "fail", detail)


def _grpo(title: str, device: str, folder: Path, *, lora: bool = False) -> Iterator[Line]:
    """Compare the trainer with plain TRL, its peak memory with the dry run's estimate, and its model with the base."""
    import torch

    from medvlm_r1.training.self_check.steps import SIZES, check_saved, run_grpo

    size = SIZES[device]
    memory = "peak memory against the dry run"
    if device == "cuda" and not lora:
        total = torch.cuda.get_device_properties(0).total_memory
        if total < size.memory:
            reason = f"needs {size.memory / 2**30:.0f} GiB of GPU memory; this GPU has {total / 2**30:.0f}"
            yield from (Line(line, "not available", reason) for line in (title, memory))
            return
    ours = run_grpo(folder, device, size, lora=lora)
    plain = run_grpo(folder, device, size, lora=lora, sharing=False)
    detail = (
        f"{size.prompts} x {size.group} completions of {size.completion} tokens, images of {size.edge} pixels; "
        f"generation {ours.generation:.2f} s (TRL {plain.generation:.2f}), update {ours.update:.2f} s "
        f"({plain.update:.2f}), step {ours.step:.2f} s ({plain.step:.2f}): {plain.step / ours.step:.2f} times as fast; "
        f"memory {ours.memory / 2**30:.2f} GiB ({plain.memory / 2**30:.2f}); the update reaches "
        f"{100 * ours.peak_share:.0f} % of the measured matrix-product peak"
    )
    yield Line(title, "fail", ours.notice) if ours.notice else Line(title, "pass", detail)
    if not lora:
        yield Line(
            memory,
            "pass" if ours.memory <= 1.15 * ours.estimate else "fail",
            f"measured {ours.memory / 2**30:.2f} GiB, estimated {ours.estimate / 2**30:.2f} GiB (limit: 15 % above the "
            "estimate)",
        )
    dtype = "bfloat16" if lora else "float32"
    try:
        yield Line(f"save and reload, {dtype}", "pass", check_saved(ours.model, folder / f"base-{dtype}"))
    except UserError as error:
        yield Line(f"save and reload, {dtype}", "fail", str(error))


def _vllm(title: str, device: str, folder: Path) -> Iterator[Line]:
    from medvlm_r1.training.self_check.steps import SIZES, run_grpo

    if device == "cpu" or find_spec("vllm") is None:
        reason = "weight transfer needs a GPU" if device == "cpu" else "vLLM is not installed"
        yield Line(title, "not available", reason)
        return
    options = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3}
    ours = run_grpo(folder, device, SIZES[device], lora=True, generation_kwargs={"ignore_eos": True}, **options)
    yield Line(title, "pass", f"generation {ours.generation:.2f} s, update {ours.update:.2f} s, step {ours.step:.2f} s")


def _fsdp2(title: str, device: str, folder: Path) -> Iterator[Line]:
    from medvlm_r1.training.self_check.steps import SIZES, check_saved, run_grpo, shard_on_one_process

    shard_on_one_process(device)
    ours = run_grpo(folder, device, SIZES[device], lora=True)
    saved = check_saved(ours.model, folder / "base-bfloat16")
    shared = "prompts computed TRL's way" if ours.notice else "prompts shared"
    yield Line(title, "pass", f"{len(ours.losses)} steps, {shared}, step {ours.step:.2f} s; {saved}")


CHECKS: dict[str, tuple[str, Callable[[str, str, Path], Iterator[Line]]]] = {
    "equality": ("shared forward", _equality),
    "step": ("GRPO step, full weights", _grpo),
    "lora": ("GRPO step, LoRA on bfloat16 weights", functools.partial(_grpo, lora=True)),
    "vllm": ("GRPO step, vLLM colocated", _vllm),
    "fsdp2": ("FSDP2, world size 1", _fsdp2),
}
"""Checks by name: a title, and the function that yields the lines of the report."""


def run_check(name: str, device: str) -> list[Line]:
    """Run a check in this process. An exception adds a line with status "fail"."""
    title, check = CHECKS[name]
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            lines.extend(check(title, device, Path(folder)))
        except Exception as error:
            lines.append(Line(title, "fail", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"))
    return lines


def run_all(names: Sequence[str], device: str, progress: Callable[[int, int, str], None]) -> list[Line]:
    """Run checks, each in its own process.

    Args:
        names: Keys of `CHECKS`.
        device: "cpu" or "cuda".
        progress: Called with the number of completed checks, the number of all checks, and the title of the next check.

    Returns:
        The lines of all checks, in order. A process that crashes or exceeds `TIMEOUT` has a line with status "fail".
    """
    lines: list[Line] = []
    for done, name in enumerate(names):
        title = CHECKS[name][0]
        progress(done, len(names), title)
        command = [sys.executable, "-m", __name__, name, device]
        # The models used on a CPU are too small to gain from a second thread.
        threads = {"OMP_NUM_THREADS": "1"} if device == "cpu" else {}
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env={**threads, **os.environ}
            )
        except subprocess.TimeoutExpired:
            lines.append(Line(title, "fail", f"no result after {TIMEOUT} s"))
            continue
        try:
            lines.extend(Line(*row) for row in json.loads(result.stdout.splitlines()[-1]))
        except (IndexError, TypeError, ValueError):
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            lines.append(Line(title, "fail", f"its process ended with code {result.returncode}: {last[:300]}"))
    progress(len(names), len(names), "")
    return lines


def write_report(out: Path, environment: Mapping[str, Any], device: str, lines: Sequence[Line]) -> dict[str, Any]:
    """Write the report to `doctor.json`, and as a table to `doctor.md`; return the content of `doctor.json`."""
    report = {"environment": environment, "device": device, "lines": [line._asdict() for line in lines]}
    table = fill(Path(__file__).with_name("report.md"), **report)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "doctor.json", json.dumps(report, indent=1) + "\n")
    atomic_write(out / "doctor.md", "\n".join(table) + "\n")
    return report


if __name__ == "__main__":
    print(json.dumps(run_check(sys.argv[1], sys.argv[2])), flush=True)
