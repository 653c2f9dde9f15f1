"""Models that lie: headers of safetensors files and small files changed at random, and pickles in their place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import Case, hammer, hammer_on, mutant
from safetensors.torch import load_file

from medvlm_r1.errors import UserError
from medvlm_r1.models.load import load_policy

SMALL_FILES = ("config.json", "tokenizer_config.json", "processor_config.json", "generation_config.json")
WORDS = [
    *(b'"F32"', b'"I64"', b'"F8"', b'"shape":[]', b"[0,0]", b"-1", b"9" * 30, b"[1,9223372036854775807]", b"null"),
    *(b"{", b"}", b'"', b"[" * 3000, b"\xff", b"NaN", b"true", b'"dtype"', b'"data_offsets"', b'"__metadata__"'),
    *(b"\\u0000", b"qwen2", b"0", b"1e9", b"vocab_size", b"auto_map", b"trust_remote_code", b"hidden_size"),
]
CASES = 60


@pytest.fixture
def model(tiny_policy_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny policy that a test may damage."""
    return Path(shutil.copytree(tiny_policy_dir, tmp_path / "model"))


def header_changed(weights: bytes) -> Callable[[int], bytes]:
    """Cases that change the header of a safetensors file, with its length put right in three of four."""
    length = int.from_bytes(weights[:8], "little")
    header, tensors = weights[8 : 8 + length], weights[8 + length :]

    def case(number: int) -> bytes:
        if number % 4 == 0:
            return mutant([weights], number, within=16)
        changed = mutant([header], number, tokens=WORDS)
        return len(changed).to_bytes(8, "little") + changed + tensors

    return case


def loading(path: Path) -> None:
    load_policy(str(path.parent), device="cpu")


def case_of(file: Path) -> Case:
    sound = file.read_bytes()
    return header_changed(sound) if file.suffix == ".safetensors" else lambda n: mutant([sound], n, tokens=WORDS)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_models(model, tried, name):
    load_policy(str(model))
    result = hammer(case_of(model / name), range(CASES), model / name, loading)
    assert result["refused"] > CASES // 4, result
    tried("lying-weights", CASES)


@pytest.mark.soak(share=0.4)
@pytest.mark.parametrize("name", ["model.safetensors", *SMALL_FILES])
def test_soak_damaged_models(model, tried, soaking, name):
    load_policy(str(model))
    tried("lying-soak", hammer_on(case_of(model / name), CASES, model / name, loading, soaking, step=20))


class Trap:
    """Pickled, it makes a folder where it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.folder),))


@pytest.fixture
def trap(tmp_path):
    """A trap, which must not have sprung at the end of the test."""
    yield Trap(tmp_path / "sprung")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickled_weights_are_refused_unread(model, trap, tried, suffix):
    (model / "model.safetensors").unlink()
    torch.save(trap, model / f"pytorch_model{suffix}")
    with pytest.raises(UserError, match=rf"only pytorch_model\{suffix}.*convert it once") as refusal:
        load_policy(str(model))
    assert str(model) in str(refusal.value)
    tried("no-pickle", 1)


def test_a_pickle_beside_good_weights_is_not_opened(model, trap, tried):
    names = ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt", "adapter_model.bin")
    for name in names:
        torch.save(trap, model / name)
    load_policy(str(model))
    tried("no-pickle", len(names))


def test_an_index_cannot_point_at_a_pickle(model, trap, tried):
    torch.save(trap, model / "x.bin")
    keys = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / "other.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(keys, "x.bin")}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"names x\.bin as weights"):
        load_policy(str(model))
    tried("no-pickle", 1)


@pytest.mark.soak(share=0)
def test_soak_the_way_to_convert_is_right(model: Path, tmp_path: Path, tried: Callable[[str, int], None]) -> None:
    """The command in the message, as a user would run it."""
    sound = load_file(model / "model.safetensors")
    torch.save(sound, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError) as refusal:
        load_policy(str(model))
    code = str(refusal.value).partition('python -c "')[2].partition('"')[0]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    assert load_policy(str(tmp_path / "safe"), device="cpu").model.state_dict().keys()
    tried("no-pickle", 1)
