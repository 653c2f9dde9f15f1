"""Files written for the tests of images and readers, and sources imported into a data folder."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydicom.dataset import Dataset

from medvlm_r1.data import ImportReport, Sample, find_reader, read_folder


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a DICOM file."""

    def save(ds: Dataset, name: str = "x.dcm") -> Path:
        ds.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return save


@dataclass
class Imported:
    """A data folder, the report of its import, and its samples."""

    folder: Path
    report: ImportReport
    samples: list[Sample]

    def written(self) -> bytes:
        """The content of all files."""
        return b"".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., Imported]:
    """A function that imports a source and reads the folder back."""

    def run(name: str, source: Path, **arguments: Any) -> Imported:
        folder = arguments.pop("out", tmp_path / "imported")
        report = find_reader(name)(source, out=folder, **arguments)
        samples = read_folder(folder)
        assert report.written == len(samples)
        assert report.missing == sum(s.missing for s in samples)
        assert report.open_questions == sum(not s.options for s in samples)
        return Imported(folder, report, samples)

    return run


@pytest.fixture
def put(tmp_path: Path) -> Any:
    """A function that writes a file below `source/`: bytes and texts as they are, anything else as JSON."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            path.write_text(text, encoding="utf-8")
        return path

    write.root = tmp_path / "source"  # type: ignore[attr-defined]
    return write


def png(value: int = 1) -> bytes:
    """The bytes of a small PNG of a gray value."""
    stream = io.BytesIO()
    Image.new("L", (6, 4), value).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def picture_bytes() -> Callable[..., bytes]:
    """See `png`."""
    return png


@pytest.fixture
def picture(put: Any) -> Callable[..., Path]:
    """A function that writes a small PNG of a gray value below `source/`."""
    return lambda name, value=1: put(name, png(value))


@pytest.fixture
def import_rows(put: Any, imported: Callable[..., Imported]) -> Callable[..., Imported]:
    """A function that imports rows of `source/rows.jsonl`; question, options and answer have defaults."""

    def run(*rows: dict[str, Any], **arguments: Any) -> Imported:
        full = [{"question": "q?", "options": ["x", "y"], "answer": "x", **row} for row in rows]
        return imported("jsonl", put("rows.jsonl", "".join(json.dumps(row) + "\n" for row in full)), **arguments)

    return run


@pytest.fixture
def hub(put: Any) -> Callable[..., Path]:
    """A function that writes a parquet file below `source/` as the hub lays it out, `image` being bytes or None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(name: str, *rows: dict[str, Any]) -> Path:
        path: Path = put(name, b"")
        embedded = [{**row, "image": row["image"] and {"bytes": row["image"], "path": "x.jpg"}} for row in rows]
        pq.write_table(pa.Table.from_pylist(embedded), path)
        return path

    return write
