"""Choices that depend on the device: pure functions of its type, so that a machine without a GPU can test them."""

from __future__ import annotations

_HALVES = ("bfloat16", "float16")


def best_device() -> str:
    """The best device present: "cuda", "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def inference_dtype(device_type: str, stored: str | None) -> str:
    """Dtype in which a model runs by default.

    Args:
        device_type: "cpu", "cuda", ...
        stored: Dtype of its weights, as in its `config.json`; None if unknown.

    Returns:
        float32 on a CPU, where halves are slower. Elsewhere a half: the stored one, otherwise bfloat16. On "mps", which
        lacks bfloat16 on older systems, the stored one (float32 if unknown).
    """
    if device_type == "cpu":
        return "float32"
    if device_type == "mps":
        return stored or "float32"
    return stored if stored in _HALVES else "bfloat16"


def head_columns(device_type: str) -> int:
    """Columns of the vocabulary in a tile of the LM head, for at most 4096 tokens (TRL's `TOKEN_CHUNK_SIZE`).

    Narrow tiles fit the cache of a CPU during the softmax. A GPU needs large products: this is TRL's own width.
    """
    return 512 if device_type == "cpu" else 32768
