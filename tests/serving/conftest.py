"""A tiny model that never ends by itself, and a real server with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served, serving

from medvlm_r1.policy.load import load_policy
from medvlm_r1.serving.engine import Engine


@pytest.fixture(scope="session")
def endless_policy(tiny_policy_dir: Path) -> Any:
    """The tiny policy with the end token's logit at 0, which the best of four hundred others always beats."""
    import torch

    policy = load_policy(str(tiny_policy_dir))
    with torch.no_grad():
        policy.model.lm_head.weight[policy.processor.tokenizer.eos_token_id] = 0
    return policy


@pytest.fixture(scope="session")
def endless_dir(endless_policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a folder."""
    folder = tmp_path_factory.mktemp("models") / "endless"
    endless_policy.model.save_pretrained(folder)
    endless_policy.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def make_engine(endless_policy: Any) -> Iterator[Callable[..., Engine]]:
    """Makes engines of the endless policy; they are closed at the end."""
    made: list[Engine] = []

    def make(**settings: Any) -> Engine:
        made.append(Engine(endless_policy, **settings))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture(scope="session")
def served(endless_policy: Any) -> Iterator[Served]:
    """One server for the tests that leave it as it was."""
    with serving(Engine(endless_policy, max_batch=8, queue=64)) as server:
        yield server
