"""Sizes of a model, from its config.json, and of the prompts, from its processor and the image sizes.

The model is built on torch's meta device, so no weights are created or read.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medvlm_r1.data import Sample
from medvlm_r1.data.image_facts import image_sizes
from medvlm_r1.errors import UserError
from medvlm_r1.prompts.templates import TEMPLATES, messages
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.loop import lora_config

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Supported `config.model_type` values. Other families can be trained, but not estimated by the dry run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameter counts."""

    total: int
    """Parameters of the model, without adapters."""
    trained: int
    """Parameters that the optimizer updates, including adapters."""
    adapters: int
    largest: int
    """Parameters gathered at once if weights are sharded: the largest layer, the embedding and the LM head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a model: of its language model, and of its vision tower."""

    family: str
    layers: int
    hidden: int
    query: int
    """Width of the queries: number of attention heads times head size."""
    keys: int
    """Width of the keys, and of the values: number of key/value heads times head size."""
    inner: int
    """Width of the feed-forward layers."""
    heads: int
    vocabulary: int
    head_normed: bool
    """Whether queries and keys are normalized per head (Qwen3)."""
    tower_blocks: int
    tower_width: int
    tower_inner: int
    tower_heads: int
    tower_norm: Literal["layer", "rms"]
    tower_inner_kept: int
    """Number of tensors of width `tower_inner` that a feed-forward layer saves for the backward pass: 2 with GELU
    (input, output), 3 with quick GELU (also the sigmoid), 4 with a gate (gate, its activation, up, product)."""
    parameters: Parameters
    trains_tower: bool
    """Whether the vision tower has trainable weights or adapters."""
    trains_head: bool
    """Whether the weights of the LM head are trained."""
    positions: int
    """Maximum sequence length (`max_position_embeddings`)."""
    dtype: str
    """Data type of the weights on disk."""


def read_shape(folder: Path, config: RunConfig) -> Shape:
    """Read the sizes of a model, with the adapters of a configuration.

    Args:
        folder: Model folder with config.json.
        config: Configuration of the run. Its `lora` section is applied to the model.

    Raises:
        UserError: config.json is damaged, or the model family is not supported.
    """
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        kind = settings.model_type
        if kind in FAMILIES:
            with torch.device("meta"), warnings.catch_warnings():
                # peft and transformers warn about renamed attributes.
                warnings.simplefilter("ignore", FutureWarning)
                # Flash attention is not needed for a dry run.
                attention = (config.trainer.get("model_init_kwargs") or {}).get("attn_implementation")
                known = {} if "flash" in str(attention) else {"attn_implementation": attention}
                model = AutoModelForImageTextToText.from_config(settings, **known)
                if config.lora is not None:
                    model = get_peft_model(model, lora_config(config)).get_base_model()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: no model can be built from its config.json: {error}") from error
    if kind not in FAMILIES:
        raise UserError(
            f"{folder}: a {kind!r} model; the dry run supports {', '.join(FAMILIES)}. Training works without it."
        )
    return _shape(model, settings)


def _shape(model: Any, settings: Any) -> Shape:
    text, vision = settings.get_text_config(), settings.vision_config
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    family = settings.model_type
    head = model.get_output_embeddings().weight
    return Shape(
        family=family,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        query=heads * width,
        keys=text.num_key_value_heads * width,
        inner=text.intermediate_size,
        heads=heads,
        vocabulary=head.shape[0],
        head_normed=family == "qwen3_vl",
        tower_blocks=vision.depth,
        tower_width=vision.embed_dim if family == "qwen2_vl" else vision.hidden_size,
        tower_inner=int(vision.embed_dim * vision.mlp_ratio) if family == "qwen2_vl" else vision.intermediate_size,
        tower_heads=vision.num_heads,
        tower_norm="rms" if family == "qwen2_5_vl" else "layer",
        tower_inner_kept={"qwen2_vl": 3, "qwen2_5_vl": 4, "qwen3_vl": 2}[family],
        parameters=_parameters(model),
        trains_tower=any(p.requires_grad for p in model.model.visual.parameters()),
        trains_head=head.requires_grad,
        positions=int(text.max_position_embeddings),
        dtype=str(getattr(settings, "dtype", None) or "float32").removeprefix("torch."),
    )


def _parameters(model: Any) -> Parameters:
    # Tied weights are one parameter and count once.
    named = dict(model.named_parameters())
    adapters = sum(p.numel() for name, p in named.items() if "lora_" in name)
    layers = [*model.model.language_model.layers, *model.model.visual.blocks]
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    ends = embedding.numel() + (0 if head is embedding else head.numel())
    return Parameters(
        total=sum(p.numel() for p in named.values()) - adapters,
        trained=sum(p.numel() for p in named.values() if p.requires_grad),
        adapters=adapters,
        largest=ends + max(sum(p.numel() for p in layer.parameters()) for layer in layers),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Token counts of the prompts of a data set."""

    tokens: tuple[int, ...]
    """Number of tokens of each prompt, including image tokens."""
    image_tokens: tuple[int, ...]
    """Number of image tokens of each prompt."""
    patches: tuple[tuple[int, ...], ...]
    """Number of image patches, for each image of each prompt."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def mean(self) -> float:
        """Mean number of tokens per prompt."""
        return sum(self.tokens) / len(self.tokens)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest prompt."""
        return max(self.tokens)

    @property
    def most_patches(self) -> int:
        """Largest number of image patches in one prompt."""
        return max(sum(images) for images in self.patches)


def measure(
    processor: Any,
    folder: str,
    samples: Sequence[Sample],
    template: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prompts:
    """Count the tokens of every prompt.

    The text is tokenized with one placeholder per image. The image processor computes the numbers of image tokens and
    patches from the image size, without resizing an image.

    Args:
        processor: The model's processor, with its pixel bounds set.
        folder: The data folder.
        samples: The questions.
        template: Name of the prompt template.
        progress: Called with the number of prompts counted so far and the total.
    """
    known = image_sizes(folder, samples)
    tokens, images, patches = [], [], []
    for number, sample in enumerate(samples):
        sizes = [(size[1], size[0]) for name in sample.images if (size := known[name])]
        counted = processor._get_num_multimodal_tokens(image_sizes=sizes) if sizes else None
        per_image = [int(n) for n in counted["num_image_tokens"]] if counted else []
        text = processor.apply_chat_template(messages(sample, template), add_generation_prompt=True, tokenize=False)
        ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens.append(len(ids) - len(sizes) + sum(per_image))
        images.append(sum(per_image))
        patches.append(tuple(int(n) for n in counted["num_image_patches"]) if counted else ())
        progress(number + 1, len(samples))
    return Prompts(tokens=tuple(tokens), image_tokens=tuple(images), patches=tuple(patches))


SHORTEST = dict.fromkeys(TEMPLATES, "<think></think><answer>A</answer>") | {
    "no-think": "<answer>A</answer>",
    "think-after": "<answer>A</answer><think>ABCDE</think>",
    "answer-only": "A",
    "answer-only-open": "A",
}
"""The shortest well-formed completion for each prompt template."""


def shortest_answer(processor: Any, template: str) -> tuple[str, int]:
    """The shortest well-formed completion for a template, and its number of tokens including the end token."""
    text = SHORTEST[template]
    return text, len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
