"""The pages of a data audit and of a data check: every finding is on them, data are only text, nothing is fetched."""

import json
import re

import numpy as np
import pytest
from page_reader import HOSTILE, Reader, assert_only_text, assert_sealed
from PIL import Image

from medvlm_r1.audit.dataset.audit import Figure, audit_data, find_prior_source
from medvlm_r1.audit.dataset.clean import write_clean
from medvlm_r1.data.check import check_folders
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.report.data_pages import render_check, render_data_audit
from medvlm_r1.report.page import render_page


def sample(name, options, answer, modality="MRI", **changes):
    fields = {"images": (f"images/{name}.png",), "question": "What is seen?", "question_type": "Disease Diagnosis"}
    return Sample(**({"id": f"q{name}"} | fields | changes), options=options, answer=answer, modality=modality)


@pytest.fixture
def folder(tmp_path):
    """Twenty MRI questions that give themselves away, two CT ones, one open; two images."""
    samples = [sample(n, ("cyst", "mass") if n % 2 else ("mass", "cyst"), "cyst") for n in range(20)]
    samples += [sample(n, ("node", "cyst"), "node", "CT", question_type="") for n in (20, 21)]
    samples.append(sample(22, (), "a cyst"))
    (tmp_path / "data" / "images").mkdir(parents=True)
    for number in (0, 20):
        Image.new("L", (8, 8), 40).save(tmp_path / f"data/images/{number}.png")
    write_folder(tmp_path / "data", samples, info={})
    return tmp_path / "data"


def render(folder, *, fit=None, clean="", **arguments):
    samples = read_folder(folder)
    audit = audit_data(samples, find_prior_source(fit, folder, samples) if fit else None)
    written = write_clean(folder, folder.parent / "clean", samples, audit, baselines=[clean]) if clean else None
    return Reader(render_data_audit(audit, folder.parent / "a" / "page.html", data=folder, clean=written, **arguments))


def test_the_whole_page_of_an_audit(folder):
    page = render(folder, fit="CT", clean="majority", items=30)
    for wanted in (
        "What can be answered without the image: data",
        "fail 100 % of the MRI questions can be answered without the image (option prior, leave one out; chance 50 %): "
        "an accuracy on this set is no evidence of image use.",
        "not run 2 CT questions are too few for a verdict",
        "Questions with options: 22. Open questions: 1.",
        "Option prior fitted on CT",
        "83.9–100.0 20 solved",
        "Disease Diagnosis MRI, n = 20",
        "cyst correct 20 of 20 times it was offered; guessing would give 10.0",
        "mass never correct: 0 of 20 times",
        "MRI, 2 options: The position of the correct option is not significantly uneven (A 10, B 10; p = 1).",
        "The set without the solved questions 21 of 23 questions remain without those that any of these solves: "
        "majority letter.",
        "Option prior, leave one out ✓ Correct",
        "This image is not available",
        "Longest option ✗ Tie one of 2 options that tie",
        "Open questions, which have no options to choose from, are left out: 1.",
        "Verdict “warn”",
    ):
        assert wanted in page.text, wanted
    assert page.text.count(RESEARCH_USE) >= 3
    # Equal pictures: written once and referred to twice.
    assert [page.count(tag) for tag in ("img", "image", "use", "article")] == [0, 1, 2, 22]
    assert_sealed(folder.parent / "a" / "page.html")


def test_missing_parts_of_an_audit(folder):
    text = render(folder).text
    assert "The set without" not in text
    assert "fitted on" not in text
    assert "--fit-on" in text
    # A clean set of open questions alone has no figures.
    text = render(folder, clean="option_prior_loo").text
    assert "1 of 23 questions remain without those that any of these solves: option prior, leave one out." in text
    assert text.count("Longest option 50.0") == 1


def test_the_chart_of_baselines():
    ends = {"chance": (25, 25), "majority": (10, 30), "longest": (30, 70), "option_prior_loo": (80, 100)}
    figures = {name: Figure(n=9, percent=sum(ci) / 2, ci95=ci) for name, ci in ends.items()}
    page = render_page("blind.html", name="MRI", modality={"figures": figures}, margin=10)
    assert "MRI, 9 questions, chance 25.0 %. majority letter: 20.0 percent. longest option: 50.0" in page
    assert re.findall('<g class="(.*)">', page) == ["plain", "raised", "high"]


def make(folder, text, **images):
    (folder / "images").mkdir(parents=True)
    fields = {"question": text, "question_type": text, "subject": "Doe"}
    samples = []
    for name, image in images.items():
        image.save(folder / "images" / f"{name}.png")
        samples.append(sample(name, ("mass", "cyst"), "mass", id=f"{folder.name}-{name}", **fields))
    write_folder(folder, samples, info={})
    return folder


def wedge():
    return Image.linear_gradient("L").rotate(30).resize((64, 64))


def clouds():
    rng = np.random.default_rng(1)
    sizes = ((3, 120), (9, 60), (27, 20))
    layers = [Image.fromarray(rng.random((cells, cells)) * strength) for cells, strength in sizes]
    total = sum(np.asarray(layer.convert("F").resize((64, 64), Image.Resampling.BICUBIC)) for layer in layers)
    return Image.fromarray((total + 20).clip(0, 255).astype(np.uint8))


def test_the_whole_page_of_a_check(tmp_path):
    other = clouds()
    train = make(tmp_path / "train", "What is seen?", a=wedge(), b=other)
    test = make(tmp_path / "test", "What is seen?", c=wedge(), d=other.point(lambda value: value * 0.9 + 5))
    with (train / "samples.jsonl").open("a") as stream:
        stream.write("{}\n")
    check = check_folders([train, test])
    page = Reader(render_check(check, tmp_path / "sub" / "check.html"))
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
    assert page.count("img") == 3
    (train / "images" / "a.png").unlink()
    assert "This image is not available" in Reader(render_check(check, tmp_path / "check.html")).text


def test_a_sound_folder_has_no_empty_sections(tmp_path):
    check = check_folders([make(tmp_path / "data", "What?", a=wedge())])
    page = Reader(render_check(check, tmp_path / "check.html"))
    assert "✓ No problems found" in page.text
    for heading in ("Shared between parts", "Not usable", "Similar within"):
        assert heading not in page.text
    assert_sealed(tmp_path / "check.html")
    # A page that cannot be written leaves nothing.
    (tmp_path / "out.html").mkdir()
    with pytest.raises(UserError, match=r"out.html: cannot be written"):
        render_check(check, tmp_path / "out.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["check.html", "data", "out.html"]


def test_pictures_are_named_by_their_sample_alone(tmp_path):
    data = make(tmp_path / "train", "One?", Doe_John=wedge(), b=clouds())
    rows = (data / "samples.jsonl").read_text().replace("train-Doe_John", "train-1")
    (data / "samples.jsonl").write_text(rows.replace('["images/b.png"]', '["images/b.png", "images/Doe_Jane.png"]'))
    (data / "images" / "Doe_John.png").write_bytes(b"")
    page = Reader(render_check(check_folders([data]), tmp_path / "check.html"))
    assert "train train-1 1 the image file is empty" in page.text
    assert "train train-b 2" in page.text
    assert "Doe" not in page.text


def test_hostile_texts_stay_text(tmp_path):
    fields = {"question": HOSTILE, "question_type": HOSTILE}
    samples = [sample(n, (HOSTILE, "cyst"), HOSTILE, HOSTILE, **fields) for n in range(3)]
    samples.append(sample(3, ("a", "cyst"), "a", **fields))
    write_folder(tmp_path / "data", samples, info={})
    assert_only_text(render(tmp_path / "data"))
    train, test = make(tmp_path / "train", HOSTILE, a=wedge()), make(tmp_path / "test", HOSTILE, c=wedge())
    with (test / "samples.jsonl").open("a") as stream:
        stream.write(json.dumps({"id": HOSTILE, HOSTILE: 1}) + "\n")
    assert_only_text(Reader(render_check(check_folders([train, test]), tmp_path / "check.html")))
