"""Rows with and without images in one batch, and images of a single token."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from medvlm_r1.data import read_folder, write_folder
from medvlm_r1.models.families import keep_single_tokens
from medvlm_r1.models.sharing.forward import encode_images
from medvlm_r1.training.grpo import train_grpo
from medvlm_r1.training.self_check.tiny_models import TINY, Prompt


@pytest.fixture(scope="module")
def mixed(data_dir, tmp_path_factory):
    """Questions of which every other one has no image."""
    folder = tmp_path_factory.mktemp("mixed")
    shutil.copytree(data_dir / "images", folder / "images")
    samples = [
        replace(sample, images=() if number % 2 else sample.images)
        for number, sample in enumerate(read_folder(data_dir))
    ]
    write_folder(folder, samples, info={"name": "mixed", "source": "made by the tests", "license": "CC0-1.0"})
    return folder


def first_step(configure, mixed, out, **changes):
    trainer = {"per_device_train_batch_size": 16, "num_generations": 2, **changes.pop("trainer", {})}
    config = configure(data={"train": str(mixed)}, out=str(out), trainer=trainer, **changes)
    train_grpo(config)
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    return row


def test_without_sharing_the_figures_are_those_of_sharing(write_config, mixed, tmp_path):
    shared = first_step(write_config, mixed, tmp_path / "on")
    plain = first_step(write_config, mixed, tmp_path / "off", sharing=False)
    assert plain["num_tokens"] == shared["num_tokens"]
    assert plain["entropy"] == pytest.approx(shared["entropy"], abs=1e-4)
    assert plain["entropy"] > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"lora": {"dropout": 0.1}},
        # Parts of a batch in which no row has an image.
        {"sharing": False, "trainer": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16}},
        {"sharing": False, "trainer": {"num_iterations": 2, "gradient_checkpointing": True}},
    ],
    ids=["adapter dropout", "single rows", "two iterations"],
)
def test_batches_of_both_kinds_train(write_config, mixed, tmp_path, changes):
    assert first_step(write_config, mixed, tmp_path / "run", **changes)["entropy"] > 0


def test_a_single_image_of_a_single_token(monkeypatch):
    from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector

    monkeypatch.setattr(Mistral3MultiModalProjector, "forward", Mistral3MultiModalProjector.forward)
    keep_single_tokens()
    keep_single_tokens()
    tiny = TINY["mistral3"]
    model = tiny.model().eval()
    single, two = Prompt(3, ((1, 1),)), Prompt(3, ((1, 1), (2, 2)))
    with torch.no_grad():
        [alone] = encode_images(model, tiny.pixels([single]))
        together = encode_images(model, tiny.pixels([two]))
        ids = tiny.ids(single)[None]
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **tiny.pixels([single])).logits
    assert alone[0].shape == (1, 32)
    torch.testing.assert_close(alone[0], together[0][0], atol=1e-5, rtol=1e-5)
    assert logits.isfinite().all()
