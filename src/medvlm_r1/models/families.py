"""Model families that support shared prompts, and the reasons for rejecting a model.

`FAMILIES` lists every supported family. For each one, `tests/training/test_shared_prefix.py` compares the
log-probabilities and gradients with those of the plain forward. A model of any other family is rejected.
"""

import functools
from dataclasses import dataclass
from typing import Any

from torch import nn

_LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")
_RATES = ("attention_dropout", "dropout")
# Types of RoPE whose angles do not depend on the sequence length, so a prompt can start at position 0.
_FIXED_ROPE = ("default", "linear", "llama3", "yarn", "proportional")
# Settings that make other families scale or cap their logits. The families below do not support them.
_HEAD_SETTINGS = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Properties of a model family that the shared forward needs."""

    vision: tuple[str, ...]
    """Names of the processor outputs that its vision tower takes."""
    text: tuple[str, ...]
    """`model_type` values of its supported language models."""
    rope_3d: bool = False
    """Whether positions are three-dimensional (M-RoPE) and come from the model's `get_rope_index`."""
    layer_masks: bool = False
    """Whether the model takes one attention mask per layer type. Other families take a single mask, so their layers
    must not have a sliding window."""
    joined: bool = False
    """Whether the model takes image features as one tensor instead of a list."""
    two_way_images: bool = False
    """Whether the tokens of an image attend to each other in both directions (Gemma 3)."""


_PIXELS = ("pixel_values",)
_QWEN = ("pixel_values", "image_grid_thw")
_TILES = ("pixel_values", "pixel_attention_mask")

FAMILIES = {
    "qwen2_vl": Family(vision=_QWEN, text=("qwen2_vl_text",), rope_3d=True, layer_masks=True),
    "qwen2_5_vl": Family(vision=_QWEN, text=("qwen2_5_vl_text",), rope_3d=True, layer_masks=True),
    "qwen3_vl": Family(vision=_QWEN, text=("qwen3_vl_text",), rope_3d=True),
    "idefics3": Family(vision=_TILES, text=("llama",)),
    "smolvlm": Family(vision=_TILES, text=("llama",)),
    "llava": Family(vision=(*_PIXELS, "image_sizes"), text=_LLAMA_LIKE),
    "mistral3": Family(vision=(*_PIXELS, "image_sizes"), text=("mistral",)),
    "internvl": Family(vision=_PIXELS, text=_LLAMA_LIKE, joined=True),
    "gemma3": Family(vision=_PIXELS, text=("gemma3_text",), layer_masks=True, joined=True, two_way_images=True),
}
"""The supported families by `config.model_type`."""


def open_model(model: Any) -> tuple[Any, Family]:
    """The transformers model, unwrapped from peft if it has LoRA adapters, and its family.

    Raises:
        ValueError: The family is not in `FAMILIES`.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = inner.config.model_type
    if kind not in FAMILIES:
        raise ValueError(f"The shared forward does not know {kind!r} models; ask `supports` first.")
    return inner, FAMILIES[kind]


def supports(model: Any) -> str | None:
    """Check whether the shared forward gives the same log-probabilities and gradients as the plain forward.

    Args:
        model: A transformers image-text-to-text model, with or without LoRA adapters. It must not be wrapped for
            distributed training.

    Returns:
        None if it does; otherwise a message for the user with the reason and a remedy.
    """
    reason = unsupported(model)
    return reason and f"{reason} Set `sharing: off` to train it the plain way."


def unsupported(model: Any) -> str | None:
    """Like `supports`, but return the reason without the remedy."""
    for name, adapter in getattr(model, "peft_config", {}).items():
        if adapter.is_prompt_learning:
            return f"The adapter {name!r} puts learned tokens before the prompt, which the shared forward does not do."
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = inner.config.model_type
    if kind not in FAMILIES:
        return f"The prompt cannot be shared in {kind!r} models; it can in {', '.join(sorted(FAMILIES))}."
    family = FAMILIES[kind]
    text = inner.config.get_text_config()
    if text.model_type not in family.text:
        return (
            f"The prompt cannot be shared in {kind!r} models that carry a {text.model_type!r} language model; it can "
            f"with {', '.join(family.text)}."
        )
    if text._attn_implementation not in ("sdpa", "eager"):
        return (
            f"The prompt cannot be shared under {text._attn_implementation!r} attention, which does not take the mask "
            "it needs; load the model with attn_implementation sdpa."
        )
    return _unusual_settings(text, family) or _unusual_modules(inner)


def _unusual_settings(text: Any, family: Family) -> str | None:
    """The reason to reject the settings of a language model; None if they are supported."""
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    window = getattr(text, "sliding_window", None) and not hasattr(text, "layer_types")
    if window or not kinds <= ({"full_attention", "sliding_attention"} if family.layer_masks else {"full_attention"}):
        return (
            f"The prompt cannot be shared in {text.model_type!r} models with layers of {', '.join(sorted(kinds))}"
            + (f" and a window of {text.sliding_window} tokens." if window else ".")
        )
    if getattr(text, "use_bidirectional_attention", None):
        return "The prompt cannot be shared when attention looks ahead (use_bidirectional_attention)."
    scaled = [name for name in _HEAD_SETTINGS if getattr(text, name, None) is not None]
    if scaled:
        return f"The prompt cannot be shared with {scaled[0]} set in the language model's configuration."
    rope = getattr(text, "rope_parameters", None) or {}
    for setting in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if setting.get("rope_type", "default") not in _FIXED_ROPE:
            return f"The prompt cannot be shared with {setting['rope_type']!r} position scaling."
    return None


def _unusual_modules(inner: Any) -> str | None:
    """The reason to reject a model for dropout or an adapter on its output layer; None if it has neither."""
    for name, module in inner.named_modules():
        # Attention stores its dropout rate as a number in one of two attributes (CLIP, SigLIP, Pixtral: `dropout`).
        rates = [module.p] if isinstance(module, nn.Dropout) else [getattr(module, name, 0.0) for name in _RATES]
        rate = max((rate for rate in rates if isinstance(rate, float | int)), default=0.0)
        if rate > 0:
            return f"The prompt cannot be shared with dropout ({rate:g} in {name}); set it to 0."
    head = inner.get_output_embeddings()
    if hasattr(head, "base_layer"):
        return "The prompt cannot be shared with an adapter on the output layer, whose weight is read directly."
    return None


def keep_single_tokens() -> None:
    """Patch Mistral 3 models so that they can process a single image of one token.

    `Mistral3Model.get_image_features` squeezes the first dimension of the (tokens, hidden) features of all images.
    With one token in total, this removes the token dimension. The patch adds a leading dimension of 1, which is removed
    instead.
    """
    from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector

    plain = Mistral3MultiModalProjector.forward
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return plain(self, *args, **kwargs).unsqueeze(0)

    Mistral3MultiModalProjector.forward = forward
