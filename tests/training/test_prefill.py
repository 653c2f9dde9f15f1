"""Prompts read a few at a time leave what they leave when all are read together."""

import functools

import pytest
import torch
from test_sharing_generation import PROMPTS, completed, inputs, settings

from medvlm_r1.models.decoding import prefill as reading
from medvlm_r1.models.decoding.shared_generation import n_per_prompt
from medvlm_r1.models.families import FAMILIES
from medvlm_r1.models.sharing.forward import as_encoder_output, encode_images
from medvlm_r1.training.self_check.tiny_models import TINY, Prompt

MIXED = [PROMPTS[0], Prompt(7, ()), Prompt(4, ((2, 2), (1, 3))), PROMPTS[1]]


def with_features(model, family, prompts):
    """What generation is given by callers that have the images encoded."""
    batch = inputs(family, prompts)
    vision = {name: batch.pop(name) for name in FAMILIES[family].vision if name in batch}
    features = encode_images(model, vision)
    grid = {name: value for name, value in vision.items() if name == "image_grid_thw"}
    return {**batch, **grid, "mm_encoder_outputs": {"image": as_encoder_output(model, features)}}


def rows_read(model, monkeypatch):
    """Filled with the rows of every pass over more than one token."""
    rows = []
    forward = type(model).forward

    @functools.wraps(forward)
    def counted(self, *args, **kwargs):
        if kwargs["input_ids"].shape[1] > 1:
            rows.append(kwargs["input_ids"].shape[0])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", counted)
    return rows


@pytest.mark.parametrize("family", sorted(TINY))
def test_the_same_is_written_after_prompts_read_two_at_a_time(family, monkeypatch):
    model = TINY[family].model().eval()
    # SmolVLM and Idefics3 take as many images of every prompt.
    prompts = PROMPTS if "pixel_attention_mask" in FAMILIES[family].vision else MIXED
    rows = rows_read(model, monkeypatch)

    def written():
        with torch.inference_mode():
            batch = with_features(model, family, prompts)
            sizes = [2] * len(prompts)
            output = model.generate(**batch, generation_config=settings(), custom_generate=n_per_prompt(sizes))
        return completed(output, batch["input_ids"].shape[1])

    together = written()
    monkeypatch.setattr(reading, "_TOKENS", 2 * inputs(family, prompts)["input_ids"].shape[1] + 1)
    assert written() == together
    assert rows == [len(prompts), *[2] * (len(prompts) // 2), *[1] * (len(prompts) % 2)]


def test_what_cannot_be_told_apart_is_read_together(monkeypatch):
    model = TINY["qwen2_vl"].model().eval()
    rows = rows_read(model, monkeypatch)
    monkeypatch.setattr(reading, "_TOKENS", 1)
    model.generate(**inputs("qwen2_vl", PROMPTS), generation_config=settings(), custom_generate=n_per_prompt([1, 1, 1]))
    assert rows == [3]
