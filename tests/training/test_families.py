"""What is refused, in which words. That the rest is exact is held in test_shared_prefix.py."""

import re

import pytest
from peft import LoraConfig, PrefixTuningConfig, get_peft_model

from medvlm_r1.models.families import supports
from medvlm_r1.training.self_check.equality import TINY


def _dropout(model):
    model.model.language_model.layers[0].self_attn.attention_dropout = 0.1
    return model


def _tower_dropout(family):
    model = TINY[family].model()
    layer = next(
        module for module in model.model.vision_tower.modules() if isinstance(getattr(module, "dropout", None), float)
    )
    layer.dropout = 0.2
    return model


def _with(family="qwen2_vl", attention="sdpa", **text):
    return TINY[family].model(attention, text_config={**TINY[family].config["text_config"], **text})


def _adapter(**options):
    return get_peft_model(TINY["qwen2_vl"].model(), LoraConfig(r=2, **options))


class _Other:
    class config:  # noqa: N801
        model_type = "paligemma"


REFUSED = {
    "family": (_Other, "'paligemma' models; it can in gemma3, idefics3"),
    "language model": (lambda: _with("llava", model_type="gemma3_text", head_dim=8), "carry a 'gemma3_text'"),
    "window": (lambda: _with("llava", model_type="mistral", sliding_window=8), "a window of 8 tokens"),
    "layers": (
        lambda: _with(
            "internvl", use_sliding_window=True, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
        ),
        "layers of full_attention, sliding_attention",
    ),
    "rope": (
        lambda: _with("smolvlm", rope_parameters={"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}),
        "'dynamic' position scaling",
    ),
    "softcap": (lambda: _with("gemma3", final_logit_softcapping=5.0), "final_logit_softcapping"),
    "two-way": (lambda: _with("gemma3", use_bidirectional_attention=True), "looks ahead"),
    "dropout": (lambda: _dropout(TINY["qwen2_vl"].model()), "dropout \\(0.1 in .*self_attn\\)"),
    # CLIP, SigLIP and Pixtral keep the rate of their attention as a number called `dropout`.
    "tower dropout": (lambda: _tower_dropout("llava"), "dropout \\(0.2 in .*self_attn\\)"),
    "LoRA dropout": (lambda: _adapter(target_modules=["q_proj"], lora_dropout=0.05), "dropout \\(0.05"),
    "adapter on the head": (lambda: _adapter(target_modules=["lm_head"]), "output layer"),
    "learned prompt": (
        lambda: get_peft_model(
            TINY["llava"].model(),
            PrefixTuningConfig(
                task_type="CAUSAL_LM", num_virtual_tokens=2, num_layers=2, token_dim=32, num_attention_heads=4
            ),
        ),
        "learned tokens",
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_does_not_hold_is_refused_with_the_way_out(case):
    build, words = REFUSED[case]
    reason = supports(build())
    assert reason is not None
    assert reason.endswith("Set `sharing: off` to train it the plain way.")
    assert re.search(words, reason)


def test_flash_attention_is_refused():
    model = TINY["qwen2_vl"].model()
    model.config.text_config._attn_implementation = "flash_attention_2"
    assert "attn_implementation sdpa" in str(supports(model))
