"""Locations of the files in a downloaded source."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from medvlm_r1.data.importing.draft import Part, Source
from medvlm_r1.data.tables import rows_of
from medvlm_r1.errors import UserError

_SPLITS = {"train": "train", "test": "test"}
_SPLITS |= dict.fromkeys(("val", "valid", "dev", "validate", "validation"), "validation")


def one_file(source: Path, *names: str) -> Source:
    """A source that is one file, or a folder with a file of one of these names.

    Raises:
        UserError: There is no such file.
    """
    file = next((file for file in (source, *(source / name for name in names)) if file.is_file()), None)
    if file is None:
        raise absent(source, names)
    return Source(root=file.parent, parts=[Part(file=file, rows=rows_of(file))])


def find_files(source: Path, folders: Sequence[str], *choices: Sequence[str]) -> Source:
    """A source that is one file, or a folder with files of one or several names.

    Args:
        source: The file or folder. Image names are relative to its folder.
        folders: Subfolders that may contain the files; the first one that exists is searched.
        choices: Sets of names, with wildcards; the first set with an existing file is the source.

    Raises:
        UserError: There is no such file.
    """
    if source.is_file():
        return Source(root=source.parent, parts=parts_of([source], source.parent))
    base = next(base for base in (*(source / folder for folder in folders), source) if base.is_dir() or base == source)
    for names in choices:
        if files := [file for name in names for file in base.glob(name)]:
            return Source(root=source, parts=parts_of(files, base))
    raise absent(source, ["/".join(filter(None, (*folders[:1], name))) for names in choices for name in names])


def parts_of(files: Iterable[Path], base: Path) -> list[Part]:
    """One part per file, in order of their names, with split and label from its path below `base`."""
    parts: dict[str, Part] = {}
    for file in sorted(files):
        name = file.relative_to(base).with_suffix("").as_posix()
        label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
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


def find_tables(source: Path) -> Source | None:
    """The source of `hub_tables`; None if it has none."""
    tables = hub_tables(source)
    return Source(root=source.parent if source.is_file() else source, parts=tables) if tables else None


def split_name(file: Path) -> str:
    """The split that a file's name begins or ends with, or that its folder is named after; otherwise empty."""
    words = re.split(r"[^a-z]+", file.stem.lower())
    return next((_SPLITS[word] for word in (words[0], words[-1], file.parent.name.lower()) if word in _SPLITS), "")


def absent(source: Path, wanted: Iterable[str]) -> UserError:
    """The error for a folder without the files of the format, or for no folder at all."""
    if not source.exists():
        return UserError(f"{source}: no such file or folder; give the place of what was downloaded")
    return UserError(f"{source}: holds none of {', '.join(wanted)}; give the folder as it was downloaded, or the file")
