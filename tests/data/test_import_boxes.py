"""The column `boxes` of one's own questions."""

import json

import numpy as np
import pytest
from dicom_files import dataset
from PIL import Image

from medvlm_r1.data.sample import Box
from medvlm_r1.errors import UserError

BOX = {"label": "mass", "x1": 1, "y1": 0, "x2": 5.5, "y2": 4}


def test_boxes_and_known_absences(import_rows, picture):
    picture("a.png")  # 6 x 4 pixels
    cells = [[BOX], json.dumps([BOX, {**BOX, "image": 0, "label": "cyst"}]), [], "[]", None, ""]
    done = import_rows(*({"image": "a.png", "boxes": cell} for cell in cells), {"image": "a.png"})
    first, second, empty, written, *unknown = done.samples
    assert first.boxes == (Box(label="mass", image=0, x1=1, y1=0, x2=5.5, y2=4),)
    assert [box.label for box in second.boxes] == ["mass", "cyst"]
    for sample in (empty, written):
        assert (sample.boxes, sample.truth) == ((), {"images": [{"findings": []}]})
    assert {(sample.boxes, str(sample.truth)) for sample in unknown} == {((), "{}")}
    assert "boxes" not in first.record


def test_csv_and_another_column_name(imported, put, picture):
    picture("a.png")
    cell = json.dumps([BOX]).replace('"', '""')
    table = put("own.csv", f'image,question,answer,Boxes\na.png,Where?,left,"{cell}"\na.png,Where?,left,\n')
    first, second = imported("csv", table).samples
    assert (len(first.boxes), second.boxes) == (1, ())


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        ("[{", "row 1: field 'boxes' holds '\\[{', which is not JSON"),
        ("mass", "which is not JSON .*; expected a JSON list of objects such as"),
        ([[1, 2, 3, 4]], r"field 'boxes' holds \[1, 2, 3, 4\]; expected a JSON list of objects"),
        ({"label": "x"}, "field 'boxes' holds {'label': 'x'}; expected"),
        ([{**BOX, "score": 1}], "field 'boxes' holds .*score.*; expected"),
        ([{**BOX, "x2": 0}], "the box of 'mass' is .*; wanted pixels 0 <= x1 < x2"),
        ([{**BOX, "image": 1}], "the box of 'mass' is in image 1; wanted a number from 0 to 0"),
        ([{**BOX, "y2": 5}], "row 1: the box of 'mass' is 1, 0, 5.5, 5, but images/a.png has 6 x 4 pixels"),
        (7, "field 'boxes' holds 7; expected"),
        ("[" * 100_000, "which is not JSON"),
    ],
)
def test_faults_name_the_row(cell, fault, import_rows, picture):
    picture("a.png")
    with pytest.raises(UserError, match=fault):
        import_rows({"image": "a.png", "boxes": cell})


def test_a_dicom_image_with_oblong_pixels(import_rows, put):
    name = "deep/x.dcm"
    put(name, b"")
    rows, columns = 20, 30
    data = dataset(np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns), PixelSpacing=[2, 1])
    data.save_as(put.root / name, enforce_file_format=True)
    box = {"label": "mass", "x1": 1, "y1": 1, "x2": 2, "y2": rows}
    done = import_rows({"image": name, "boxes": [box]})
    [sample] = done.samples
    assert sample.boxes == (Box(label="mass", image=0, x1=1, y1=2, x2=2, y2=2 * rows),)
    with Image.open(done.folder / sample.images[0]) as image:
        assert image.size == (columns, 2 * rows)
    with pytest.raises(UserError, match=rf"row 1: the box .* has {columns} x {rows} pixels"):
        import_rows({"image": name, "boxes": [{**box, "y2": rows + 1}]})


def test_a_missing_image_keeps_its_boxes(import_rows):
    [sample] = import_rows({"image": "absent.png", "boxes": [BOX]}).samples
    assert (len(sample.boxes), sample.missing) == (1, True)
