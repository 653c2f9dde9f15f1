"""Find the files of a downloaded source."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from medvlm_r1.data.importing.draft import Part, Source
from medvlm_r1.errors import UserError

_SPLITS = {"train": "train", "test": "test"}
_SPLITS |= dict.fromkeys(("val", "valid", "dev", "validate", "validation"), "validation")


def one_file(source: Path, *names: str) -> Source:
    """Find a source that is one file, or a folder that contains a file with one of the given names.

    Raises:
        UserError: There is no such file.
    """
    file = next((file for file in (source, *(source / name for name in names)) if file.is_file()), None)
    if file is None:
        raise absent(source, names)
    return Source(root=file.parent, parts=[Part(file=file)])


def find_files(source: Path, folders: Sequence[str], *choices: Sequence[str]) -> Source:
    """Find a source that is one file, or a folder that contains files with the given names.

    Args:
        source: Path of the file or folder. Image names are relative to the folder.
        folders: Subfolders that may contain the files. The first one that exists is searched, otherwise the folder
            itself.
        choices: Sets of file names, with wildcards. The first set with an existing file is used.

    Raises:
        UserError: There is no such file.
    """
    if source.is_file():
        return Source(root=source.parent, parts=_parts_of([source], source.parent))
    base = next(base for base in (*(source / folder for folder in folders), source) if base.is_dir() or base == source)
    for names in choices:
        if files := [file for name in names for file in base.glob(name)]:
            return Source(root=source, parts=_parts_of(files, base))
    raise absent(source, ["/".join(filter(None, (*folders[:1], name))) for names in choices for name in names])


def _parts_of(files: Iterable[Path], base: Path) -> list[Part]:
    """One part per file, in order of the paths; split and label come from the path below `base`."""
    parts: dict[str, Part] = {}
    for file in sorted(files):
        name = file.relative_to(base).with_suffix("").as_posix()
        label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        while label in parts:
            label += "-2"
        parts[label] = Part(file=file, split=_split_name(file), label=label)
    return list(parts.values())


def find_tables(source: Path) -> Source | None:
    """Find the tables of a data set in the layout of the Hugging Face hub or `datasets.save_to_disk`; None if none."""
    if source.suffix.lower() in (".parquet", ".arrow") and source.is_file():
        return Source(root=source.parent, parts=[Part(file=source, split=_split_name(source))])
    files = [file for suffix in ("parquet", "arrow") for file in source.rglob(f"*.{suffix}")]
    tables = _parts_of([file for file in files if not file.name.startswith("cache-")], source)
    return Source(root=source, parts=tables) if tables else None


def _split_name(file: Path) -> str:
    """Split named by the first or last word of the file name or by the folder; empty if there is none."""
    words = re.split(r"[^a-z]+", file.stem.lower())
    return next((_SPLITS[word] for word in (words[0], words[-1], file.parent.name.lower()) if word in _SPLITS), "")


def absent(source: Path, wanted: Iterable[str]) -> UserError:
    """Make the error for a source that does not exist or contains no file of the format."""
    if not source.exists():
        return UserError(f"{source}: no such file or folder; give the place of what was downloaded")
    return UserError(f"{source}: holds none of {', '.join(wanted)}; give the folder as it was downloaded, or the file")
