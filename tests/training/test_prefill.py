"""Prompts read a few at a time leave what they leave when all are read together."""

import pytest
import torch
from test_sharing_generation import PROMPTS, generated, inputs, shapes_of_passes

from medvlm_r1.models.decoding import kv_cache as reading
from medvlm_r1.models.decoding.shared_generation import n_per_prompt
from medvlm_r1.models.families import FAMILIES
from medvlm_r1.models.sharing.forward import as_encoder_output, encode_images
from medvlm_r1.training.self_check.equality import TINY, Prompt

MIXED = [PROMPTS[0], Prompt(7, ()), Prompt(4, ((2, 2), (1, 3))), PROMPTS[1]]


def with_features(model, family, prompts):
    """What generation is given by callers that have the images encoded."""
    batch = inputs(family, prompts)
    vision = {name: batch.pop(name) for name in FAMILIES[family].vision if name in batch}
    features = encode_images(model, vision)
    grid = {name: value for name, value in vision.items() if name == "image_grid_thw"}
    return {**batch, **grid, "mm_encoder_outputs": {"image": as_encoder_output(model, features)}}


@pytest.mark.parametrize("family", sorted(TINY))
def test_the_same_is_written_after_prompts_read_two_at_a_time(family, monkeypatch):
    model = TINY[family].model().eval()
    # SmolVLM and Idefics3 take as many images of every prompt.
    prompts = PROMPTS if "pixel_attention_mask" in FAMILIES[family].vision else MIXED
    shapes = shapes_of_passes(model, monkeypatch)

    def written():
        with torch.inference_mode():
            return generated(model, n_per_prompt([2] * len(prompts)), batch=with_features(model, family, prompts))

    together = written()
    monkeypatch.setattr(reading, "_TOKENS", 2 * inputs(family, prompts)["input_ids"].shape[1] + 1)
    assert written() == together
    read = [rows for rows, tokens in shapes if tokens > 1]
    assert read == [len(prompts), *[2] * (len(prompts) // 2), *[1] * (len(prompts) % 2)]


def test_what_cannot_be_told_apart_is_read_together(monkeypatch):
    model = TINY["qwen2_vl"].model().eval()
    shapes = shapes_of_passes(model, monkeypatch)
    monkeypatch.setattr(reading, "_TOKENS", 1)
    generated(model, n_per_prompt([1, 1, 1]))
    assert [rows for rows, tokens in shapes if tokens > 1] == [3]
