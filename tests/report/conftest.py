"""Evaluation folders with the answers a test wants, on a data folder of four questions."""

import json
import shutil

import pytest
from PIL import Image

from medvlm_r1.data.folder import write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.evaluation.run import evaluate
from scripted import Scripted

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def samples_dir(tmp_path):
    """Two MRI, one CT and one OCT question; the right answer is always B."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    samples = []
    for i, modality in enumerate(["MRI", "MRI", "OCT", "CT"]):
        Image.new("RGB", (20 + i, 16), (200, 200, 200) if i else (200, 10, 10)).save(folder / f"images/{i}.png")
        fields = {"options": ("liver", "kidney"), "answer": "kidney", "modality": modality}
        fields |= {"question_type": "Lesion Grading" if i < 2 else ""}
        samples.append(Sample(id=f"q{i}", images=(f"images/{i}.png",), question=f"Question {i}?", **fields))
    write_folder(folder, samples, info={})
    return folder


@pytest.fixture
def make_run(samples_dir, tmp_path):
    """A function that evaluates with given texts, one per question, and returns the run folder."""

    def make(name, texts, **arguments):
        replies = iter(texts)
        generator = Scripted(lambda prompt: next(replies))
        data = arguments.pop("data", samples_dir)
        evaluate(f"models/{name}", data, tmp_path / name, generator=generator, **arguments)
        return tmp_path / name

    return make


@pytest.fixture
def make_training(tmp_path):
    """A function that writes a training folder with given rows of metrics."""

    def make(name, rows):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return make


@pytest.fixture
def browse():
    """A function that opens a file in a real browser of that width; it must fetch nothing and complain of nothing."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    troubles = []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def open_page(path, width):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda message: troubles.append(message.text))
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("request", lambda request: troubles.append(request.url))
            page.goto(path.as_uri())
            return page

        yield open_page
        browser.close()
    assert [trouble for trouble in troubles if not trouble.startswith(("file:", "data:"))] == []
