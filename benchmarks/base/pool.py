"""The images the embedded base is trained on: a pool of phantom subjects disjoint from the benchmark's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from medvlm_r1.data.workers import work_on_images
from medvlm_r1.phantom.benchmark import SPLITS
from medvlm_r1.phantom.imaging import SIZE
from medvlm_r1.phantom.scene import MODALITIES, Scene, draw, finding_box, render

PIXELS = 112
"""Side of the images the base sees, pixels."""

# MRI has the most ways to look (four sequences, three planes) and gets the largest share.
_SHARES = {"MRI": 0.40, "CT": 0.30, "X-ray": 0.30}


@dataclass(slots=True)
class Pool:
    """Images with their truth.

    Attributes:
        images: uint8 array (n, PIXELS, PIXELS).
        boxes: float32 array (n, 4): edges x1, y1, x2, y2 of the finding in pixels of `images`; nan if none is visible.
        scenes: The ground truth of each image.
    """

    images: np.ndarray
    boxes: np.ndarray
    scenes: list[Scene]


def _draw(seed: int, index: int) -> Scene:
    rng = np.random.default_rng((SPLITS["pretrain"], seed, index))
    modality = str(rng.choice(MODALITIES, p=[_SHARES[m] for m in MODALITIES]))
    return draw(modality, {}, (SPLITS["pretrain"], seed, MODALITIES.index(modality), index), rng)


def _render_small(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    # Bicubic and antialiased, as the Qwen2-VL image processor resizes.
    picture = Image.fromarray(render(scene)).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
    box = finding_box(scene)
    scaled = np.full(4, np.nan) if box is None else np.array(box) * (PIXELS / SIZE)
    return np.asarray(picture, dtype=np.uint8), scaled.astype(np.float32)


def build_pool(folder: Path, n: int, seed: int, progress: Callable[[int, int], None] | None = None) -> Pool:
    """Render one image of each of n subjects. Images that `folder` already holds are kept.

    Args:
        folder: Folder of images.npy, boxes.npy and scenes.jsonl.
        n: Number of subjects.
        seed: Seed of the pool.
        progress: Called with (number of images done, n).
    """
    scenes = [_draw(seed, index) for index in range(n)]
    lines = "".join(json.dumps(dataclasses.asdict(scene)) + "\n" for scene in scenes)
    images_path, boxes_path, scenes_path = (folder / name for name in ("images.npy", "boxes.npy", "scenes.jsonl"))
    if not scenes_path.exists() or scenes_path.read_text() != lines:
        folder.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(images_path, "w+", np.uint8, (n, PIXELS, PIXELS))
        boxes = np.lib.format.open_memmap(boxes_path, "w+", np.float32, (n, 4))
        boxes[:] = np.inf
        scenes_path.write_text(lines)
    images, boxes = (np.load(path, mmap_mode="r+") for path in (images_path, boxes_path))
    # Boxes are written after their images; those that are still infinite have not been rendered.
    waiting = np.flatnonzero(np.isposinf(boxes[:, 3]))
    indices = iter(waiting)

    def take(rendered: tuple[np.ndarray, np.ndarray]) -> None:
        index = next(indices)
        images[index], boxes[index] = rendered
        if progress is not None:
            progress(int(index) + 1, n)

    work_on_images(_render_small, [scenes[index] for index in waiting], take)
    return Pool(np.array(images), np.array(boxes), scenes)
