"""The page of a data check: every finding is on it, data is only text, and nothing is fetched."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_html import HOSTILE, assert_only_text, assert_sealed, read

from medvlm_r1.data.check import check_folders
from medvlm_r1.data.folder import write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.report.check import render_check


def make(folder: Path, text: str, **images: Image.Image) -> Path:
    (folder / "images").mkdir(parents=True)
    samples = []
    for name, image in images.items():
        image.save(folder / "images" / f"{name}.png")
        samples.append(
            Sample(
                id=f"{folder.name}-{name}",
                images=(f"images/{name}.png",),
                question=text,
                options=("mass", "cyst"),
                answer="mass",
                modality="MRI",
                question_type=text,
                subject="Doe",
            )
        )
    write_folder(folder, samples, info={})
    return folder


def wedge(size: int = 64) -> Image.Image:
    return Image.linear_gradient("L").rotate(30).resize((size, size))


def clouds(size: int = 64) -> Image.Image:
    rng = np.random.default_rng(1)
    layers = [
        Image.fromarray(rng.random((cells, cells)) * strength) for cells, strength in ((3, 120), (9, 60), (27, 20))
    ]
    total = sum(np.asarray(layer.convert("F").resize((size, size), Image.Resampling.BICUBIC)) for layer in layers)
    return Image.fromarray((total + 20).clip(0, 255).astype(np.uint8))


def test_the_whole_page(tmp_path: Path) -> None:
    other = clouds()
    one = make(tmp_path / "train", "What is seen?", a=wedge(), b=other)
    two = make(tmp_path / "test", "What is seen?", c=wedge(), d=other.point(lambda value: value * 0.9 + 5))
    with (one / "samples.jsonl").open("a") as stream:
        stream.write("{}\n")
    check = check_folders([one, two])
    page = read(render_check(check, tmp_path / "sub" / "check.html"))
    for wanted in (
        "✗ Problems found",
        "1 image in several parts",
        "train train-a test test-c equal pixels",
        "train train-b test test-d differ in",
        "1 subject in several parts",
        "train: train-a; test: test-c",
        "train/samples.jsonl 3 field 'id' is missing",
        "MRI: 2",
        "2 options: 2",
    ):
        assert wanted in page.text
    assert "Doe" not in page.text
    assert page.text.count(RESEARCH_USE) == 2
    assert [tag for tag, _ in page.tags].count("img") == 3


def test_a_sound_folder_has_no_empty_sections(tmp_path: Path) -> None:
    page = read(render_check(check_folders([make(tmp_path / "one", "What?", a=wedge())]), tmp_path / "check.html"))
    assert "✓ No problems found" in page.text
    for heading in ("Shared between parts", "Not usable", "Alike within"):
        assert heading not in page.text
    assert_sealed(tmp_path / "check.html")


def test_an_image_that_went_away_is_said_to_be_gone(tmp_path: Path) -> None:
    one = make(tmp_path / "train", "One?", a=wedge())
    two = make(tmp_path / "test", "Two?", c=wedge())
    check = check_folders([one, two])
    (one / "images" / "a.png").unlink()
    page = read(render_check(check, tmp_path / "check.html"))
    assert "This image is not available" in page.text


def test_pictures_are_named_by_their_sample_alone(tmp_path: Path) -> None:
    one = make(tmp_path / "train", "One?", Doe_John=wedge(), b=clouds())
    rows = (one / "samples.jsonl").read_text().replace("train-Doe_John", "train-1")
    (one / "samples.jsonl").write_text(rows.replace('["images/b.png"]', '["images/b.png", "images/Doe_Jane.png"]'))
    (one / "images" / "Doe_John.png").write_bytes(b"")
    page = read(render_check(check_folders([one]), tmp_path / "check.html"))
    assert "train train-1 1 the image file is empty" in page.text
    assert "train train-b 2" in page.text
    assert "Doe" not in page.text


def test_a_page_that_cannot_be_put_in_its_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out.html").mkdir()
    check = check_folders([make(tmp_path / "one", "What?", a=wedge())])
    with pytest.raises(UserError, match=r"out.html: cannot be written"):
        render_check(check, tmp_path / "out.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "out.html"]


def test_hostile_rows_stay_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    one = make(tmp_path / "train", HOSTILE, a=wedge())
    two = make(tmp_path / "test", HOSTILE, c=wedge())
    with (two / "samples.jsonl").open("a") as stream:
        stream.write(json.dumps({"id": HOSTILE, HOSTILE: 1}) + "\n")
    page = read(render_check(check_folders([one, two]), tmp_path / "check.html"))
    assert_only_text(page)
