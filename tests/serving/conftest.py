"""A tiny model that never ends by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvlm_r1.models.load import load_policy


@pytest.fixture(scope="session")
def endless_policy(tiny_policy_dir: Path) -> Any:
    """The tiny policy with the end token's logit at 0, which the best of four hundred others always beats."""
    import torch

    policy = load_policy(str(tiny_policy_dir))
    with torch.no_grad():
        policy.model.lm_head.weight[policy.processor.tokenizer.eos_token_id] = 0
    return policy


@pytest.fixture(scope="session")
def endless_dir(tiny_policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the tiny policy, ended by a token that is never drawn, and by no length a test has time for."""
    policy = load_policy(str(tiny_policy_dir))
    tokenizer = policy.processor.tokenizer
    tokenizer.eos_token = "<|image_pad|>"
    policy.model.generation_config.eos_token_id = tokenizer.eos_token_id
    policy.model.config.get_text_config().max_position_embeddings = 2**24
    folder = tmp_path_factory.mktemp("models") / "endless"
    policy.model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return folder
