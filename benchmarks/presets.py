"""Presets of the GRPO benchmarks: the model, the prompts and the completions of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from benchmarks.base.architecture import CONTROL_TOKENS, end_at_turns, qwen2_vl_config
from medvlm_r1.models.load import PHANTOM_BASE, Policy, load_policy, quiet_bars
from medvlm_r1.phantom.benchmark import draw_questions, to_sample, write_benchmark
from medvlm_r1.phantom.scene import render
from medvlm_r1.prompts.templates import messages, render_prompt
from medvlm_r1.recipes import recipe
from medvlm_r1.training.config import load_config

Row = dict[str, Any]
"""A row of TRL's data set: `prompt`, `images` and the columns the rewards read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Sizes of a GRPO step."""

    name: str
    about: str
    shape: dict[str, Any] | None = None
    """`vision_config` and `text_config` of a Qwen2-VL with random weights; None for the embedded base."""
    dtype: str = "float32"
    pixels: int = 112
    """Side of the square images, pixels."""
    text_tokens: int = 150
    """Number of prompt tokens in addition to the image tokens."""
    completion: tuple[int, int] = (40, 120)
    """Tokens of the shortest and the longest completion, including the end token. The lengths are spread evenly over a
    group."""
    prompts: int = 1
    """Number of prompts per step."""
    group: int = 8
    lora: bool = False
    micro_batches: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of rows per forward pass that are tried for plain TRL."""
    rounds: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of TRL's GRPOConfig."""

    @property
    def rows(self) -> int:
        """Number of completions per step."""
        return self.prompts * self.group


def qwen2_vl(
    text: tuple[int, ...], vision: tuple[int, ...], *, sections: list[int], theta: float = 1e4
) -> dict[str, Any]:
    """Configuration of a Qwen2-VL of another size.

    Args:
        text: Vocabulary, width, MLP width, layers, heads and KV heads of the language model.
        vision: Layers, width, heads and MLP ratio of the tower.
        sections: M-RoPE sections.
        theta: Base of the rotary embedding.
    """
    vocabulary, width, mlp, layers, heads, kv_heads = text
    depth, vision_width, vision_heads, ratio = vision
    return {
        "text_config": {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": sections},
        },
        "vision_config": {
            **{"depth": depth, "embed_dim": vision_width, "hidden_size": width},
            **{"num_heads": vision_heads, "mlp_ratio": ratio},
        },
    }


_COMMON = {"beta": 0.04, "temperature": 1.0, "loss_type": "grpo", "learning_rate": 1e-6}
_MEDIUM = qwen2_vl((16384, 512, 1408, 8, 8, 8), (8, 384, 6, 4), sections=[8, 12, 12])
# https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct, config.json
_PAPER = qwen2_vl((151936, 1536, 8960, 28, 12, 2), (32, 1280, 16, 4), sections=[16, 24, 24], theta=1e6)
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
            shape=_MEDIUM,
            pixels=448,
            rounds=5,
            options=_COMMON,
        ),
        Preset(
            name="paper",
            about="the shape of Qwen2-VL-2B with random weights, LoRA",
            shape=_PAPER,
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
    """Name or folder of a preset's model. A model with random weights is written to `folder`, and both sides load it.

    It has the tokenizer and the chat template of the embedded base. Its vocabulary may be larger.
    """
    if preset.shape is None:
        return load_policy(PHANTOM_BASE, dtype="float32", device="cpu")
    processor, config = lay_out(preset, folder)
    torch.manual_seed(0)
    # Made in its own dtype: float32 weights would need twice the memory.
    model = Qwen2VLForConditionalGeneration._from_config(config, dtype=getattr(torch, preset.dtype))
    with quiet_bars():
        end_at_turns(model).save_pretrained(folder)
    return Policy(model=model.eval(), processor=processor, name=str(folder))


def lay_out(preset: Preset, folder: Path) -> tuple[Any, Qwen2VLConfig]:
    """Write and return processor and configuration of a model."""
    assert preset.shape is not None
    processor = load_policy(PHANTOM_BASE, dtype="float32", device="cpu").processor
    config = qwen2_vl_config(processor.tokenizer, preset.shape["text_config"], preset.shape["vision_config"])
    edge = preset.pixels**2
    processor.image_processor.size = {"shortest_edge": edge, "longest_edge": edge}
    processor.save_pretrained(folder)
    config.save_pretrained(folder)
    return processor, config


def options(preset: Preset) -> dict[str, Any]:
    """Options of TRL's GRPOConfig that both sides share."""
    chosen = dict(preset.options)
    if preset.shape is None:
        trainer = load_config(recipe("phantom.yaml"), []).trainer
        names = "beta temperature loss_type num_iterations scale_rewards learning_rate use_bias_correction_kl"
        chosen = {name: trainer[name] for name in (*names.split(), "max_completion_length")} | chosen
    longest = chosen.pop("max_completion_length", preset.completion[1])
    return chosen | {"num_generations": preset.group, "max_completion_length": longest}


def rows(preset: Preset, policy: Policy, steps: int) -> list[Row]:
    """Make different prompts with images for `steps` steps.

    The demo has PhantomVQA's training questions; the other presets have random pixels and words.
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
    text, prompt = "", []
    while True:
        text = f"{text} {rng.choice(words)}"
        longer = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        rendered = policy.processor.apply_chat_template(longer, add_generation_prompt=True)
        if len(tokenizer(rendered).input_ids) - 1 > preset.text_tokens:
            break
        prompt = longer
    return {"prompt": prompt, "images": [Image.fromarray(pixels)], "letter": "A", "options": ["brain", "knee"]}


def write_questions(folder: Path, n: int, pixels: int) -> None:
    """Write a data folder of n PhantomVQA questions per modality, with square images of another size."""
    for sample in write_benchmark(folder, split="train", n=n):
        file = folder / sample.images[0]
        with Image.open(file) as image:
            larger = image.resize((pixels, pixels))
        larger.save(file)


def random_completions(preset: Preset, policy: Policy, prompt: Sequence[int]) -> list[list[int]]:
    """Completions of a group: random tokens, in the lengths of the preset."""
    rng = np.random.default_rng([len(prompt), *prompt])
    vocabulary = len(policy.processor.tokenizer)
    end = policy.model.generation_config.eos_token_id
    lengths = np.linspace(*preset.completion, preset.group).round().astype(int)
    return [[*rng.integers(len(CONTROL_TOKENS), vocabulary, n - 1).tolist(), end] for n in rng.permutation(lengths)]
