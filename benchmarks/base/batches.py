"""Batches for the language stages: prompts and responses as token rows, and the loss on the responses alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.base.architecture import IMAGE_TOKENS, MERGE, PATCH
from benchmarks.base.pool import PIXELS
from benchmarks.base.tower import features

_GRID = PIXELS // PATCH // MERGE


class Rows:
    """Convert texts to padded token rows in the layout of the chat template.

    Args:
        tokenizer: The base's tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.pad = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        self.head = self._ids("<|im_start|>user\n")
        self.image = self._ids("<|vision_start|>" + "<|image_pad|>" * IMAGE_TOKENS + "<|vision_end|>")
        self.close = self._ids("<|im_end|>\n<|im_start|>assistant\n")
        self.end = self._ids("<|im_end|>")

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def __call__(
        self, prompts: Sequence[str], responses: Sequence[tuple[str, str]], *, images: int
    ) -> tuple[Tensor, Tensor]:
        """Build rows of prompts followed by responses.

        Args:
            prompts: Texts of the user turns.
            responses: For each prompt, the given part of the response and the part to learn. Both are tokenized
                together.
            images: Number of images at the start of each prompt.

        Returns:
            Token ids (n, length), padded on the right, and a mask (n, length) of the tokens to learn.
        """
        head = self.head + self.image * images
        rows, learned = [], []
        for text, (given, wanted) in zip(prompts, responses, strict=True):
            before = head + self._ids(text) + self.close
            skip = len(self._ids(given)) if given else 0
            response = self._ids(given + wanted) + self.end
            rows.append(before + response)
            learned.append([0] * (len(before) + skip) + [1] * (len(response) - skip))
        length = max(map(len, rows))
        ids = torch.tensor([row + [self.pad] * (length - len(row)) for row in rows])
        mask = torch.tensor([row + [0] * (length - len(row)) for row in learned], dtype=torch.bool)
        return ids, mask

    def places(self, images: int) -> list[slice]:
        """Range of the token indices of each image in a row."""
        starts = [len(self.head) + 1 + index * len(self.image) for index in range(images)]
        return [slice(start, start + IMAGE_TOKENS) for start in starts]

    def positions(self, length: int, *, images: int) -> Tensor:
        """M-RoPE positions (3, 1, length): a grid for each image. Text continues after the grid's largest position."""
        axis = torch.arange(_GRID)
        grid = torch.stack(
            [torch.zeros(IMAGE_TOKENS, dtype=torch.long), axis.repeat_interleave(_GRID), axis.repeat(_GRID)]
        )
        parts, token, position = [], 0, 0
        for place in self.places(images):
            text = place.start - token
            parts += [torch.arange(text).expand(3, -1) + position, grid + position + text]
            token, position = place.stop, position + text + _GRID
        parts.append(torch.arange(length - token).expand(3, -1) + position)
        return torch.cat(parts, dim=1)[:, None]


def response_loss(model: Any, rows: Rows, ids: Tensor, learned: Tensor, pixels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy on the tokens to learn. The LM head is applied only to these tokens.

    Args:
        model: The base.
        rows: Layout of the rows.
        ids: Token ids (n, length).
        learned: Mask (n, length) of the tokens to learn.
        pixels: Patches (n * images, patches, values), the images of a row one after another; None for text alone.

    Returns:
        Mean loss, and for each row whether every token to learn is the most likely one, bool (n,).
    """
    n, length = ids.shape
    embeds = model.model.get_input_embeddings()(ids)
    images = 0 if pixels is None else len(pixels) // n
    if pixels is not None:
        seen = features(model.model.visual, pixels)[1].to(embeds.dtype).view(n, images, IMAGE_TOKENS, -1)
        embeds = embeds.clone()
        for index, place in enumerate(rows.places(images)):
            embeds[:, place] = seen[:, index]
    position = rows.positions(length, images=images).expand(3, n, length)
    states = model.model.language_model(inputs_embeds=embeds, position_ids=position, use_cache=False).last_hidden_state
    logits = model.lm_head(states[:, :-1][learned[:, 1:]]).float()
    wanted = ids[:, 1:][learned[:, 1:]]
    wrong = torch.zeros_like(learned[:, 1:])
    wrong[learned[:, 1:]] = logits.argmax(-1) != wanted
    return F.cross_entropy(logits, wanted), ~wrong.any(dim=1)
