"""Pictures and data folders for the tests of splits and leakage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medvlm_r1.data.folder import write_folder
from medvlm_r1.data.sample import Sample


def picture(seed: int, side: int = 160) -> Image.Image:
    """A grey picture of clouds, another for every seed: like a photograph, the finer the fainter."""
    rng = np.random.default_rng(seed)
    total = np.full((side, side), 20.0)
    for cells, strength in ((3, 90), (6, 45), (12, 25), (24, 12), (48, 6)):
        coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        total += strength * np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def sample(id: str, **changes: Any) -> Sample:
    """A question about `images/ID.png`."""
    values: dict[str, Any] = {
        "id": id,
        "images": (f"images/{id}.png",),
        "question": f"What is seen in {id}?",
        "options": ("cyst", "mass"),
        "answer": "mass",
        "modality": "MRI",
    }
    return Sample(**{**values, **changes})


def make_folder(path: Path, samples: Sequence[Sample], **pictures: Image.Image) -> Path:
    """A data folder; `pictures` by id, and another picture for every other image name that ends in .png."""
    (path / "images").mkdir(parents=True, exist_ok=True)
    for name in sorted({name for s in samples for name in s.images if name.endswith(".png")}):
        # The name decides, so that two folders with other names share nothing.
        seed = int.from_bytes(name.encode()) % 2**61
        (pictures.get(Path(name).stem) or picture(seed)).save(path / name)
    write_folder(path, samples, info={"name": "made", "source": "by hand"})
    return path
