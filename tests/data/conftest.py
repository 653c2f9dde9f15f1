"""Files written for the tests of images and readers, and sources imported into a data folder."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from medvlm_r1.data import ImportReport, Sample, find_reader, read_folder


@pytest.fixture
def saved(tmp_path):
    """Writes a DICOM file."""

    def save(ds, name="x.dcm"):
        ds.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return save


@dataclass
class Imported:
    folder: Path
    report: ImportReport
    samples: list[Sample]

    def written(self):
        return b"".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def imported(tmp_path):
    """Imports a source and reads the folder back."""

    def run(name, source, **arguments):
        folder = arguments.pop("out", tmp_path / "imported")
        report = find_reader(name)(source, out=folder, **arguments)
        samples = read_folder(folder)
        assert report.written == len(samples)
        assert report.missing == sum(s.missing for s in samples)
        assert report.open_questions == sum(not s.options for s in samples)
        return Imported(folder, report, samples)

    return run


@pytest.fixture
def put(tmp_path):
    """Writes a file below `source/`: bytes and texts as they are, anything else as JSON. Returns its path."""

    def write(name, content):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes | str):
            content = json.dumps(content, ensure_ascii=False)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    write.root = tmp_path / "source"
    return write


def png(value=1):
    """The bytes of a small PNG of a gray value."""
    stream = io.BytesIO()
    Image.new("L", (6, 4), value).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def picture_bytes():
    return png


@pytest.fixture
def picture(put):
    """Writes a small PNG of a gray value below `source/`."""
    return lambda name, value=1: put(name, png(value))


@pytest.fixture
def import_rows(put, imported):
    """Imports rows of `source/rows.jsonl`; question, options and answer have defaults."""

    def run(*rows, **arguments):
        full = [{"question": "q?", "options": ["x", "y"], "answer": "x", **row} for row in rows]
        return imported("jsonl", put("rows.jsonl", "".join(json.dumps(row) + "\n" for row in full)), **arguments)

    return run


@pytest.fixture
def hub(put):
    """Writes a parquet file below `source/` as the hub lays it out, `image` being bytes or None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(name, *rows):
        path = put(name, b"")
        embedded = [{**row, "image": row["image"] and {"bytes": row["image"], "path": "x.jpg"}} for row in rows]
        pq.write_table(pa.Table.from_pylist(embedded), path)
        return path

    return write
