"""The sizes of a model from its configuration: built on torch's meta device, so no weight is made or read."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medvlm_r1.errors import UserError
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.dry_run.counts import Text, Tower
from medvlm_r1.training.dry_run.memory import Parameters
from medvlm_r1.training.dry_run.work import Model, Trained
from medvlm_r1.training.loop import lora_config

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""By `config.model_type`. Others train, but their towers are not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model that was never loaded."""

    family: str
    model: Model
    parameters: Parameters
    positions: int
    """Tokens its positions reach (`max_position_embeddings`)."""
    dtype: str
    """Type of the weights on disk."""


def read_shape(folder: Path, config: RunConfig) -> Shape:
    """The sizes of the model of a folder, with the adapters of a configuration.

    Args:
        folder: Holds config.json.
        config: The run; its `lora` section is applied.

    Raises:
        UserError: config.json is damaged or of another kind, or the family is not counted.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        kind = settings.model_type
        if kind in FAMILIES:
            with torch.device("meta"), warnings.catch_warnings():
                # peft and transformers tell each other of renamed attributes.
                warnings.simplefilter("ignore", FutureWarning)
                # Flash attention need not be installed where a run is planned.
                attention = (config.trainer.get("model_init_kwargs") or {}).get("attn_implementation")
                known = {} if "flash" in str(attention) else {"attn_implementation": attention}
                model = AutoModelForImageTextToText.from_config(settings, **known)
                if config.lora is not None:
                    model = _adapted(model, config)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: the model cannot be laid out from its config.json: {error}") from error
    if kind not in FAMILIES:
        raise UserError(
            f"{folder}: a {kind!r} model; the dry run counts {', '.join(FAMILIES)}. Training itself does not need it."
        )
    return Shape(
        family=kind,
        model=_sizes(model, settings, adapted=config.lora is not None),
        parameters=_parameters(model),
        positions=int(settings.get_text_config().max_position_embeddings),
        dtype=str(getattr(settings, "dtype", None) or "float32").removeprefix("torch."),
    )


def _adapted(model: Any, config: RunConfig) -> Any:
    from peft import get_peft_model

    return get_peft_model(model, lora_config(config))


def _bare(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _weights(*modules: nn.Module) -> tuple[int, int]:
    """Weights of the linear layers (and patch embeddings), and of the adapters on them; biases act by addition."""
    own = adapters = 0
    for module in modules:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv3d):
                if "lora_" in name:
                    adapters += layer.weight.numel()
                else:
                    own += layer.weight.numel()
    return own, adapters


def _sizes(model: Any, settings: Any, *, adapted: bool) -> Model:
    inner = _bare(model)
    text, vision = settings.get_text_config(), settings.vision_config
    language, visual = inner.model.language_model, inner.model.visual
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    weights, adapters = _weights(language)
    kind = settings.model_type
    mergers = [visual.merger, *getattr(visual, "deepstack_merger_list", [])]
    patch_weights, patch_adapters = _weights(visual.patch_embed, visual.blocks)
    token_weights, token_adapters = _weights(*mergers)
    tower_width = vision.embed_dim if kind == "qwen2_vl" else vision.hidden_size
    window = None
    if kind == "qwen2_5_vl":
        # A window of so many pixels, in patches each way.
        window = (vision.window_size // vision.patch_size) ** 2
    return Model(
        text=Text(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            query=heads * width,
            keys=text.num_key_value_heads * width,
            inner=text.intermediate_size,
            heads=heads,
            vocabulary=inner.get_output_embeddings().weight.shape[0],
            weights=weights,
            adapters=adapters,
            head_normed=kind == "qwen3_vl",
        ),
        tower=Tower(
            blocks=vision.depth,
            width=tower_width,
            inner=int(vision.embed_dim * vision.mlp_ratio) if kind == "qwen2_vl" else vision.intermediate_size,
            heads=vision.num_heads,
            norm="rms" if kind == "qwen2_5_vl" else "layer",
            inner_kept={"qwen2_vl": 3, "qwen2_5_vl": 4, "qwen3_vl": 2}[kind],
            merge=vision.spatial_merge_size**2,
            patch_weights=patch_weights,
            token_weights=token_weights,
            whole=len(vision.fullatt_block_indexes) if window else vision.depth,
            window=window,
            patch_adapters=patch_adapters,
            token_adapters=token_adapters,
            levels=len(mergers),
        ),
        trained=Trained(text=not adapted, tower=not adapted, head=not adapted),
    )


def _parameters(model: Any) -> Parameters:
    inner = _bare(model)
    # Tied weights are one parameter and count once.
    named = dict(inner.named_parameters())
    adapters = sum(p.numel() for name, p in named.items() if "lora_" in name)
    layers = [*inner.model.language_model.layers, *inner.model.visual.blocks]
    head, embedding = inner.get_output_embeddings().weight, inner.get_input_embeddings().weight
    ends = embedding.numel() + (0 if head is embedding else head.numel())
    return Parameters(
        total=sum(p.numel() for p in named.values()) - adapters,
        trained=sum(p.numel() for p in named.values() if p.requires_grad),
        adapters=adapters,
        largest=ends + max(sum(p.numel() for p in layer.parameters()) for layer in layers),
    )
