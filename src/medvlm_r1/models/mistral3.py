"""A fix for transformers' Mistral 3: a single image of one token."""

from __future__ import annotations

import functools
from typing import Any


def keep_single_tokens() -> None:
    """Let a Mistral 3 model process a single image of one token.

    `Mistral3Model.get_image_features` squeezes the first dimension of the (tokens, hidden) features of all images.
    With one token in total, this removes the token dimension. A leading dimension of 1 is removed instead.
    """
    from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector

    plain = Mistral3MultiModalProjector.forward
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return plain(self, *args, **kwargs).unsqueeze(0)

    Mistral3MultiModalProjector.forward = forward
