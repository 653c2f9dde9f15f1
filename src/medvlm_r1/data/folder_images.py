"""Image files of a data folder: check which can be decoded, and copy them to other folders."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from medvlm_r1.data.image_cache import image_facts
from medvlm_r1.data.paths import inside
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError


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
