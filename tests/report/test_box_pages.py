"""Boxes in the report of evaluations, and drawn on the page of a data check."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from page_reader import HOSTILE, Reader, assert_only_text

from audited import Scripted as AuditScripted
from medvlm_r1.audit.runner import audit_model
from medvlm_r1.data.check import check_folders
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Box
from medvlm_r1.report.data_pages import render_check
from medvlm_r1.report.html import render_model_audit, render_report
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
    assert drawn(page) == [("truth", (4 / 21, 4 / 16, 12 / 21, 8 / 16))]
    assert "true box" in reader.text


def drawn(page: Path) -> list[tuple[str, Any]]:
    """Kind and left edge, upper edge, width and height of each box, as fractions of its image."""
    rows = re.findall(
        r'<rect class="(truth|stated) line" x="([\d.]+)" y="([\d.]+)" width="(0[\d.]+)" height="([\d.]+)"',
        page.read_text(),
    )
    return [(kind, pytest.approx([float(edge) for edge in edges], abs=1e-4)) for kind, *edges in rows]


def test_a_report_draws_true_boxes_and_those_of_each_model(samples_dir: Path, make_run: Any, tmp_path: Path) -> None:
    samples = read_folder(samples_dir)
    write_folder(samples_dir, [replace(samples[0], boxes=(BOX,)), *samples[1:]], info={})
    text = "<think>x</think>{}<answer>B</answer>"
    box, bad = "<box>200,250,800,750</box>", "<box>1,1,1,1</box>"
    first = make_run("first", [text.format(box), *[text.format(bad)] * 3], template="medvlm-r1-box")
    second = make_run("second", [text.format("<box>0,0,500,500</box>")] * 4, template="medvlm-r1-box")
    plain = make_run("plain", [text.format(box)] * 4)

    def page(*folders: Path) -> Path:
        runs = {folder.name: load_run(folder) for folder in folders}
        return render_report(runs, tmp_path / "page.html", title="t", summary="s", items=["q0"])

    true, own = ("truth", [0.2, 0.25, 0.6, 0.5]), ("stated", [0.2, 0.25, 0.6, 0.5])
    other = ("stated", [0, 0, 0.5, 0.5])
    assert drawn(page(first)) == [true, own]
    assert drawn(page(first, second)) == [true, own, true, other]
    # Without a template that asks for boxes, nothing is drawn.
    assert drawn(page(plain)) == []
    text_of_page = Reader(page(first, second)).text
    assert "first second true box the model’s box" in " ".join(text_of_page.split())
    # Rows of earlier versions have no boxes.
    rows = [json.loads(line) for line in (first / "answers.jsonl").read_text().splitlines()]
    assert rows[0].pop("stated_boxes") == [[0.2, 0.25, 0.8, 0.75]]
    assert rows[1]["stated_boxes"] == []
    (first / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert drawn(page(first)) == [true]
    write_folder(samples_dir, samples, info={})
    assert drawn(page(second)) == [other]


def test_an_audit_draws_boxes_on_each_variant(samples_dir: Path, tmp_path: Path) -> None:
    samples = read_folder(samples_dir)
    write_folder(samples_dir, [replace(s, boxes=(BOX,)) if s.id == "q0" else s for s in samples], info={})

    def answer(variant: Any) -> str:
        box = "" if variant.name == "hidden" else "<box>200,250,800,750</box>"
        return f"<think>A mass.</think>{box}<answer>B</answer>"

    audit_model(
        "m",
        samples_dir,
        tmp_path / "run",
        backend=AuditScripted(answer),
        template="medvlm-r1-box",
        probes=["pointing"],
        limit=1,
    )
    page = render_model_audit(tmp_path / "run")
    true, own = ("truth", [0.2, 0.25, 0.6, 0.5]), ("stated", [0.2, 0.25, 0.6, 0.5])
    # Its own image and the one with the box hidden, on which the model points at nothing. No equal region is free.
    assert drawn(page) == [true, own, true]
    assert "Box hidden" in Reader(page).text
