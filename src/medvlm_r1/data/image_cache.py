"""Sizes and hashes of the images of a data folder, from a cache for images that have not changed."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from medvlm_r1.data.images import load_image
from medvlm_r1.data.paths import inside
from medvlm_r1.data.workers import work_on_images
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import UserError

_BAR_SECONDS = 2.0


def image_facts(folder: str | Path, names: Iterable[str], *, decode: bool) -> dict[str, dict[str, Any]]:
    """Hash and size of images, by all cores, with a progress bar if that takes long.

    Results are cached in `$XDG_CACHE_HOME/medvlm-r1/images` (`~/.cache` by default), which holds no pixels. An image is
    unchanged if its length and its time of modification are.

    Args:
        folder: The data folder.
        names: Names of the images, such as `images/x.png`.
        decode: Whether the sizes are needed, for which every image is decoded.

    Returns:
        By name a `hash`, "absent" for a missing file and None for one that cannot be read; with `decode` also a `size`,
        (width, height), or None if it cannot be decoded.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medvlm-r1" / "images"
    file = root / f"{hashlib.sha256(str(Path(folder).resolve()).encode()).hexdigest()[:32]}.json"
    known: dict[str, dict[str, Any]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8"))
    stamps = {name: _stamp(folder, name) for name in names}
    jobs = [
        (folder, name, decode)
        for name, stamp in stamps.items()
        if name not in known or known[name]["stamp"] != stamp or (decode and "size" not in known[name])
    ]
    with tqdm(total=len(jobs), desc="Images checked", delay=_BAR_SECONDS) as bar:

        def take(result: tuple[str, dict[str, Any]]) -> None:
            name, entry = result
            known[name] = entry | {"stamp": stamps[name]}
            bar.update()

        work_on_images(_examine, jobs, take)
    if jobs:
        # A cache that cannot be written costs time only.
        with suppress(OSError):
            root.mkdir(parents=True, exist_ok=True)
            atomic_write(file, json.dumps(known))
    return {name: known[name] for name in stamps}


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; `absent` if there is none.

    Raises:
        UserError: It cannot be read.
    """
    if not os.path.isfile(path):
        return "absent"
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _stamp(folder: str | Path, name: str) -> list[int] | None:
    with suppress(OSError, UserError):
        status = inside(folder, name).stat()
        return [status.st_size, status.st_mtime_ns]
    return None


def _examine(job: tuple[str | Path, str, bool]) -> tuple[str, dict[str, Any]]:
    folder, name, decode = job
    entry: dict[str, Any] = {"hash": None, **({"size": None} if decode else {})}
    with suppress(UserError):
        entry["hash"] = file_hash(inside(folder, name))
        if decode:
            entry["size"] = load_image(inside(folder, name)).size
    return name, entry
