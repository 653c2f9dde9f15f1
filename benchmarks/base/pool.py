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
        boxes: float32 array (n, 4): edges x1, y1, x2, y2 of the finding in pixels of `images`; nan if there is none.
        scenes: The truth of each.
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
    """Renders n subjects, or reads them from `folder` if they are there already.

    Args:
        folder: Where images.npy and scenes.jsonl are kept.
        n: Number of subjects.
        seed: Seed of the pool.
        progress: Called with (done, n).
    """
    scenes = [_draw(seed, index) for index in range(n)]
    lines = "".join(json.dumps(dataclasses.asdict(scene)) + "\n" for scene in scenes)
    images_path, boxes_path, scenes_path = (folder / name for name in ("images.npy", "boxes.npy", "scenes.jsonl"))
    if scenes_path.exists() and scenes_path.read_text() == lines:
        return Pool(np.load(images_path), np.load(boxes_path), scenes)
    folder.mkdir(parents=True, exist_ok=True)
    images = np.empty((n, PIXELS, PIXELS), dtype=np.uint8)
    boxes = np.empty((n, 4), dtype=np.float32)
    indices = iter(range(n))

    def take(rendered: tuple[np.ndarray, np.ndarray]) -> None:
        index = next(indices)
        images[index], boxes[index] = rendered
        if progress is not None:
            progress(index + 1, n)

    work_on_images(_render_small, scenes, take)
    np.save(images_path, images)
    np.save(boxes_path, boxes)
    scenes_path.write_text(lines)
    return Pool(images, boxes, scenes)
