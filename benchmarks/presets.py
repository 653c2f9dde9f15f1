"""What is measured: the model, the prompts and the completions of each preset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from benchmarks.base.architecture import CONTROL_TOKENS
from medvlm_r1.models.load import PHANTOM_BASE, Policy, load_policy, quiet_bars
from medvlm_r1.phantom.benchmark import draw_questions, to_sample
from medvlm_r1.phantom.scene import render
from medvlm_r1.prompts.templates import messages, render_prompt
from medvlm_r1.recipes import recipe
from medvlm_r1.training.config import load_config

Row = dict[str, Any]
"""A row of TRL's data set: `prompt`, `images` and the columns the rewards read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One shape of GRPO step."""

    name: str
    about: str
    shape: dict[str, Any] | None = None
    """`vision_config` and `text_config` of a Qwen2-VL with random weights; None for the embedded base."""
    dtype: str = "float32"
    pixels: int = 112
    """Side of the square images."""
    text_tokens: int = 150
    """Tokens of the prompt beside those of the image."""
    completion: tuple[int, int] = (40, 120)
    """Shortest and longest completion, end token included; they are spread evenly over a group."""
    prompts: int = 1
    """Prompts of a step."""
    group: int = 8
    lora: bool = False
    micro_batches: tuple[int, ...] = (1, 2, 4, 8)
    """Rows of a forward pass that plain TRL is tried with."""
    rounds: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    """Options of TRL's GRPOConfig beside those above."""

    @property
    def rows(self) -> int:
        """Completions of a step."""
        return self.prompts * self.group


_COMMON = {"beta": 0.04, "temperature": 1.0, "loss_type": "grpo", "learning_rate": 1e-6}
PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="demo",
            about="the embedded base on PhantomVQA, as the demo trains it",
            prompts=6,
            micro_batches=(8, 16, 48),
            rounds=7,
        ),
        Preset(
            name="medium",
            about="Qwen2-VL of 8 + 8 layers, widths 512 and 384, random weights",
            shape={
                "text_config": {
                    "vocab_size": 16384,
                    "hidden_size": 512,
                    "intermediate_size": 1408,
                    "num_hidden_layers": 8,
                    "num_attention_heads": 8,
                    "num_key_value_heads": 8,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]},
                },
                "vision_config": {"depth": 8, "embed_dim": 384, "hidden_size": 512, "num_heads": 6, "mlp_ratio": 4},
            },
            pixels=448,
            rounds=5,
            options=_COMMON,
        ),
        Preset(
            name="paper",
            about="the shape of Qwen2-VL-2B with random weights, LoRA",
            # https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct, config.json
            shape={
                "text_config": {
                    "vocab_size": 151936,
                    "hidden_size": 1536,
                    "intermediate_size": 8960,
                    "num_hidden_layers": 28,
                    "num_attention_heads": 12,
                    "num_key_value_heads": 2,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
                },
                "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4},
            },
            dtype="bfloat16",
            pixels=392,
            completion=(16, 16),
            group=4,
            lora=True,
            # With 2 rows TRL's process takes 19 GB.
            micro_batches=(1, 2),
            rounds=1,
            options=_COMMON,
        ),
    )
}


def build(preset: Preset, folder: Path) -> Policy:
    """The model of a preset; one of random weights is written to `folder`, from where both sides load it.

    It takes the embedded base's tokenizer and template; its vocabulary may be larger.
    """
    if preset.shape is None:
        return load_policy(PHANTOM_BASE, dtype="float32", device="cpu")
    processor, config = lay_out(preset, folder)
    torch.manual_seed(0)
    # Made in its own type: float32 weights would take twice as much, once.
    model = Qwen2VLForConditionalGeneration._from_config(config, dtype=getattr(torch, preset.dtype))
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.generation_config.pad_token_id = config.text_config.pad_token_id
    with quiet_bars():
        model.save_pretrained(folder)
    return Policy(model=model.eval(), processor=processor, name=str(folder))


def lay_out(preset: Preset, folder: Path) -> tuple[Any, Qwen2VLConfig]:
    """Write a model's folder but for its weights: processor and configuration, which are returned."""
    assert preset.shape is not None
    processor = load_policy(PHANTOM_BASE, dtype="float32", device="cpu").processor
    ids = dict(zip(CONTROL_TOKENS, processor.tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)), strict=True))
    special = {"bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    config = Qwen2VLConfig(
        text_config=preset.shape["text_config"] | special | {"tie_word_embeddings": True},
        vision_config=preset.shape["vision_config"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    edge = preset.pixels**2
    processor.image_processor.size = {"shortest_edge": edge, "longest_edge": edge}
    processor.save_pretrained(folder)
    config.save_pretrained(folder)
    return processor, config


def options(preset: Preset) -> dict[str, Any]:
    """Options of TRL's GRPOConfig that both sides share."""
    chosen = dict(preset.options)
    if preset.shape is None:
        given = load_config(recipe("phantom.yaml"), []).trainer
        kept = ("beta", "temperature", "loss_type", "num_iterations", "scale_rewards", "learning_rate")
        chosen = {name: given[name] for name in (*kept, "use_bias_correction_kl", "max_completion_length")} | chosen
    longest = chosen.pop("max_completion_length", preset.completion[1])
    return chosen | {"num_generations": preset.group, "max_completion_length": longest}


def rows(preset: Preset, policy: Policy, steps: int) -> list[Row]:
    """As many prompts with images as `steps` steps take, all different.

    The demo asks PhantomVQA's training questions; the other presets show random pixels and words.
    """
    count = steps * preset.prompts
    if preset.shape is None:
        made: dict[str, Row] = {}
        for index, question in enumerate(draw_questions("train", "MRI", 4 * count + 20, 0)):
            sample = to_sample(question, "train", index)
            text = render_prompt(sample)
            if text not in made and len(made) < count:
                picture = Image.fromarray(render(question.scene)).convert("RGB")
                made[text] = {
                    "prompt": messages(sample),
                    "images": [picture],
                    "letter": sample.letter,
                    "options": list(sample.options),
                }
        return list(made.values())
    rng = np.random.default_rng(0)
    return [_random_row(preset, policy, rng) for _ in range(count)]


def _random_row(preset: Preset, policy: Policy, rng: np.random.Generator) -> Row:
    pixels = rng.integers(0, 256, (preset.pixels, preset.pixels, 3), dtype=np.uint8)
    tokenizer = policy.processor.tokenizer
    words = ["Technique?", "brain", "knee", "What plane is this?", "mass", "axial", "patient", "size"]
    text = ""
    while True:
        longer = f"{text} {rng.choice(words)}"
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": longer}]}]
        whole = policy.processor.apply_chat_template(turn, add_generation_prompt=True)
        if len(tokenizer(whole).input_ids) - 1 > preset.text_tokens:
            break
        text = longer
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    return {"prompt": prompt, "images": [Image.fromarray(pixels)], "letter": "A", "options": ["brain", "knee"]}


def random_completions(preset: Preset, policy: Policy, prompt: Sequence[int]) -> list[list[int]]:
    """The group's completions of a prompt of random words: random tokens, of the preset's lengths."""
    rng = np.random.default_rng([len(prompt), *prompt])
    vocabulary = len(policy.processor.tokenizer)
    end = policy.model.generation_config.eos_token_id
    lengths = np.linspace(*preset.completion, preset.group).round().astype(int)
    return [[*rng.integers(len(CONTROL_TOKENS), vocabulary, n - 1).tolist(), end] for n in rng.permutation(lengths)]
