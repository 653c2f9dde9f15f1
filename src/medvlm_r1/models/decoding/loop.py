"""The form of the decoding functions that transformers' `generate` takes as `custom_generate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvlm_r1.models.onednn_linear import answering


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """What `generate` hands to a decoding function, beside the model and the prompts.

    Attributes:
        inputs: The model's further inputs, the cache among them.
        logits_processor: Changes the scores of the next token, (rows, vocabulary).
        stopping_criteria: Says of each row whether it has ended.
        config: The generation settings.
    """

    inputs: dict[str, Any]
    logits_processor: Any
    stopping_criteria: Any
    config: Any


def as_custom_generate(work: Callable[[Any, Tensor, Decoding], Tensor]) -> Callable[..., Tensor]:
    """A function that `generate` calls.

    Args:
        work: From the model, the prompts' ids (rows, length) and the rest to the ids that `generate` returns. It runs
            without gradients. Several processes in step, and a streamer, are refused.
    """

    @torch.no_grad()
    def decode(
        model: Any,
        input_ids: Tensor,
        *,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **inputs: Any,
    ) -> Tensor:
        assert not synced_gpus
        assert streamer is None
        given = Decoding(
            inputs=inputs,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            config=generation_config,
        )
        with answering(model):
            return work(model, input_ids, given)

    return decode
