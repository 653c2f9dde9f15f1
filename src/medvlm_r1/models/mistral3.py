"""A repair of transformers' Mistral 3: a single image of one token."""

from __future__ import annotations

import functools
from typing import Any


def keep_single_tokens() -> None:
    """Let a Mistral 3 model take one image that is a single token, whether alone or in a batch.

    `Mistral3Model.get_image_features` squeezes the first dimension of the (tokens, hidden) features of all images.
    Where there is one token in all, that removes the tokens. With a leading dimension of 1 the squeeze removes that.
    """
    from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector

    plain = Mistral3MultiModalProjector.forward
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return plain(self, *args, **kwargs).unsqueeze(0)

    Mistral3MultiModalProjector.forward = forward
