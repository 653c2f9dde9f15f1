"""Pictures and data folders for the tests of splits and leakage."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medvlm_r1.data.check.findings import Check, Listed
from medvlm_r1.data.folder import write_folder
from medvlm_r1.data.sample import Sample


def picture(seed: int, side: int = 160) -> Image.Image:
    """A gray picture of clouds, another for every seed: like a photograph, the finer the fainter."""
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


def brighter(image: Image.Image) -> Image.Image:
    """A copy with more light."""
    return image.point(lambda value: min(255, value + 12))


def cropped(image: Image.Image) -> Image.Image:
    """A copy without its outermost pixels."""
    return image.crop((1, 1, image.width - 1, image.height - 1))


def as_jpeg(image: Image.Image) -> Image.Image:
    """A copy as a lossy JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=60)
    return Image.open(buffer)


def counts(check: Check) -> dict[str, int]:
    """Everything that was found, by name; what was not found is left out."""
    listed = {
        name: getattr(owner, name).count
        for owner in (check, check.sharing)
        for name in owner.__dataclass_fields__
        if isinstance(getattr(owner, name), Listed)
    }
    return {name: count for name, count in listed.items() if count}
