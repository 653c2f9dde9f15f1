"""The embedded base: transformers' own Qwen2-VL classes at a few million weights, with a small tokenizer of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from benchmarks.base.pool import PIXELS

PATCH = 14
MERGE = 2
PIXEL_MEAN, PIXEL_STD = 0.28, 0.28
"""Mean and standard deviation that normalize pixel values from 0 to 1. They are near those of the image pool (0.33 and
0.31), so the input is approximately centered."""
IMAGE_TOKENS = (PIXELS // PATCH // MERGE) ** 2

CONTROL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<box>", "</box>")

# Qwen2-VL's template without its default system prompt, which MedVLM-R1 does not use.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(corpus: Iterable[str], vocabulary: int = 1000) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer. Tags are single, ordinary tokens, so they remain in decoded text.

    Args:
        corpus: Texts that resemble the prompts and responses.
        vocabulary: Largest number of tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(CONTROL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLProcessor:
    """Build Qwen2-VL's processor for images with sides of about 112 pixels."""
    size = {"shortest_edge": PIXELS * PIXELS, "longest_edge": PIXELS * PIXELS}
    common: dict[str, Any] = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "image_mean": [PIXEL_MEAN] * 3,
        "image_std": [PIXEL_STD] * 3,
    }
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **common),
        video_processor=Qwen2VLVideoProcessor(size=size, **common),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def qwen2_vl_config(
    tokenizer: Any, text: dict[str, Any], vision: dict[str, Any], *, tied: bool = True
) -> Qwen2VLConfig:
    """Configuration of a Qwen2-VL for a tokenizer with `CONTROL_TOKENS`.

    Args:
        tokenizer: The tokenizer.
        text: Sizes of the language model.
        vision: Sizes of the tower.
        tied: Whether the head shares the weights of the embeddings.
    """
    ids = dict(zip(CONTROL_TOKENS, tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)), strict=True))
    special = {"bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    return Qwen2VLConfig(
        text_config=special | ({"tie_word_embeddings": True} if tied else {}) | text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
    )


def end_at_turns(model: Qwen2VLForConditionalGeneration) -> Qwen2VLForConditionalGeneration:
    """Copy end and padding token from a model's configuration to its generation settings, so that generation ends."""
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id
    model.generation_config.pad_token_id = model.config.text_config.pad_token_id
    return model


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLForConditionalGeneration:
    """Build a randomly initialized Qwen2-VL with about 5 million weights. Seed torch before the call."""
    width = 192
    text = {
        "vocab_size": -(-len(tokenizer) // 16) * 16,
        "hidden_size": width,
        "intermediate_size": 512,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    }
    vision = {"depth": 6, "embed_dim": width, "hidden_size": width, "mlp_ratio": 3, "num_heads": 6}
    vision |= {"patch_size": PATCH, "spatial_merge_size": MERGE}
    return end_at_turns(Qwen2VLForConditionalGeneration(qwen2_vl_config(tokenizer, text, vision)))
