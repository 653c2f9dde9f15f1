"""A data set on disk: a folder with `samples.jsonl`, `info.json` and `images/`."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from medvlm_r1.data.image_facts import file_hash, image_facts
from medvlm_r1.data.paths import explain_os_error, inside
from medvlm_r1.data.rows import BadRows, read_json_lines
from medvlm_r1.data.sample import Sample, row_from_sample, sample_from_row
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import UserError

SAMPLES = "samples.jsonl"
INFO = "info.json"
IMAGES = "images"


def write_folder(path: str | Path, samples: Iterable[Sample], *, info: Mapping[str, Any]) -> None:
    """Write `samples.jsonl` and `info.json`; image files are the caller's to place under `images/`.

    Both files are written under a temporary name and renamed: a reader sees the old data set or the new one, and never
    half of one.

    Args:
        path: The data folder, made when it is not there.
        samples: In the order they shall have; consumed one at a time.
        info: `name`, `source`, `license` and whatever else describes the data. `counts` is completed with `samples`,
            `missing` and `by_modality`.

    Raises:
        UserError: There are no samples, two have the same id, a record holds what JSON cannot, or writing fails.
    """
    path = Path(path)
    counts: Counter[str] = Counter()
    missing = 0
    ids = set()
    with explain_os_error(f"{path}: cannot be written"):
        path.mkdir(parents=True, exist_ok=True)
        with _replaced(path / SAMPLES) as stream:
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
    """Refuse a folder that holds another data set, which an import would overwrite.

    Args:
        path: The folder to be written.
        name: The `name` in the `info.json` of what is going to be written.

    Raises:
        UserError: It holds samples under another name, or under none; or its `info.json` cannot be read.
    """
    path = Path(path)
    if (path / SAMPLES).exists() and (present := read_info(path).get("name")) != name:
        content = "samples without a name in info.json" if present is None else f"the data set {present!r}"
        raise UserError(
            f"{path}: holds {content}, which {name!r} would replace; give another folder, or delete this one"
        )


def read_folder(path: str | Path) -> list[Sample]:
    """Read every sample of a data folder.

    Args:
        path: The data folder.

    Returns:
        The samples in file order, at least one.

    Raises:
        UserError: There is no `samples.jsonl` or it is empty, or a row is malformed, lacks a field, has an unknown
            one, an answer that is not among its options, more than ten options, an id that was used before or an
            image path that leaves the folder. The message names the file and every such row, up to twenty faults.
    """
    file = Path(path) / SAMPLES
    if not file.is_file():
        raise UserError(
            f"{file}: no such file; a data folder holds {SAMPLES} and {IMAGES}/, "
            "make one with 'medvlm-r1 data import FORMAT SOURCE --out DIR'"
        )
    bad = BadRows()
    samples = read_samples(file, lambda number, error, _: bad.add(file, number, error))
    if bad.count:
        raise bad.error("Correct the source and import it again; 'medvlm-r1 data check' lists these rows too.")
    if not samples:
        raise UserError(f"{file}: the file is empty; import the data again")
    return samples


def read_samples(file: Path, on_bad: Callable[[int, ValueError | str, dict[str, Any]], None]) -> list[Sample]:
    """Read the usable rows of a `samples.jsonl`.

    Args:
        file: The file.
        on_bad: Called with number, fault and content of every other row; the content is empty if it is malformed.
    """
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
    """Read `info.json` of a data folder; empty without one.

    Raises:
        UserError: It cannot be read or is not a JSON object.
    """
    file = Path(path) / INFO
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({error}); mend or remove it") from error
    if not isinstance(info, dict):
        raise UserError(f"{file}: expected a JSON object, saw {type(info).__name__}; mend or remove it")
    return info


def folder_hash(path: str | Path) -> str:
    """Fingerprint of a data set: changes with any byte of `samples.jsonl` or of an image it names.

    Args:
        path: The data folder.

    Returns:
        SHA-256 in hexadecimal over the hash of `samples.jsonl` and, in path order, path and hash of each image. An
        image that is not there counts as `absent`, so adding it changes the fingerprint.

    Raises:
        UserError: As `read_folder`, or an image is a link that leads out of the folder.
    """
    path = Path(path)
    names = sorted({name for sample in read_folder(path) for name in sample.images})
    facts = image_facts(path, names, decode=False)
    total = hashlib.sha256(file_hash(path / SAMPLES).encode())
    for name in names:
        total.update(f"\n{name}\0{facts[name]['hash'] or file_hash(inside(path, name))}".encode())
    return total.hexdigest()


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
        UserError: A path leads out of a folder, before anything is copied; or writing fails.
    """
    for name, _ in copies:
        inside(source, name)
    absent = set()
    for done, (name, target) in enumerate(copies, start=1):
        file, copy = inside(source, name), inside(target, name)
        if os.path.isfile(file):
            with explain_os_error(f"{file}: cannot be copied to {copy}"):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        else:
            absent.add(name)
        if progress is not None:
            progress(done, len(copies))
    return absent


@contextmanager
def _replaced(path: Path) -> Iterator[IO[str]]:
    """Open a file beside `path` and rename it to `path` once all was written; leave nothing behind otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
