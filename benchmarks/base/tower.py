"""Stages 1 and 2: the vision tower learns findings patch by patch, then the attributes of images, by linear heads.

Findings are learned first, on crops and with labels for each patch. docs/explanation/phantomvqa.md lists what was
tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from benchmarks.base.architecture import IMAGE_TOKENS, MERGE, PATCH, PIXEL_MEAN, PIXEL_STD
from benchmarks.base.pool import PIXELS
from medvlm_r1.phantom.body import Array
from medvlm_r1.phantom.imaging import PLANES, SEQUENCES, WINDOWS
from medvlm_r1.phantom.questions import NO_FINDING, value
from medvlm_r1.phantom.scene import KINDS, MODALITIES, REGIONS, SIDES, SIZES, VIEWS, Scene

ATTRIBUTES: Mapping[str, Sequence[str]] = {
    "modality": MODALITIES,
    "region": REGIONS,
    "plane": (*PLANES, *VIEWS),
    "technique": (*SEQUENCES, *WINDOWS, *VIEWS),
    "finding": (*KINDS, NO_FINDING),
    "size": (*SIZES, NO_FINDING),
    "side": (*SIDES, NO_FINDING),
}
HIDDEN = -100
"""Target of an attribute the image cannot show (the side in a sagittal plane)."""

_SIDE = PIXELS // PATCH


def patches(images: Array) -> Tensor:
    """Convert images to patches in the layout of the Qwen2-VL image processor.

    Args:
        images: uint8 array (n, side, side), gray; side a multiple of PATCH * MERGE.

    Returns:
        float32 tensor (n, patches, 3 * 2 * PATCH * PATCH), normalized, in the merger's order.
    """
    x = torch.from_numpy(images).float().div_(255).sub_(PIXEL_MEAN).div_(PIXEL_STD)
    n, side = len(images), images.shape[1] // PATCH
    blocks = side // MERGE
    x = x.view(n, blocks, MERGE, PATCH, blocks, MERGE, PATCH).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(n, side * side, 1, PATCH * PATCH).expand(-1, -1, 6, -1).reshape(n, side * side, -1)


def crops(images: Array, boxes: Array, side: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Cut a square from each image. The center of a finding is inside the square three times out of four.

    Args:
        images: uint8 array (n, PIXELS, PIXELS).
        boxes: float array (n, 4): x1, y1, x2, y2 of the findings; nan without one.
        side: Side of the cut, pixels.
        rng: Source of the positions.

    Returns:
        The cuts (n, side, side) and the boxes within them.
    """
    out, moved = np.empty((len(images), side, side), np.uint8), boxes.copy()
    for index, (image, box) in enumerate(zip(images, boxes, strict=True)):
        corner = rng.integers(0, PIXELS - side + 1, 2)
        if np.isfinite(box[0]) and rng.random() < 0.75:
            center = np.array([box[0] + box[2], box[1] + box[3]]) / 2
            corner = np.clip(center.astype(int) - rng.integers(6, side - 6, 2), 0, PIXELS - side)
        x, y = corner
        out[index] = image[y : y + side, x : x + side]
        moved[index] -= (x, y, x, y)
    return out, moved


def vary(images: Array, boxes: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Randomize the appearance of images: position, zoom, intensity curve, blur, background, noise, text overlays.

    Each kind of change affects only some images, so unchanged images stay frequent. Images are not mirrored. The zoom
    stays within 8 %, so the size classes of the findings stay distinct.

    Args:
        images: uint8 array (n, side, side).
        boxes: float array (n, 4): x1, y1, x2, y2 of the findings; nan without one.
        rng: Source of the changes.

    Returns:
        Changed copies of the images and the boxes.
    """
    n, side = len(images), images.shape[1]
    x = torch.from_numpy(images).float()[:, None] / 255

    def some(share: float, values: Array) -> Tensor:
        """The values for a share of the images, 0 for the others: float32 (n, 1, 1, 1)."""
        return torch.from_numpy(np.where(rng.random(n) < share, values, 0)).float().view(n, 1, 1, 1)

    shift = rng.integers(-5, 6, (n, 2))
    zoom = np.where(rng.random(n) < 0.3, rng.uniform(0.92, 1.08, n), 1)
    middle = side / 2
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = torch.from_numpy(1 / zoom)
    matrix[:, :, 2] = torch.from_numpy(-shift / (middle * zoom[:, None]))
    grid = F.affine_grid(matrix, [n, 1, side, side], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    moved = (boxes - middle) * zoom[:, None] + middle + np.tile(shift, 2)

    x = x.clamp(1e-4, 1) ** torch.exp(some(0.5, rng.normal(0, 0.3, n)))
    x = x + some(0.3, rng.uniform(-0.8, 0.8, n)) * x * (1 - x) * (2 * x - 1) * 2
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = x + some(0.3, rng.uniform(-0.5, 1, n)) * (blurred - x)
    floor = some(0.25, rng.uniform(0, 0.15, n))
    x = floor + (1 - floor) * x
    x = x * torch.exp(some(1.0, rng.normal(0, 0.08, n))) + some(1.0, rng.normal(0, 0.016, n))
    for index in np.flatnonzero(rng.random(n) < 0.2):
        top, bottom, left, right = rng.integers(0, side // 12, 4)
        frame = torch.full((side, side), float(rng.choice([0.0, 0.0, 0.15, 1.0])))
        inner = slice(int(top), side - int(bottom)), slice(int(left), side - int(right))
        frame[inner] = x[index, 0][inner]
        x[index, 0] = frame
    for index in np.flatnonzero(rng.random(n) < 0.2):
        for _ in range(int(rng.integers(1, 4))):
            height, width = 5, int(rng.integers(3, side // 4))
            row, column = (int(rng.choice([1, side - 1 - size])) for size in (height, width))
            glyphs = torch.from_numpy(rng.random((height, width)) < 0.5)
            x[index, 0, row : row + height, column : column + width][glyphs] = float(rng.uniform(0.7, 1))
    noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    x = x + some(0.4, rng.uniform(0, 0.06, n)) * noise
    return (x[:, 0].clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy(), moved.astype(np.float32)


def features(visual: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Run the vision tower on images of one size, as a batch.

    The model's own forward computes the attention image by image.

    Args:
        visual: `model.model.visual` of a Qwen2-VL.
        pixels: Tensor (n, patches, values) from `patches`.

    Returns:
        Patch states before the merger (n, patches, width) and image tokens (n, IMAGE_TOKENS, width).
    """
    n, length, _ = pixels.shape
    x = visual.patch_embed(pixels.reshape(n * length, -1)).view(n, length, -1)
    cos, sin = visual.rotary_pos_emb(x[0], torch.from_numpy(_merge_order(length)))
    for block in visual.blocks:
        heads = block.attn.num_heads
        qkv = block.attn.qkv(block.norm1(x)).view(n, length, 3, heads, -1)
        query, key, val = qkv.unbind(2)
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), val.transpose(1, 2))
        x = x + block.attn.proj(mixed.transpose(1, 2).reshape(n, length, -1))
        x = x + block.mlp(block.norm2(x))
    return x, visual.merger(x.reshape(n * length, -1)).view(n, length // MERGE**2, -1)


def _merge_order(length: int) -> Array:
    """Row and column of every patch of a square picture in the merger's order: int64 (length, 2)."""
    side = int(np.sqrt(length))
    row, column = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    blocks = np.stack([row, column], axis=-1).reshape(side // MERGE, MERGE, side // MERGE, MERGE, 2)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(length, 2)


def targets(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Class index of every attribute of every scene, `HIDDEN` where the image cannot tell; int64 tensors (n,)."""
    table: dict[str, list[int]] = {name: [] for name in ATTRIBUTES}
    for scene in scenes:
        for name, values in ATTRIBUTES.items():
            is_visible = name != "side" or scene.side_is_seen
            table[name].append(values.index(value(scene, name)) if is_visible else HIDDEN)
    return {name: torch.tensor(column) for name, column in table.items()}


def cells(boxes: Array, scenes: Sequence[Scene], length: int = _SIDE**2) -> tuple[Tensor, Tensor]:
    """Kind and size class of the finding in each patch.

    Args:
        boxes: float array (n, 4): x1, y1, x2, y2 of the findings in pixels of the base's images; nan without one.
        scenes: The truth of each image.
        length: Patches per image.

    Returns:
        Index of the finding's kind per patch, int64 (n, patches) in the merger's order, the last index for none; and
        the size index per patch, `HIDDEN` where there is no finding.
    """
    low = _merge_order(length)[:, ::-1] * PATCH
    kinds = np.full((len(scenes), len(low)), len(KINDS))
    sizes = np.full((len(scenes), len(low)), HIDDEN)
    for index, (scene, box) in enumerate(zip(scenes, boxes, strict=True)):
        if scene.size is None or np.isnan(box[0]):
            continue
        center, radii = (box[2:] + box[:2]) / 2, (box[2:] - box[:2]) / 2
        # Distance from the center to each patch's square, relative to the ellipse in the box.
        gap = np.maximum(0, np.maximum(low - center, center - low - PATCH)) / radii
        touched = np.hypot(gap[:, 0], gap[:, 1]) < 0.8
        kinds[index][touched] = KINDS.index(scene.finding)
        sizes[index][touched] = SIZES.index(scene.size)
    return torch.from_numpy(kinds), torch.from_numpy(sizes)


class Heads(nn.Module):
    """Linear classifiers on the output of the vision tower.

    The first set reads all image tokens, concatenated. The second reads their mean, which the language model can
    compute at any position. The third reads each patch alone and classifies the finding in it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.joint = nn.ModuleDict({a: nn.Linear(IMAGE_TOKENS * width, len(v)) for a, v in ATTRIBUTES.items()})
        self.mean = nn.ModuleDict({a: nn.Linear(width, len(v)) for a, v in ATTRIBUTES.items()})
        self.norm = nn.LayerNorm(width)
        self.kind = nn.Linear(width, len(KINDS) + 1)
        self.size = nn.Linear(width, len(SIZES))

    def forward(self, tokens: Tensor, wanted: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Loss on the attributes; and for each attribute, the accuracy of the head that reads the mean.

        Args:
            tokens: Image tokens (n, IMAGE_TOKENS, width).
            wanted: Class indices from `targets`.
        """
        loss = tokens.new_zeros(())
        right = {}
        for name, wish in wanted.items():
            seen = self.mean[name](tokens.mean(dim=1))
            loss = loss + F.cross_entropy(self.joint[name](tokens.flatten(1)), wish, ignore_index=HIDDEN)
            loss = loss + F.cross_entropy(seen, wish, ignore_index=HIDDEN)
            known = wish != HIDDEN
            right[name] = float((seen.argmax(-1) == wish)[known].float().mean())
        return loss, right

    def local(self, states: Tensor, kinds: Tensor, sizes: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss on the patches; and the accuracies for kind and size on patches with a finding, and for empty patches.

        Args:
            states: Patch states (n, patches, width).
            kinds: Index of the kind for each patch, int64 (n, patches), from `cells`.
            sizes: Index of the size for each patch, int64 (n, patches), from `cells`.
        """
        states = self.norm(states)
        is_finding = kinds != len(KINDS)
        kind, size = self.kind(states), self.size(states)
        # Most patches are empty; without the weight the empty class is all that is learned at first.
        weight = states.new_tensor([4.0] * len(KINDS) + [1.0])
        loss = 6 * F.cross_entropy(kind.flatten(0, 1), kinds.flatten(), weight=weight)
        loss = loss + 2 * F.cross_entropy(size.flatten(0, 1), sizes.flatten(), ignore_index=HIDDEN)
        right = {
            "patch": float((kind.argmax(-1) == kinds)[is_finding].float().mean()),
            "empty": float((kind.argmax(-1) == kinds)[~is_finding].float().mean()),
            "patch_size": float((size.argmax(-1) == sizes)[is_finding].float().mean()),
        }
        return loss, right
