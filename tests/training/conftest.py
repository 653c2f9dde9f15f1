"""A policy and questions for comparisons of trainers."""

import pytest
import sample_rewards
import torch
from questions import noise, write_questions

from medvlm_r1.models.load import load_policy
from medvlm_r1.training.config import load_config
from medvlm_r1.training.dataset import build_dataset, load_samples


@pytest.fixture(autouse=True)
def _nothing_seen(monkeypatch):
    sample_rewards.SEEN.clear()
    monkeypatch.setattr(sample_rewards.TROUBLE, "begun", False)


@pytest.fixture
def configure(write_config):
    """A function that loads the configuration of two short steps, changed by its arguments."""
    return lambda method="grpo", *overrides, **changes: load_config(write_config(method, **changes), overrides)


@pytest.fixture
def train(configure):
    """A function that trains with the configuration of two short steps, changed by its arguments; the run folder."""
    from medvlm_r1.training.grpo import train_grpo
    from medvlm_r1.training.sft import train_sft

    def train(method="grpo", *overrides, progress=None, evaluate=None, **changes):
        run = {"grpo": train_grpo, "sft": train_sft}[method]
        return run(configure(method, *overrides, **changes), progress=progress, evaluate=evaluate).parent

    return train


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Eight questions of unequal lengths, on images of unequal sizes; two have two images."""
    images = [
        [noise(56, 28 + 14 * (index % 3), 10 * index + number) for number in range(2 if index % 4 == 3 else 1)]
        for index in range(8)
    ]
    folder = str(write_questions(tmp_path_factory.mktemp("questions"), images))
    return build_dataset(folder, load_samples(folder), template="medvlm-r1")


@pytest.fixture(scope="session")
def policy_dir(tiny_policy_dir, tmp_path_factory):
    """The tiny model with smaller weights, whose gradients do not blow rounding up."""
    policy = load_policy(str(tiny_policy_dir), dtype="float32", device="cpu")
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.ndim > 1:
                parameter *= 0.4
    folder = tmp_path_factory.mktemp("soft")
    policy.model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return folder
