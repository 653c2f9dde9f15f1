"""What every reader of a public format does alike: find the images, copy them, write the folder, report."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from medvlm_r1.data.folder import IMAGES, write_folder
from medvlm_r1.data.modality import MODALITIES, modality_name
from medvlm_r1.data.sample import Sample, leaves_folder
from medvlm_r1.errors import UsageError, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did.

    Attributes:
        rows: Rows read from the source.
        written: Samples written; fewer than `rows` when modalities were chosen.
        missing: Samples written of which an image file was not there.
        by_modality: Samples written per modality.
    """

    rows: int
    written: int
    missing: int
    by_modality: dict[str, int]


@dataclass(slots=True, kw_only=True)
class ImageFinder:
    """Finds the files behind the image names of a source and remembers where each shall be copied.

    Attributes:
        root: Folder of the source's images: either the one the names are relative to, or its `images` folder.
        found: Name in the data folder (`images/x.png`) to the file it comes from.
    """

    root: Path
    found: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such folder of images; give the folder that holds the image files")

    def place(self, name: str) -> tuple[str, bool]:
        """Give an image its name in the data folder.

        Args:
            name: The image as the source names it, `images/x.png` or `x.png`.

        Returns:
            Its name in the data folder, and whether the file is there.

        Raises:
            ValueError: The name leaves the folder of images, or two different files would get the same name.
        """
        if leaves_folder(name):
            raise ValueError(f"image path {name!r} leaves the folder of images")
        parts = PureWindowsPath(name).parts
        inner = parts[1:] if parts[0] == IMAGES and len(parts) > 1 else parts
        target = "/".join((IMAGES, *inner))
        for file in (self.root.joinpath(*parts), self.root.joinpath(*inner)):
            if os.path.isfile(file):
                if self.found.setdefault(target, file) != file:
                    raise ValueError(f"{file} and {self.found[target]} would both be copied to {target}")
                return target, True
        return target, False


def chosen_modalities(modality: str | Iterable[str] | None) -> frozenset[str] | None:
    """Names of the modalities to keep, or None for all.

    Raises:
        UsageError: A modality is not known.
    """
    if modality is None:
        return None
    wanted = [modality] if isinstance(modality, str) else list(modality)
    names = {spelling: modality_name(spelling) for spelling in wanted}
    for spelling, name in names.items():
        if name is None:
            raise UsageError(f"unknown modality {spelling!r}; known: {', '.join(MODALITIES)}")
    return frozenset(name for name in names.values() if name)


def finish_import(
    out: Path, samples: Sequence[Sample], images: ImageFinder, *, rows: int, info: Mapping[str, Any]
) -> ImportReport:
    """Copy the images that are there, then write the data folder.

    Args:
        out: The data folder to make or replace.
        samples: All checked already, so that a bad row leaves `out` untouched.
        images: Where the image files are.
        rows: Rows read from the source.
        info: As `write_folder`.

    Returns:
        The report.

    Raises:
        UserError: There are no samples, or the disk refuses.
    """
    if not samples:
        raise UserError(f"none of the {rows} rows is of the modalities asked for; nothing was written to {out}")
    for name, file in images.found.items():
        target = out / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # The source may be the data folder itself: then the image is in its place already.
            if not (target.exists() and target.samefile(file)):
                shutil.copyfile(file, target)
        except OSError as error:
            raise UserError(f"{file}: cannot be copied to {target} ({error.strerror or error})") from error
    write_folder(out, samples, info=info)
    return ImportReport(
        rows=rows,
        written=len(samples),
        missing=sum(sample.missing for sample in samples),
        by_modality=dict(sorted(Counter(sample.modality for sample in samples).items())),
    )
