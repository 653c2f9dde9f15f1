"""The page of a data audit: its figures and charts are on it, texts are only text, and nothing is fetched."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_html import HOSTILE, Reader, assert_only_text, assert_sealed, read

from medvlm_r1.audit.dataset.audit import audit_data
from medvlm_r1.audit.dataset.clean import write_clean
from medvlm_r1.audit.dataset.prior_source import find_prior_source
from medvlm_r1.audit.dataset.verdict import Figure
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.report.audit.data_page import blind_chart, render_data_audit


def sample(number: int, options: tuple[str, ...], answer: str, modality: str = "MRI", **changes: Any) -> Sample:
    fields = {"images": (f"images/{number}.png",), "question": "What is seen?", "question_type": "Disease Diagnosis"}
    return Sample(id=f"q{number}", options=options, answer=answer, modality=modality, **{**fields, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty MRI questions that give themselves away, two CT ones, one open; two images."""
    samples = [sample(n, ("cyst", "mass") if n % 2 else ("mass", "cyst"), "cyst") for n in range(20)]
    samples += [sample(n, ("node", "cyst"), "node", "CT", question_type="") for n in (20, 21)]
    samples.append(sample(22, (), "a cyst"))
    (tmp_path / "data" / "images").mkdir(parents=True)
    for number in (0, 20):
        Image.new("L", (8, 8), 40).save(tmp_path / f"data/images/{number}.png")
    write_folder(tmp_path / "data", samples, info={})
    return tmp_path / "data"


def render(folder: Path, *, fit: str | None = None, clean: str = "", **arguments: Any) -> Reader:
    samples = read_folder(folder)
    audit = audit_data(samples, find_prior_source(fit, folder, samples) if fit else None)
    written = write_clean(folder, folder.parent / "clean", samples, audit, baselines=[clean]) if clean else None
    page = render_data_audit(audit, folder.parent / "a" / "page.html", data=folder, clean=written, **arguments)
    return read(page)


def test_the_whole_page(folder: Path) -> None:
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
    names = [tag for tag, _ in page.tags]
    # Equal pictures: written once and referred to twice.
    assert (names.count("img"), names.count("image"), names.count("use")) == (0, 1, 2)
    assert names.count("article") == 22
    assert_sealed(folder.parent / "a" / "page.html")


def test_a_clean_set_of_open_questions_alone_has_no_figures(folder: Path) -> None:
    text = render(folder, clean="option_prior_loo").text
    assert "1 of 23 questions remain without those that any of these solves: option prior, leave one out." in text
    assert text.count("Longest option 50.0") == 1


def test_without_fit_and_clean_set_there_are_no_empty_parts(folder: Path) -> None:
    text = render(folder).text
    assert "The set without" not in text
    assert "fitted on" not in text
    assert "--fit-on" in text


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    fields = {"question": HOSTILE, "question_type": HOSTILE}
    samples = [sample(n, (HOSTILE, "cyst"), HOSTILE, HOSTILE, **fields) for n in range(3)]
    samples.append(sample(3, ("a", "cyst"), "a", **fields))
    write_folder(tmp_path / "data", samples, info={})
    assert_only_text(render(tmp_path / "data"))


def test_the_chart_of_baselines() -> None:
    figures = {
        "chance": Figure(n=9, percent=25.0, ci95=(25.0, 25.0)),
        "majority": Figure(n=9, percent=20.0, ci95=(10.0, 30.0)),
        "longest": Figure(n=9, percent=50.0, ci95=(30.0, 70.0)),
        "option_prior_loo": Figure(n=9, percent=100.0, ci95=(80.0, 100.0)),
    }
    chart = blind_chart("MRI", figures)
    assert [share.name for share in chart.shares] == ["majority letter", "longest option", "option prior, LOO"]
    assert [share.tone for share in chart.shares] == ["plain", "raised", "high"]
    assert [share.percent for share in chart.shares] == [20, 50, 100]
    assert chart.line == 25
