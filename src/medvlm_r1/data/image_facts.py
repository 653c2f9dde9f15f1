"""Sizes and hashes of the images of a data folder, cached for unchanged images."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from medvlm_r1.console import progress_bar
from medvlm_r1.data.images import load_image
from medvlm_r1.data.paths import explain_os_error, inside
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.workers import FEW, work_on_images
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import UserError

# Part of the cache key, because another version may be able to decode an image that this version rejects.
_VERSION = version("medvlm-r1")


def image_sizes(path: str | Path, samples: Iterable[Sample]) -> dict[str, tuple[int, int] | None]:
    """Return the size of every image of the samples of a folder. Images that are not in the cache are decoded.

    Returns:
        Width and height by name of the image; None if the image is missing or unreadable.
    """
    names = dict.fromkeys(name for sample in samples for name in sample.images)
    facts = image_facts(path, names, decode=True)
    return {name: tuple(entry["size"]) if entry["size"] else None for name, entry in facts.items()}


def unreadable_samples(samples: Iterable[Sample], sizes: Mapping[str, tuple[int, int] | None]) -> list[Sample]:
    """Select the samples with an image that is missing, unreadable (by `image_sizes`) or not named by the source."""
    return [sample for sample in samples if sample.unnamed_image or not all(sizes[name] for name in sample.images)]


def image_facts(folder: str | Path, names: Iterable[str], *, decode: bool) -> dict[str, dict[str, Any]]:
    """Hash and size of images. Many images are processed in parallel, with a progress bar.

    Results are cached in `$XDG_CACHE_HOME/medvlm-r1/images` (by default in `~/.cache`). The cache contains no pixels.
    An image counts as unchanged if its size in bytes and its modification time are unchanged.

    Args:
        folder: The data folder.
        names: Names of the images, such as `images/x.png`.
        decode: Whether to decode every image and return its size.

    Returns:
        A dictionary for each name. Its `hash` is "absent" if the file is missing, and None if it cannot be read. With
        `decode`, its `size` is (width, height), or None if the image cannot be decoded.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medvlm-r1" / "images"
    file = root / f"{hashlib.sha256(f'{_VERSION} {Path(folder).resolve()}'.encode()).hexdigest()[:32]}.json"
    known: dict[str, dict[str, Any]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8"))
    stamps = {name: _stamp(folder, name) for name in names}
    jobs = [
        (folder, name, decode)
        for name, stamp in stamps.items()
        if name not in known or known[name]["stamp"] != stamp or (decode and "size" not in known[name])
    ]
    done = count(1)
    with progress_bar("Images checked") if len(jobs) >= FEW else nullcontext() as advance:

        def take(result: tuple[str, dict[str, Any]]) -> None:
            name, entry = result
            known[name] = entry | {"stamp": stamps[name]}
            if advance is not None:
                advance(next(done), len(jobs))

        work_on_images(_examine, jobs, take)
    if jobs:
        # If the cache cannot be written, the results are computed again next time.
        with suppress(OSError):
            root.mkdir(parents=True, exist_ok=True)
            atomic_write(file, json.dumps(known))
    return {name: known[name] for name in stamps}


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; `absent` if the file does not exist.

    Raises:
        UserError: The file cannot be read.
    """
    if not os.path.isfile(path):
        return "absent"
    with explain_os_error(f"{path}: cannot be read"), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stamp(folder: str | Path, name: str) -> list[int] | None:
    with suppress(OSError, UserError):
        status = inside(folder, name).stat()
        return [status.st_size, status.st_mtime_ns]
    return None


def _examine(job: tuple[str | Path, str, bool]) -> tuple[str, dict[str, Any]]:
    folder, name, decode = job
    entry: dict[str, Any] = {"hash": None} | ({"size": None} if decode else {})
    with suppress(UserError):
        entry["hash"] = file_hash(inside(folder, name))
        if decode:
            entry["size"] = load_image(inside(folder, name)).size
    return name, entry
