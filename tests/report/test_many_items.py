"""A page with very many items stays small, and shows each picture where it belongs."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_html import RIGHT

from medvlm_r1.data.folder import write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.report import album, load_run, render_report

RunMaker = Callable[..., Path]


def write_data(folder: Path, images: list[Image.Image], questions: int) -> Path:
    """Questions that take the images in turn."""
    (folder / "images").mkdir(parents=True)
    for number, image in enumerate(images):
        image.save(folder / f"images/{number}.png")
    samples = [
        Sample(
            id=f"q{n}",
            images=(f"images/{n % len(images)}.png",),
            question=f"Question {n}?",
            options=("liver", "kidney"),
            answer="kidney",
            modality="CT",
        )
        for n in range(questions)
    ]
    write_folder(folder, samples, info={})
    return folder


def test_900_questions_on_a_few_images_hold_each_image_once(
    make_run: RunMaker, tmp_path: Path, browse: Callable[[Path, int], Any]
) -> None:
    colours = [(200, 10, 10), (10, 150, 10), (10, 10, 200)]
    data = write_data(tmp_path / "many", [Image.new("RGB", (12, 12), colour) for colour in colours], 900)
    runs = {"run": load_run(make_run("run", [RIGHT] * 900, data=data))}
    path = render_report(runs, tmp_path / "page.html", title="T", summary="", items=900)
    page = path.read_text()
    assert (page.count("<article"), page.count("data:image/")) == (900, 3)
    assert path.stat().st_size < 2_500_000
    opened = browse(path, 390)
    assert opened.locator("article").count() == 900
    for place in (0, 450, 899):
        item = opened.locator("article").nth(place)
        item.scroll_into_view_if_needed()
        number = int(item.locator(".meta bdi").text_content().removeprefix("q"))
        shot = Image.open(io.BytesIO(item.locator(".picture").screenshot())).convert("RGB")
        assert shot.getpixel((shot.width // 2, shot.height // 2)) == pytest.approx(colours[number % 3], abs=3)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


def test_many_images_share_the_room_there_is(
    make_run: RunMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(album, "PAGE_BYTES", 160_000)
    draw = np.random.default_rng(5)
    images = [Image.fromarray(draw.integers(0, 256, (200, 200), dtype=np.uint8)) for _ in range(16)]
    data = write_data(tmp_path / "many", images, 16)
    runs = {"run": load_run(make_run("run", [RIGHT] * 16, data=data))}
    path = render_report(runs, tmp_path / "page.html", title="T", summary="", items=16)
    assert path.read_text().count("data:image/jpeg") == 16
    assert path.stat().st_size < 160_000 + 80_000
