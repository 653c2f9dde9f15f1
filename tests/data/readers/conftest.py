"""What the tests of all readers share: images and files of rows."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from medvlm_r1.data import ImportReport, Sample, find_reader, read_folder


@dataclass
class Imported:
    folder: Path
    report: ImportReport
    samples: list[Sample]


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


def png(value=1):
    """The bytes of a small PNG."""
    stream = io.BytesIO()
    Image.new("L", (6, 4), value).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def put(tmp_path):
    """Writes a file below `source/`: bytes and texts as they are, anything else as JSON. Returns its path."""

    def write(name, content):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            path.write_text(text, encoding="utf-8")
        return path

    write.root = tmp_path / "source"
    return write


@pytest.fixture
def picture(put):
    """Writes a small PNG of a gray value below `source/`."""
    return lambda name, value=1: put(name, png(value))


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


@pytest.fixture
def picture_bytes():
    """The bytes of a small PNG of a gray value."""
    return png
