"""Prefill: run the prompts of a `generate` call once.

On a CPU, the prompts run in chunks of about 4096 tokens, because the activations of more tokens do not fit the CPU
cache. 256 prompts of 133 tokens took 1.75 s at once, and 1.25 s in chunks of 32 (5 layers, width 192, two cores).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from medvlm_r1.models.onednn_linear import fast_inference

_TOKENS = 4096
_BY_ROW = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "position_ids")


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """Arguments that `generate` passes to a decoding function, besides the model and the prompts.

    Attributes:
        inputs: Further model inputs, including the cache.
        logits_processor: Function that changes the next-token scores, (rows, vocabulary).
        stopping_criteria: Function that reports for each row whether it has ended.
        config: Generation settings.
    """

    inputs: dict[str, Any]
    logits_processor: Any
    stopping_criteria: Any
    config: Any


def as_custom_generate(decode: Callable[[Any, Tensor, GenerateCall], Tensor]) -> Callable[..., Tensor]:
    """Wrap a decoding function for `generate(custom_generate=...)`.

    Args:
        decode: Function of the model, the prompt ids (rows, length) and the call; it returns the ids that `generate`
            returns. It runs without gradients. `synced_gpus` and `streamer` are not supported.
    """

    @torch.no_grad()
    def custom_generate(
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
        with fast_inference(model):
            return decode(
                model, input_ids, GenerateCall(inputs, logits_processor, stopping_criteria, generation_config)
            )

    return custom_generate


@contextmanager
def replaced_generate(owner: Any, generate: Callable[..., Any]) -> Iterator[None]:
    """Replace the method `generate` of a model or an engine within this context.

    TRL passes only tensors to it, so this is the only way to give it more.
    """
    owner.generate = generate
    try:
        yield
    finally:
        del owner.generate


def prefill(model: Any, input_ids: Tensor, call: GenerateCall) -> tuple[Tensor, dict[str, Any]]:
    """Run the prompts once; return their next-token logits and KV cache.

    Args:
        model: The model on which `generate` was called.
        input_ids: Prompt ids (prompts, length), padded on the left.
        call: Arguments of `generate`.

    Returns:
        Logits (prompts, vocabulary) of the token after each prompt, and the model inputs for that token, including the
        cache.
    """
    first = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **call.inputs)
    rows = len(input_ids)
    if input_ids.device.type == "cpu":
        rows = max(1, _TOKENS // input_ids.shape[1])
    chunks = [first] if len(input_ids) <= rows or not _divides(first) else list(_chunks(model, first, rows))
    outputs = [model(**chunk, return_dict=True) for chunk in chunks]
    output = outputs[0]
    if len(outputs) > 1:
        _join([output.past_key_values for output in outputs])
    # From here on, the first output's cache holds all prompts.
    inputs = model._update_model_kwargs_for_generation(output, call.inputs)
    longer = torch.nn.functional.pad(input_ids, (0, 1))
    step = model.prepare_inputs_for_generation(longer, next_sequence_length=1, **inputs)
    return torch.cat([output.logits[:, -1] for output in outputs]).float(), step


def _divides(first: Mapping[str, Any]) -> bool:
    """Whether every input can be split by prompt."""
    return all(
        name in (*_BY_ROW, "past_key_values")
        or value is None
        or isinstance(value, bool | int)
        # The type that `as_encoder_output` returns; the vision towers of transformers return other types.
        or (name == "mm_encoder_outputs" and set(value) == {"image"} and type(value["image"]) is SimpleNamespace)
        for name, value in first.items()
    )


def _chunks(model: Any, first: Mapping[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    ids = first["input_ids"]
    tokens = torch.nn.functional.pad((ids == model.config.image_token_id).sum(dim=1).cumsum(0), (1, 0)).tolist()
    for start in range(0, len(ids), rows):
        stop = min(start + rows, len(ids))
        chunk = {}
        for name, value in first.items():
            if name in _BY_ROW and value is not None:
                # Positions may have axes in front: (axes, prompts, length).
                value = value[..., start:stop, :]
            elif name == "past_key_values":
                value = copy.deepcopy(value)  # still empty
            elif name == "mm_encoder_outputs" and value is not None:
                value = {"image": _features(value["image"], tokens[start], tokens[stop])}
            chunk[name] = value
        yield chunk


def _features(output: Any, start: int, stop: int) -> SimpleNamespace:
    """The features of a range of image tokens, in the form of `as_encoder_output`."""
    pooled = output.pooler_output
    joined = torch.is_tensor(pooled)
    levels = [level[start:stop] for level in ([pooled] if joined else pooled)]
    deepstack = [[level[start:stop] for level in levels] for levels in output.deepstack_features]
    return SimpleNamespace(pooler_output=levels[0] if joined else levels, deepstack_features=deepstack)


def _join(caches: list[Any]) -> None:
    """Concatenate the keys and values of all caches into the first cache."""
    for layer, *others in zip(*(cache.layers for cache in caches), strict=True):
        layer.keys = torch.cat([layer.keys, *(other.keys for other in others)])
        layer.values = torch.cat([layer.values, *(other.values for other in others)])
