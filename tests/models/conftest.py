"""A loaded tiny policy and copies of its folder."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def policy(tiny_policy_dir):
    """The tiny policy in evaluation mode."""
    from medvlm_r1.models.load import load_policy

    return load_policy(str(tiny_policy_dir), device="cpu")


@pytest.fixture
def copy(tiny_policy_dir, tmp_path):
    """A copy of the tiny policy that a test may damage."""
    return Path(shutil.copytree(tiny_policy_dir, tmp_path / "copy"))


@pytest.fixture
def half(policy, tmp_path):
    """The tiny policy stored in bfloat16."""
    policy.model.bfloat16().save_pretrained(tmp_path / "half")
    policy.processor.save_pretrained(tmp_path / "half")
    return tmp_path / "half"
