"""Image files of a data folder: sizes and hashes (cached for unchanged images), and copies to other folders."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from medvlm_r1.data.images import load_image
from medvlm_r1.data.paths import inside
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.workers import work_on_images
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import UserError

_BAR_SECONDS = 2.0


def check_images(path: str | Path, samples: Iterable[Sample]) -> list[Sample]:
    """Find the samples that cannot be shown to a model now.

    Every image is decoded once: a file that is cut short must be found here and not in the third hour of a training.

    Args:
        path: The data folder.
        samples: Samples of that folder.

    Returns:
        Those with at least one image that is not there, not readable, a link that leads out of the folder, or not even
        named by the source; in the order given.
    """
    samples = list(samples)
    return unreadable_samples(samples, image_sizes(path, samples))


def image_sizes(path: str | Path, samples: Iterable[Sample]) -> dict[str, tuple[int, int] | None]:
    """Decode every image of some samples, unless it is known from before.

    Args:
        path: The data folder.
        samples: Samples of that folder.

    Returns:
        Name of each image to its width and height; None where it is not there or not readable.
    """
    names = dict.fromkeys(name for sample in samples for name in sample.images)
    facts = image_facts(path, names, decode=True)
    return {name: tuple(entry["size"]) if entry["size"] else None for name, entry in facts.items()}


def unreadable_samples(samples: Iterable[Sample], sizes: Mapping[str, tuple[int, int] | None]) -> list[Sample]:
    """The samples of which an image has no size in `image_sizes`, or is not named by the source."""
    return [one for one in samples if one.unnamed_image or not all(sizes[name] for name in one.images)]


def copy_images(
    source: str | Path, copies: Sequence[tuple[str, Path]], progress: Callable[[int, int], None] | None = None
) -> set[str]:
    """Copy images from a data folder to others, under the same names.

    Args:
        source: The data folder they are in.
        copies: Name of an image, such as `images/x.png`, and the data folder it goes to.
        progress: Called with (images copied, images in all).

    Returns:
        Names of those that are not there.

    Raises:
        UserError: A path leads out of a folder, before anything is copied; or the disk refuses.
    """
    for name, _ in copies:
        inside(source, name)
    absent = set()
    for done, (name, target) in enumerate(copies, start=1):
        if not _copied(source, name, target):
            absent.add(name)
        if progress is not None:
            progress(done, len(copies))
    return absent


def _copied(source: str | Path, name: str, target: Path) -> bool:
    file, copy = inside(source, name), inside(target, name)
    if not os.path.isfile(file):
        return False
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    except OSError as error:
        raise UserError(f"{file}: cannot be copied to {copy} ({error.strerror or error})") from error
    return True


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
