"""Rows with and without images in one batch, and images of a single token."""

import pytest
import torch
from questions import write_mixed
from runs import rows

from medvlm_r1.models.families import keep_single_tokens
from medvlm_r1.models.sharing.forward import encode_images
from medvlm_r1.training.self_check.equality import TINY, Prompt


@pytest.fixture
def first_step(train, tmp_path):
    """A function that trains on questions with and without images; the figures of the first step."""
    (tmp_path / "mixed").mkdir()
    data = {"train": str(write_mixed(tmp_path / "mixed"))}

    def first_step(name="run", **changes):
        trainer = {"per_device_train_batch_size": 16, "num_generations": 2, **changes.pop("trainer", {})}
        return rows(train(data=data, out=str(tmp_path / name), trainer=trainer, **changes) / "metrics.jsonl")[0]

    return first_step


def test_without_sharing_the_figures_are_those_of_sharing(first_step):
    shared, plain = first_step("on"), first_step("off", sharing=False)
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
def test_batches_of_both_kinds_train(first_step, changes):
    assert first_step(**changes)["entropy"] > 0


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
