"""The shared forward: log-probabilities of the G completions of a prompt, with the prompt and its images computed once.

Prompt states do not depend on the completions, and all operations except attention process each token separately. So
one pass over [prompt, completion 1, ..., completion G] gives the same results as G rows of [prompt, completion], if
each completion attends only to the prompt and itself (PrefixGrouper, arXiv 2506.05433, lemma 2.1). Without dropout,
this is exact up to the order of sums.

All prompts and completions of a batch form one packed row, so no padding is computed. Attention is computed only
between tokens of a prompt and its completions (`models.sharing.attention`), so packing adds no cost. The LM head runs
only on tokens that predict a completion token, in tiles that the backward pass recomputes (TRL's kernel). So no tensor
of shape (completion tokens, vocabulary) is ever stored.

    features = encode_images(model, vision)          # reusable while the tower does not change
    logps, entropies = shared_logps(model, input_ids=..., attention_mask=..., logits_to_keep=..., group_sizes=[8, 8],
                                    vision=vision, image_features=features)
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NotRequired, TypedDict, Unpack

import torch
from torch import Tensor, nn
from trl.kernels import ChunkedLogProbFunction

from medvlm_r1.errors import UserError
from medvlm_r1.models.device import head_columns
from medvlm_r1.models.families import Family, open_model, supports
from medvlm_r1.models.sharing.attention import Layout, PrefixMask, dense_mask

__all__ = ["ImageFeatures", "SharedRows", "encode_images", "next_logits", "shared_logps", "supports"]

ImageFeatures = list[tuple[Tensor, ...]]
"""Image features in order. One entry covers an image (Qwen, LLaVA and Mistral 3), a tile (InternVL), a crop (Gemma 3)
or all images of a prompt (SmolVLM and Idefics3). An entry holds the embeddings that replace the image tokens, (tokens,
width), and the deepstack features of families that have them. Join the lists of several prompts by `+`, in the order of
the prompts."""


class SharedRows(TypedDict):
    """A batch of B rows, each a prompt and its completion."""

    input_ids: Tensor
    """(B, P + C) int64: the prompt, padded on the left, then the completion, padded on the right."""
    attention_mask: Tensor
    """(B, P + C): 0 on padding, 1 elsewhere. A row may have no completion tokens, except in `next_logits`."""
    logits_to_keep: int
    """C, the padded length of the completions."""
    group_sizes: Sequence[int]
    """Number of rows of each group, in order; they sum to B. The adjacent rows of a group share one prompt."""
    vision: Mapping[str, Tensor]
    """Processor outputs for the images of the prompts, each prompt once and in order (`pixel_values`, `image_grid_thw`
    and so on). Empty if there are no images. `pixel_values` may be omitted if `image_features` are given."""
    image_features: NotRequired[ImageFeatures | None]
    """Output of `encode_images` for these prompts; computed from `vision` if None."""
    blank: NotRequired[Mapping[str, Tensor]]
    """Processor outputs for an arbitrary image. If there is no other image to encode, the vision tower runs on this
    one, without effect on the results. Distributed training needs this, because every process has to run the tower."""


def shared_logps(
    model: Any,
    *,
    temperature: float = 1.0,
    compute_entropy: bool = False,
    chunk: int | None = None,
    head_fp32: bool = False,
    **rows: Unpack[SharedRows],
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and entropies of completions; each prompt and image is computed only once.

    Args:
        model: A model that `supports` accepts. LoRA adapters are used unless the caller has disabled them.
        temperature: Divisor of the logits.
        compute_entropy: Whether to return entropies too; gradients flow through them.
        chunk: Number of vocabulary columns that the LM head computes at a time; None for `head_columns` of its device.
        head_fp32: Whether to compute the LM head in float32, outside autocast (TRL's `cast_lm_head_to_fp32`).
        **rows: The completions; see `SharedRows`.

    Returns:
        Log-probabilities (B, C) float32 of the completion tokens, and their entropies in nats (B, C) or None. Both are
        0 on padding.

    Raises:
        ValueError: The model family is not supported, a prompt is empty, or rows of a group have different prompts.
        UserError: A completion contains an image token.
    """
    inner, family = open_model(model)
    packed = _pack(rows)
    if (packed.targets == inner.config.image_token_id).any():
        raise UserError(
            f"A completion holds the image token (id {inner.config.image_token_id}), for which there is no image. "
            "Forbid it while sampling (generation_kwargs: suppress_tokens)."
        )
    hidden = _hidden(model, inner, family, packed, rows, packed.predictors)
    targets, scored = packed.targets.to(hidden.device), packed.scored.to(hidden.device)
    outputs = ("log_probs", "entropy") if compute_entropy else ("log_probs",)
    tiles = _Tiles(targets=targets, temperature=temperature, chunk=chunk, fp32=head_fp32, outputs=outputs)
    logps, entropies, *_ = _run_head(inner.get_output_embeddings(), hidden, tiles)

    def aligned(values: Tensor) -> Tensor:
        # The result depends on the model even without tokens, so the backward pass of an empty batch gives zeros.
        return values.new_zeros(scored.shape).masked_scatter(scored, values)

    return aligned(logps), None if entropies is None else aligned(entropies)


@torch.inference_mode()
def next_logits(model: Any, **rows: Unpack[SharedRows]) -> Tensor:
    """Next-token logits of each row; each prompt and image is computed only once.

    Args:
        model: A model that `supports` accepts.
        **rows: The completions, each with at least one token; see `SharedRows`.

    Returns:
        Logits (B, vocabulary), in the dtype of the LM head.

    Raises:
        ValueError: The model family is not supported, a prompt or completion is empty, or rows of a group have
            different prompts.
    """
    inner, family = open_model(model)
    packed = _pack(rows)
    if not bool(packed.scored.any(dim=1).all()):
        raise ValueError("A row has no completion token.")
    # The tokens of a row end with its last completion token.
    last = packed.keep.sum(dim=1).cumsum(0) - 1
    logits: Tensor = inner.get_output_embeddings()(_hidden(model, inner, family, packed, rows, last))
    return logits


def _hidden(model: Any, inner: Any, family: Family, packed: _Packed, rows: SharedRows, indices: Tensor) -> Tensor:
    """Last hidden states at these indices of the packed row, (N, width), on the device of the LM head."""
    vision, image_features, device = rows["vision"], rows.get("image_features"), rows["input_ids"].device
    if image_features is None and vision.get("pixel_values") is not None:
        image_features = encode_images(model, vision)
    with _blank_added(model, inner, rows.get("blank") if image_features is None else None):
        states: Tensor = inner.base_model(
            input_ids=packed.ids.to(device),
            attention_mask=_masks(inner, family, packed, device),
            position_ids=_positions(inner, family, packed, vision).to(device),
            mm_encoder_outputs={"image": as_encoder_output(model, image_features)} if image_features else None,
            use_cache=False,
        ).last_hidden_state[0]
    # Access to a weight makes ZeRO-3 gather it, so it is accessed only if layers are on several devices.
    split = len(set((getattr(inner, "hf_device_map", None) or {}).values())) > 1
    device = inner.get_output_embeddings().weight.device if split else states.device
    return states.to(device).index_select(0, indices.to(device))


@contextlib.contextmanager
def _blank_added(model: Any, inner: Any, blank: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Run the vision tower on a blank image, if one is given, and add 0 times its features to the token embeddings.

    A hook adds them, so that the forward and backward passes run the layers in the same order as with an image. ZeRO-3
    compares this order between processes.
    """
    if not blank:
        yield
        return
    total = torch.stack([feature.sum() for entry in encode_images(model, blank) for feature in entry]).sum()
    embeddings = inner.get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda module, args, output: output + 0.0 * total.to(output.dtype))
    try:
        yield
    finally:
        handle.remove()


def encode_images(model: Any, vision: Mapping[str, Tensor]) -> ImageFeatures:
    """Encode images: run the vision tower and its projector.

    Args:
        model: A model that `supports` accepts.
        vision: Processor outputs for the images, including `pixel_values`. Other outputs are ignored.

    Returns:
        Features in order, with gradients if enabled; see `ImageFeatures`.
    """
    inner, family = open_model(model)
    inputs = {key: vision[key] for key in family.vision if vision.get(key) is not None}
    for module in inner.base_model.modules():
        simple = type(module) is nn.Conv3d and module.groups == 1 and module.padding == (0, 0, 0)
        if simple and module.dilation == (1, 1, 1):
            # The change is permanent, so nothing has to be undone while another thread uses the model.
            module.__class__ = _PatchConv
    output = inner.base_model.get_image_features(**inputs, return_dict=True)
    deepstack = getattr(output, "deepstack_features", None) or []
    return list(zip(output.pooler_output, *deepstack, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packed:
    """One packed row of L tokens, made from B padded rows. The tensors are on the CPU."""

    ids: Tensor
    """(1, L) int64."""
    keep: Tensor
    """(B, P + C) bool: the tokens that form the packed row, in row-major order. Each prompt is taken from `first`."""
    first: Tensor
    """(groups,) index of the first row of each group."""
    group: Tensor
    """(B,) index of each row's group."""
    prompts: tuple[Tensor, Tensor]
    """(groups, P) token ids and attention mask of the prompts, padded on the left."""
    scored: Tensor
    """(B, C) bool: the completion tokens."""
    predictors: Tensor
    """(N,) for each completion token, in row-major order, the index in the packed row of the token that predicts it."""
    targets: Tensor
    """(N,) ids of the completion tokens."""
    layout: Layout
    """Lengths of prompts and completions."""


def _pack(rows: SharedRows) -> _Packed:
    # The only point at which the host waits for the device: everything that depends on values is computed on the CPU.
    ids, real = torch.stack([rows["input_ids"], rows["attention_mask"].to(rows["input_ids"].dtype)]).cpu()
    mask, group_sizes = real.bool(), rows["group_sizes"]
    sizes = torch.tensor(list(group_sizes))
    if int(sizes.sum()) != len(ids) or int(sizes.min()) < 1:
        raise ValueError(
            f"group_sizes {list(group_sizes)} do not add up to the {len(ids)} rows in groups of 1 or more."
        )
    prompt = ids.shape[1] - rows["logits_to_keep"]
    first = sizes.cumsum(0) - sizes
    group = torch.arange(len(sizes)).repeat_interleave(sizes)
    tokens = torch.where(mask, ids, -1)[:, :prompt]
    prompts, scored = (ids[first, :prompt], mask[first, :prompt]), mask[:, prompt:]
    if not bool((tokens == tokens[first][group]).all()) or not bool(prompts[1].any(dim=1).all()):
        raise ValueError("The rows of a group differ in their prompt, or a prompt is empty.")
    keep = mask.clone()
    keep[:, :prompt] = False
    keep[first, :prompt] = prompts[1]
    index = keep.flatten().cumsum(0).view_as(keep) - 1
    # The first token of a completion follows the last one of its prompt, any other its neighbor in the packed row.
    before = torch.where(scored.cumsum(1) == 1, index[first, prompt - 1][group][:, None], index[:, prompt:] - 1)
    lengths = torch.split(scored.sum(1), list(group_sizes))
    return _Packed(
        ids=ids[keep][None],
        keep=keep,
        first=first,
        group=group,
        prompts=prompts,
        scored=scored,
        predictors=before[scored],
        targets=ids[:, prompt:][scored],
        layout=Layout(
            tuple(
                (size, tuple(length for length in completions.tolist() if length))
                for size, completions in zip(prompts[1].sum(1).tolist(), lengths, strict=True)
            )
        ),
    )


def _positions(inner: Any, family: Family, packed: _Packed, vision: Mapping[str, Tensor]) -> Tensor:
    """Position ids of the packed row, (1, L), or (3, 1, L) for M-RoPE. Each prompt starts at 0."""
    ids, mask = packed.prompts
    grid = vision.get("image_grid_thw") if family.rope_3d else None
    if grid is None:
        prompts = (mask.cumsum(1) - 1)[None].expand(3 if family.rope_3d else 1, -1, -1)
    else:
        kinds = (ids == inner.config.image_token_id).int()
        prompts, _ = inner.base_model.get_rope_index(
            ids, image_grid_thw=grid.cpu(), attention_mask=mask, mm_token_type_ids=kinds
        )
    # A completion starts after the largest position of its prompt. With images, this is less than the prompt's length.
    start = prompts.masked_fill(~mask, 0).amax(dim=(0, 2)) + 1
    positions = prompts.new_zeros((len(prompts), *packed.keep.shape))
    positions[:, packed.first, : ids.shape[1]] = prompts
    positions[:, :, ids.shape[1] :] = start[packed.group][:, None] + packed.scored.cumsum(1) - 1
    row = positions[:, packed.keep]
    return row[:, None] if family.rope_3d else row


def _masks(inner: Any, family: Family, packed: _Packed, device: torch.device) -> Tensor | dict[str, Tensor]:
    """The attention mask, or one for each layer type."""
    text = inner.config.get_text_config()
    # Dtype of the scores: that of the weights or, under autocast, of the matrix products.
    dtype = inner.base_model.dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    blocks = _image_blocks(packed.ids[0], inner.config.image_token_id).to(device) if family.two_way_images else None
    full: Tensor
    if text._attn_implementation == "sdpa" and blocks is None:
        full = PrefixMask(packed.layout, device)
    else:
        full = dense_mask(packed.layout, dtype=dtype, device=device, blocks=blocks)
    if not family.layer_masks:
        return full
    masks = {"full_attention": full}
    if "sliding_attention" in text.layer_types:
        masks["sliding_attention"] = dense_mask(
            packed.layout, dtype=dtype, device=device, window=text.sliding_window, blocks=blocks
        )
    return masks


def _image_blocks(ids: Tensor, image_token: int) -> Tensor:
    """(L,) index of the run of image tokens that each token belongs to, -1 for text."""
    image = ids == image_token
    starts = image & ~image.roll(1)
    starts[0] = image[0]
    return torch.where(image, starts.cumsum(0) - 1, -1)


def as_encoder_output(model: Any, features: ImageFeatures) -> SimpleNamespace:
    """Convert image features to the `mm_encoder_outputs["image"]` that a model's forward and `generate` read."""
    pooled, *deepstack = ([torch.cat(level)] for level in zip(*features, strict=True))
    joined = open_model(model)[1].joined
    return SimpleNamespace(pooler_output=pooled[0] if joined else pooled, deepstack_features=deepstack)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tiles:
    """Arguments of TRL's tiled LM head."""

    targets: Tensor
    temperature: float
    chunk: int | None
    fp32: bool
    outputs: tuple[str, ...]


def _run_head(head: nn.Module, hidden: Tensor, tiles: _Tiles) -> Any:
    """Run the tiled LM head through a call of the module, so that FSDP and ZeRO-3 gather its weight in both passes."""
    if "forward" in vars(head):
        # Another library has replaced `forward`.
        return _tiled(head, hidden, tiles)
    head.forward = functools.partial(_tiled, head)
    try:
        return head(hidden, tiles)
    finally:
        del head.forward


def _tiled(head: nn.Module, hidden: Tensor, tiles: _Tiles) -> Any:
    """Run TRL's tiled LM head with the same preparation as in its `add_fused_lm_head`."""
    weight: Any = head.weight
    autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if tiles.fp32:
        hidden, autocast = hidden.float(), torch.autocast(hidden.device.type, enabled=False)
    width = min(tiles.chunk or head_columns(hidden.device.type), weight.shape[0])
    bias = getattr(head, "bias", None)
    with autocast:
        return ChunkedLogProbFunction.apply(
            hidden, weight, bias, tiles.targets, tiles.temperature, width, None, 1.0, tiles.outputs
        )


class _PatchConv(nn.Conv3d):
    """A convolution over single patches (Qwen's patch embedding) as a matrix product.

    On a CPU this is seven times as fast as PyTorch's 3D convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.kernel_size:
            return super().forward(x)
        return nn.functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]
