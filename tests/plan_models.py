"""Folders of tiny random models of the recipes' three classes, with their processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_policy import build_tiny_policy


def write_model(folder: Path, kind: str) -> Path:
    """Write a tiny model of a family, its tokenizer, image processor and chat template.

    Args:
        folder: Where to.
        kind: "qwen2_vl", "qwen2_5_vl" or "qwen3_vl".
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    build_tiny_policy(folder)
    if kind == "qwen2_vl":
        return folder
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    text["model_type"] = f"{kind}_text"
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "hidden_size": 8, "intermediate_size": 24}
    vision |= {"out_hidden_size": text["hidden_size"], "spatial_merge_size": 2, "temporal_patch_size": 2}
    if kind == "qwen2_5_vl":
        vision |= {"patch_size": 14, "window_size": 28, "fullatt_block_indexes": [1]}
    else:
        vision |= {"patch_size": 14, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
        text["head_dim"] = 8
    config |= {"model_type": kind, "vision_config": vision}
    config.pop("architectures")
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config))
    processor = AutoProcessor.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
