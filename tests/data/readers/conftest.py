"""What the tests of all readers share: pictures, files of rows, and the way through TRL's columns."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from medvlm_r1.data import ImportReport, Sample, find_reader, read_folder
from medvlm_r1.prompts.templates import messages
from medvlm_r1.training.dataset import as_dataset


@dataclass
class Imported:
    folder: Path
    report: ImportReport
    samples: list[Sample]


@pytest.fixture
def imported(tmp_path):
    """Imports a source and reads the folder back, through TRL's columns too."""

    def run(name, source, **arguments):
        folder = arguments.pop("out", tmp_path / "imported")
        report = find_reader(name)(source, out=folder, **arguments)
        samples = read_folder(folder)
        assert report.written == len(samples)
        assert report.missing == sum(s.missing for s in samples)
        assert report.open_questions == sum(not s.options for s in samples)
        _through_trl(folder, samples)
        return Imported(folder, report, samples)

    return run


def _through_trl(folder, samples):
    rows = as_dataset(str(folder))
    assert rows.column_names == ["prompt", "images", "letter", "options", "sample_id", "modality", "subject"]
    assert len(rows) == len(samples)
    for index, sample in enumerate(samples):
        if sample.missing:
            continue
        row = rows[index]
        assert row["prompt"] == messages(sample)
        assert [picture.mode for picture in row["images"]] == ["RGB"] * len(sample.images)
        assert (row["letter"], row["options"]) == (sample.letter, list(sample.options))
        assert (row["sample_id"], row["modality"]) == (sample.id, sample.modality)


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
        held = [{**row, "image": row["image"] and {"bytes": row["image"], "path": "x.jpg"}} for row in rows]
        pq.write_table(pa.Table.from_pylist(held), path)
        return path

    return write


@pytest.fixture
def picture_bytes():
    """The bytes of a small PNG of a gray value."""
    return png
