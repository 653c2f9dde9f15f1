"""DDP, DeepSpeed and FSDP2 with two processes on CPUs take the steps that one process takes (`make test-engines`).

The results are written to `runs/engines.json`.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from test_distributed import TORCHRUN
from test_sharded import difference, mixed, plain_descent  # noqa: F401 - a fixture

from medvlm_r1.recipes import recipe
from tiny_policy import build_tiny_policy

pytestmark = pytest.mark.engines
LAUNCH = ["-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes=2", "--mixed_precision=no"]
LAUNCHERS = {
    "DDP": TORCHRUN,
    **{
        name: [*LAUNCH, "--main_process_port=0", "--config_file", str(recipe(f"accelerate/{file}.yaml"))]
        for name, file in {"ZeRO-2": "zero2", "ZeRO-3": "zero3", "FSDP2": "fsdp2"}.items()
    },
}
RECORD = Path(__file__).parents[2] / "runs/engines.json"


@pytest.fixture(scope="module")
def record() -> Iterator[list[dict[str, object]]]:
    """What every case measured, written at the end with the date and the versions."""
    rows: list[dict[str, object]] = []
    yield rows
    packages = {name: version(name) for name in ("torch", "transformers", "trl", "accelerate", "deepspeed")}
    text = json.dumps({"date": datetime.date.today().isoformat(), "packages": packages, "rows": rows}, indent=1)
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(text + "\n")


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "lora"])
@pytest.mark.parametrize("images", ["one", "mixed"])
@pytest.mark.parametrize("engine", list(LAUNCHERS))
def test_two_processes_take_the_steps_of_one(
    write_config: Callable[..., Path],
    data_dir: Path,
    mixed: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record: list[dict[str, object]],
    engine: str,
    images: str,
    lora: bool,
    beta: float,
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    data = mixed if images == "mixed" else data_dir
    (tmp_path / "tied").mkdir()
    build_tiny_policy(tmp_path / "tied", tied=True)
    config = plain_descent(write_config, data, beta=beta, lora=lora, model=tmp_path / "tied")
    base = load_file(tmp_path / "tied/model.safetensors")
    steps, weights, printed = difference(LAUNCHERS[engine], config, tmp_path, base)
    assert "TRL's way" not in printed
    record.append({"engine": engine, "images": images, "lora": lora, "beta": beta, "steps": steps, "weights": weights})
    assert steps <= 1e-4
    assert weights <= 1e-4
