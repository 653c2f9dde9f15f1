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
