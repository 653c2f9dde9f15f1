"""A policy and questions for comparisons of trainers."""

import pytest
import torch
from questions import noise, write_questions

from medvlm_r1.models.load import load_policy
from medvlm_r1.training.dataset import build_dataset, load_samples


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
