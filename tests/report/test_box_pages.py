"""Boxes in the report of evaluations, and drawn on the page of a data check."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from page_reader import HOSTILE, Reader, assert_only_text
from PIL import Image

from medvlm_r1.data.check import check_folders
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Box
from medvlm_r1.report.check import render_check
from medvlm_r1.report.html import render_report
from medvlm_r1.report.views import load_run

BOX = Box(label="mass", image=0, x1=4, y1=4, x2=16, y2=12)


def test_the_table_of_a_report(samples_dir: Path, make_run: Any, tmp_path: Path) -> None:
    samples = read_folder(samples_dir)
    write_folder(samples_dir, [replace(samples[0], boxes=(BOX,)), *samples[1:]], info={})
    text = "<think>x</think><box>200,250,800,750</box><answer>B</answer>"
    folders = [make_run("boxes", [text] * 4, template="medvlm-r1-box"), make_run("plain", [text] * 4)]
    runs = {folder.name: load_run(folder) for folder in folders}
    page = Reader(render_report(runs, tmp_path / "page.html", title="t", summary="s"))
    for words in ("Boxes", "mean IoU 1.00 [", "center inside, % 100.0 [", "answers without a box label 3"):
        assert words in page.text
    alone = Reader(render_report({"plain": runs["plain"]}, tmp_path / "b.html", title="t", summary="s"))
    assert "mean IoU" not in alone.text


def test_a_data_check_draws_boxes(samples_dir: Path, tmp_path: Path) -> None:
    samples = read_folder(samples_dir)
    samples[1] = replace(samples[1], id=HOSTILE, boxes=(replace(BOX, label=HOSTILE),))
    write_folder(samples_dir, samples, info={})
    page = render_check(check_folders([samples_dir]), tmp_path / "check.html")
    reader = Reader(page)
    assert "Check that each box encloses what its label names" in reader.text
    assert_only_text(reader)
    [uri] = re.findall(r"data:image/png;base64,([^\"]+)", page.read_text())
    image = Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB")
    orange = {
        (x, y) for x in range(image.width) for y in range(image.height) if image.getpixel((x, y)) == (255, 152, 0)
    }
    columns, rows = {x for x, _ in orange}, {y for _, y in orange}
    assert (min(columns), max(columns), min(rows), max(rows)) == (4, 15, 4, 11)
    assert (8, 8) not in orange
