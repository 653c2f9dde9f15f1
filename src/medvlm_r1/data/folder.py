"""A data set on disk: a folder with `samples.jsonl`, `info.json` and `images/`."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medvlm_r1.data.image_facts import file_hash, image_facts
from medvlm_r1.data.paths import explain_os_error, inside
from medvlm_r1.data.rows import BadRows, read_json_lines
from medvlm_r1.data.sample import Sample, row_from_sample, sample_from_row
from medvlm_r1.disk import atomic_open, atomic_write, read_mapping
from medvlm_r1.errors import UserError

SAMPLES = "samples.jsonl"
INFO = "info.json"
IMAGES = "images"


def write_folder(path: str | Path, samples: Iterable[Sample], *, info: Mapping[str, Any]) -> None:
    """Write `samples.jsonl` and `info.json`. The caller must put the image files into `images/`.

    Each file is written under a temporary name and then renamed, so a reader never sees half of a file.

    Args:
        path: The data folder, created if it does not exist.
        samples: Samples in the order in which they are written; consumed one at a time.
        info: `name`, `source`, `license` and other facts about the data. Numbers of samples
            (`samples`, `missing` and `by_modality`) are added under `counts` of `info.json`.

    Raises:
        UserError: There are no samples, two samples have the same id, a value cannot be written as JSON, or writing
            fails.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    missing = 0
    ids = set()
    with explain_os_error(f"{path}: cannot be written"):
        path.mkdir(parents=True, exist_ok=True)
        with atomic_open(path / SAMPLES) as stream:
            for sample in samples:
                if sample.id in ids:
                    raise UserError(f"{path / SAMPLES}: the id {sample.id!r} is used twice; make the ids unique")
                ids.add(sample.id)
                counts[sample.modality] += 1
                missing += sample.missing
                try:
                    line = json.dumps(row_from_sample(sample), ensure_ascii=False, allow_nan=False) + "\n"
                    line.encode()
                except (TypeError, ValueError, RecursionError) as error:
                    raise UserError(
                        f"{path / SAMPLES}: sample {sample.id!r} cannot be written as JSON ({error})"
                    ) from error
                stream.write(line)
            if not ids:
                raise UserError(f"{path / SAMPLES}: there are no samples to write")
        totals = {"samples": len(ids), "missing": missing, "by_modality": dict(sorted(counts.items()))}
        described = {**info, "counts": {**info.get("counts", {}), **totals}}
        atomic_write(path / INFO, json.dumps(described, ensure_ascii=False, indent=2) + "\n")


def refuse_other(path: str | Path, name: str) -> None:
    """Raise an error if a folder holds a different data set, which an import would overwrite.

    Raises:
        UserError: The folder holds samples under another name or without a name, or its `info.json` cannot be read.
    """
    path = Path(path)
    if (path / SAMPLES).exists() and (present := read_info(path).get("name")) != name:
        content = "samples without a name in info.json" if present is None else f"the data set {present!r}"
        raise UserError(
            f"{path}: holds {content}, which {name!r} would replace; give another folder, or delete this one"
        )


def read_folder(path: str | Path) -> list[Sample]:
    """Read every sample of a data folder.

    Returns:
        The samples in file order, at least one.

    Raises:
        UserError: `samples.jsonl` is missing or empty, or a row is invalid. Examples are a malformed row, a missing or
            unknown field, an answer that is not one of the options, more than ten options, a repeated id, or an image
            path that leaves the folder. The message names the file and at most twenty different faults.
    """
    file = Path(path) / SAMPLES
    bad = BadRows()
    samples = read_samples(file, lambda number, error, _: bad.add(file, number, error))
    if bad.count:
        raise bad.error("Correct the source and import it again; 'medvlm-r1 data check' lists these rows too.")
    if not samples:
        raise UserError(f"{file}: the file is empty; import the data again")
    return samples


def read_samples(file: Path, on_bad: Callable[[int, ValueError | str, dict[str, Any]], None]) -> list[Sample]:
    """Read the usable rows of a `samples.jsonl` file.

    Args:
        file: The file.
        on_bad: Called with the row number, the fault and the content of every unusable row. The content is empty if the
            row is malformed or repeats an id.

    Raises:
        UserError: There is no such file, or it cannot be read.
    """
    if not file.is_file():
        raise UserError(
            f"{file}: no such file; a data folder holds {SAMPLES} and {IMAGES}/, "
            "make one with 'medvlm-r1 data import FORMAT SOURCE --out DIR'"
        )
    samples: list[Sample] = []
    first_rows: dict[str, int] = {}
    for number, row in read_json_lines(file, on_bad=lambda number, reason: on_bad(number, reason, {})):
        try:
            sample = sample_from_row(row)
        except ValueError as error:
            on_bad(number, error, row)
            continue
        first = first_rows.setdefault(sample.id, number)
        if first == number:
            samples.append(sample)
        else:
            on_bad(number, f"the id {sample.id!r} is used in row {first} already; make the ids unique", {})
    return samples


def read_info(path: str | Path) -> dict[str, Any]:
    """Read `info.json` of a data folder; return an empty dictionary if there is no such file.

    Raises:
        UserError: The file cannot be read or is not a JSON object.
    """
    file = Path(path) / INFO
    return read_mapping(file, "mend or remove it") if file.exists() else {}


def folder_hash(path: str | Path) -> str:
    """Fingerprint of a data set. It changes with any byte of `samples.jsonl` or of an image that it names.

    Returns:
        SHA-256 in hexadecimal over the hash of `samples.jsonl` and, in path order, the path and hash of each image. A
        missing image has the hash `absent`, so adding the image changes the fingerprint.

    Raises:
        UserError: As for `read_folder`; or an image cannot be read or is a link that leads out of the folder.
    """
    path = Path(path)
    names = sorted({name for sample in read_folder(path) for name in sample.images})
    facts = image_facts(path, names, decode=False)
    total = hashlib.sha256(file_hash(path / SAMPLES).encode())
    for name in names:
        total.update(f"\n{name}\0{facts[name]['hash'] or file_hash(inside(path, name))}".encode())
    return total.hexdigest()


def write_subsets(
    source: str | Path,
    subsets: Mapping[Path, tuple[Sequence[Sample], Mapping[str, Any]]],
    progress: Callable[[int, int], None] | None = None,
) -> dict[Path, list[Sample]]:
    """Write samples of a data folder, with their images, to data folders of their own.

    All images are copied before the first `samples.jsonl` is written, so an interrupted call can be repeated.

    Args:
        source: The data folder that contains the images.
        subsets: Samples, and facts for `info.json`, by the folder to write. Counts of the source are not copied.
        progress: Called with (images done, total number of images).

    Returns:
        The samples as written, by folder. `missing` of a sample is set if one of its images does not exist.

    Raises:
        UserError: A path leads out of its folder, or writing fails. The source paths are checked before anything is
            copied.
    """
    copies = dict.fromkeys((image, out) for out, (samples, _) in subsets.items() for s in samples for image in s.images)
    for name, _ in copies:
        inside(source, name)
    absent = set()
    for done, (name, out) in enumerate(copies, start=1):
        file, copy = inside(source, name), inside(out, name)
        if os.path.isfile(file):
            with explain_os_error(f"{file}: cannot be copied to {copy}"):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        else:
            absent.add(name)
        if progress is not None:
            progress(done, len(copies))
    written = {}
    for out, (samples, info) in subsets.items():
        written[out] = [replace(s, missing=s.unnamed_image or not absent.isdisjoint(s.images)) for s in samples]
        write_folder(out, written[out], info={name: fact for name, fact in info.items() if name != "counts"})
    return written
