"""Where the files of a source lie, for the folders people get when they download one."""

import re
from collections.abc import Iterable
from pathlib import Path

from medvlm_r1.data.importing.draft import Part, Source
from medvlm_r1.data.tables import rows_of
from medvlm_r1.errors import UserError

_SPLITS = {"train": "train", "test": "test", "val": "validation", "valid": "validation", "dev": "validation"}
_SPLITS |= {"validate": "validation", "validation": "validation"}


def one_file(source: Path, *names: str) -> Source:
    """A source that is one file, or a folder with one of those names in it.

    Raises:
        UserError: There is no such file.
    """
    if source.is_dir():
        file = next((source / name for name in names if (source / name).is_file()), None)
        if file is None:
            raise absent(source, names)
        source = file
    elif not source.exists():
        raise absent(source, names)
    return Source(root=source.parent, parts=[Part(file=source, rows=rows_of(source))])


def parts_of(files: Iterable[Path], base: Path) -> list[Part]:
    """One part per file, in order of their names, with split and label read off its place below `base`."""
    parts: dict[str, Part] = {}
    for file in sorted(files):
        label = _slug(file.relative_to(base).with_suffix("").as_posix())
        while label in parts:
            label += "-2"
        parts[label] = Part(file=file, rows=rows_of(file), split=split_name(file), label=label)
    return list(parts.values())


def hub_tables(source: Path) -> list[Part]:
    """The tables of a data set as the Hugging Face hub or `datasets.save_to_disk` lays it out; empty if it has none."""
    if source.is_file():
        known = source.suffix.lower() in (".parquet", ".arrow")
        return [Part(file=source, rows=rows_of(source), split=split_name(source))] if known else []
    files = [*source.rglob("*.parquet"), *source.rglob("*.arrow")]
    return parts_of([file for file in files if not file.name.startswith("cache-")], source)


def split_name(file: Path) -> str:
    """The split that a file's name begins or ends with, or the folder's it lies in; else empty."""
    words = re.split(r"[^a-z]+", file.stem.lower())
    for word in (words[0], words[-1], file.parent.name.lower()):
        if word in _SPLITS:
            return _SPLITS[word]
    return ""


def absent(source: Path, wanted: Iterable[str]) -> UserError:
    """The error for a folder without the files of the format, or for no folder at all."""
    if not source.exists():
        return UserError(f"{source}: no such file or folder; give the place of what was downloaded")
    return UserError(f"{source}: holds none of {', '.join(wanted)}; give the folder as it was downloaded, or the file")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
