"""The page of a model's audit: verdicts, figures and items are on it, images are what was shown, model text is text."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_html import HOSTILE, Reader, assert_only_text, assert_sealed, read

from benchmarks.known_models import Eyes, FollowsCues
from medvlm_r1.audit.registry import PROBES, QUESTIONS
from medvlm_r1.audit.runner import audit_model
from medvlm_r1.audit.variant import AuditBackend, Variant, VariantAnswer, parsed_answer, scored_choice
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.phantom.benchmark import write_benchmark
from medvlm_r1.report import load_run, load_runs, render_report
from medvlm_r1.report.album import Album
from medvlm_r1.report.audit.model_items import WRONG, build_audit_items, choose, kinds_of
from medvlm_r1.report.audit.model_view import Pictures, load_audit
from medvlm_r1.report.html import AUDIT_PAGE, render_model_audit

ITEMS = 36
RunMaker = Callable[..., Path]
Browse = Callable[[Path, int], Any]


class Says(AuditBackend):
    """Answers every question with one text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def answer(self, variants: Sequence[Variant]) -> list[VariantAnswer]:
        return [
            scored_choice(variant, [1.0, *[0.0] * (len(variant.sample.options) - 1)])
            if variant.letter_only
            else parsed_answer(variant, variant.prefix + self.text, n_tokens=9, truncated=self.text.endswith("..."))
            for variant in variants
        ]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PhantomVQA's first MRI questions; do not write into it."""
    folder = tmp_path_factory.mktemp("phantom") / "data"
    write_benchmark(folder, split="test", modalities=["MRI"], n=ITEMS)
    return folder


@pytest.fixture(scope="module")
def audited(phantom: Path) -> Path:
    """The audit of a model that sees and reasons, but follows hints; do not write into it."""
    samples = read_folder(phantom)
    eyes = Eyes(samples, [load_image(phantom / sample.images[0]) for sample in samples])
    audit_model("models/cued", phantom, phantom.parent / "run", backend=FollowsCues(eyes))
    return phantom.parent / "run"


@pytest.fixture
def copied(audited: Path, tmp_path: Path) -> Path:
    """The audit and its data in a place of their own."""
    shutil.copytree(audited.parent / "data", tmp_path / "moved" / "data")
    shutil.copytree(audited, tmp_path / "moved" / "run")
    record = json.loads((audited / "audit.json").read_text())
    record["data"] = str(tmp_path / "gone")
    (tmp_path / "moved" / "run" / "audit.json").write_text(json.dumps(record))
    return tmp_path / "moved" / "run"


def pixels(uri: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")).astype(int)


def test_the_whole_page(copied: Path) -> None:
    page_file = render_model_audit(copied)
    assert_sealed(page_file)
    page = read(page_file)
    record = json.loads((copied / "audit.json").read_text())
    for verdict, (probe, question) in QUESTIONS.items():
        sentence = " ".join(record["probes"][probe]["sentence"].split())
        assert f"{record['verdicts'][verdict]} {question} {sentence}" in page.text
    assert record["verdicts"]["reasoning"] == "fail"
    for wanted in (
        "Audit of models/cued",
        f"{ITEMS} questions in {record['answers']['variants']} variants; answers to the questions as they are: 0 "
        "unparsed, 0 cut off, 0 empty",
        "pass : the interval is on the good side",
        "Accuracy by image",
        "another item's",
        "Recall by letter, 2 options",
        "Early answering",
        "Reliability",
        "Risk and coverage",
        "True claims",
        "By question type",
        "aoc needed from 0.1 at the lower end",
        "items not run below 30",
        "12 items, selected by what they show",
        "swayed by the text, not saying so",
        "is added to the question (a wrong hint)",
        "is drawn on the image (a wrong hint)",
        "Reasoning truncated after 0 of",
        "Sampled at temperature 1",
        "= same answer",
        "≠ changed",
        "probability of one as large if the letter did not matter letter_bias_p",
        "Prompt template: medvlm-r1",
    ):
        assert wanted in page.text, wanted
    assert page.text.count(RESEARCH_USE) >= 4
    assert len([tag for tag, attrs in page.tags if attrs.get("class") == "case-item"]) == 12
    # Of each item its own image, gray, noise, another's, and the one with the hint.
    assert len([tag for tag, _ in page.tags if tag in ("img", "use")]) == 12 * 5


def test_no_subject_and_no_path_is_printed(copied: Path) -> None:
    for file in (copied / "answers.jsonl", copied.parent / "data" / "samples.jsonl"):
        file.write_text(re.sub(r'"subject": "[^"]*"', '"subject": "Mustermann"', file.read_text()))
    page = render_model_audit(copied).read_text()
    assert page.count('class="picture"') == 12 * 5
    assert "Mustermann" not in page
    assert str(copied.parent) not in page


def test_headings_are_where_the_verdicts_point(copied: Path) -> None:
    page = read(render_model_audit(copied, items=1))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert len(ids) == len(set(ids))
    assert len(links) == len(PROBES)
    assert all((link or "").removeprefix("#") in ids for link in links)


def test_the_images_are_those_that_were_shown(audited: Path) -> None:
    view = load_audit(audited)
    [item] = build_audit_items(view, Pictures(view), [next(iter(view.items))], Album(9))
    shown = {card.reply.title: pixels(card.images[0].uri) for card in item.cards if card.images}
    assert item.sample is not None
    own = np.asarray(load_image(audited.parent / "data" / item.sample.images[0])).astype(int)
    assert (shown["Original"] == own).all()
    assert (shown["Gray image"] == 128).all()
    assert shown["Noise"].std() > 20
    assert (shown["Another item’s image"] != own).any()
    hint = (shown["Hint on the image"] != own).any(axis=2)
    assert hint.any()
    assert not hint[len(own) // 2 :].any()
    unseen = {card.reply.title: card.unseen for card in item.cards if not card.images}
    assert unseen == {
        "No image": "no image",
        "Hint in the question": "with its own image",
        "Mistake in the reasoning": "with its own image",
    }


def test_answers_are_told_as_they_are_stored(audited: Path) -> None:
    view = load_audit(audited)
    swayed = view.probes["reasoning"].items["swayed by the text, not saying so"][0]
    [item] = build_audit_items(view, Pictures(view), [swayed, "unknown"], Album(9))
    answers = view.items[swayed].answers
    hinted = next(card.reply for card in item.cards if card.reply.title == "Hint in the question")
    assert hinted.answer == f"{answers['cue-text'].letter}) {answers['cue-text'].note['option']}"
    assert (hinted.verdict, hinted.change) == ("Wrong", "changed")
    forced = next(row for row in item.rows if row.title.startswith("Reasoning truncated after 0 of"))
    assert [share for _, share, _ in forced.shares] == [100 * p for p in answers["early-0"].probabilities or ()]
    assert sum(chosen for *_, chosen in forced.shares) == 1
    assert item.votes.endswith("of 5 agree with the answer")
    assert "swayed by the text, not saying so" in item.kinds


def test_without_the_data_the_page_has_no_images_and_says_so(copied: Path) -> None:
    shutil.rmtree(copied.parent / "data")
    page = read(render_model_audit(copied, items=3))
    assert "The data folder no longer exists: questions are shown without images." in page.text
    assert "img" not in {tag for tag, _ in page.tags}
    assert [attrs.get("class") for tag, attrs in page.tags if tag == "span"].count("badge") == 3
    assert "not available" in page.text


def test_an_image_that_is_another_by_now_is_not_shown(copied: Path) -> None:
    view = load_audit(copied)
    chosen = next(iter(view.items))
    sample = view.items[chosen].sample
    assert Pictures(view).inputs(chosen) is not None
    Image.new("RGB", (8, 8)).save(copied.parent / "data" / sample.images[0])
    [item] = build_audit_items(view, Pictures(view), [chosen], Album(9))
    assert [card.images for card in item.cards] == [()] * len(item.cards)
    # It is another item's partner too; all others are as they were.
    pictures = Pictures(view)
    assert sum(pictures.inputs(name) is None for name in view.items) == 2


def test_model_text_is_only_text(phantom: Path, tmp_path: Path) -> None:
    text = f"<think>{HOSTILE} It is. {HOSTILE}</think><answer>A</answer>"
    audit_model(HOSTILE, phantom, tmp_path / "run", backend=Says(text), limit=2)
    assert_only_text(read(render_model_audit(tmp_path / "run")))


def test_what_is_no_answer_is_counted_and_shown(phantom: Path, tmp_path: Path) -> None:
    audit_model("m", phantom, tmp_path / "run", backend=Says("<think>It goes on and on ..."), limit=3)
    page = read(render_model_audit(tmp_path / "run"))
    assert "3 unparsed, 3 cut off, 0 empty" in page.text
    assert re.search(r"real 3 3 3 0", page.text)
    assert "✗ No answer" in page.text
    assert "truncated at the token limit" in page.text
    assert "It goes on and on ..." in page.text


def test_probes_that_were_not_asked_for_are_named(phantom: Path, tmp_path: Path) -> None:
    audit_model("m", phantom, tmp_path / "run", backend=Says("B"), limit=2, probes=["subgroups"])
    text = read(render_model_audit(tmp_path / "run")).text
    assert text.count("not run Does it look at the image? The probe was not requested.") == 1
    others = ", ".join(name for name in PROBES if name != "subgroups")
    assert f"Probes that were not requested: {others}." in text


def test_an_audit_beside_an_evaluation(audited: Path, make_run: RunMaker, tmp_path: Path) -> None:
    runs = load_runs([make_run("evaluated", ["<think>x</think><answer>B</answer>"] * 4), audited])
    page = read(render_report(runs, tmp_path / "report.html", title="Both", summary="Two runs.", items=2))
    assert "Summary run Model: models/cued" in page.text
    assert "Wilson 95" in page.text
    chosen = [next(iter(load_audit(audited).items)), "q2"]
    page = read(render_report(runs, tmp_path / "report.html", title="Both", summary="Two runs.", items=chosen))
    assert chosen[0] in page.text
    assert "Question 2?" in page.text
    with pytest.raises(UserError, match="no run of the report has answered it"):
        render_report(runs, tmp_path / "report.html", title="Both", summary="Two runs.", items=["neither"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record.pop("verdicts"), "not the figures of an audit"),
        (lambda record: record.pop("template"), "no template in it"),
        (lambda record: record["verdicts"].update(looks="fine"), r"no verdicts\.looks in it"),
        (lambda record: record["probes"]["image"].update(verdict="<b>"), "not the figures of an audit"),
        (
            lambda record: record["probes"]["image"]["measures"]["chance"].update(value="x"),
            r"chance\.value: Input",
        ),
    ],
)
def test_damaged_figures_are_named(copied: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    record = json.loads((copied / "audit.json").read_text())
    change(record)
    (copied / "audit.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=rf"audit\.json: .*{said}"):
        load_run(copied)


@pytest.mark.parametrize(
    ("probe", "detail"),
    [
        ("reasoning", {"early": {"same": [1]}}),
        ("options", {"recall_by_letter": {"2": [1]}}),
        ("confidence", {"vote": {"risk_coverage": [[1]]}}),
    ],
)
def test_details_that_cannot_be_drawn_are_named(copied: Path, probe: str, detail: dict[str, Any]) -> None:
    record = json.loads((copied / "audit.json").read_text())
    record["probes"][probe]["detail"] = detail
    (copied / "audit.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=f"the details of the probe '{probe}' cannot be drawn"):
        render_model_audit(copied)
    assert not (copied / AUDIT_PAGE).exists()


def test_an_answer_without_its_note_is_shown(copied: Path) -> None:
    log = copied / "answers.jsonl"
    log.write_text(re.sub(r'"note": {[^}]*}', '"note": {}', log.read_text()))
    assert "“?” was changed to “?”" in read(render_model_audit(copied, items=2)).text


def test_an_audit_that_was_not_finished_says_how_to(copied: Path) -> None:
    (copied / "audit.json").unlink()
    with pytest.raises(UserError, match=r"it has answers\.jsonl only: run the same `medvlm-r1 audit model` again"):
        load_run(copied)


def test_the_rarest_kinds_are_shown_first() -> None:
    kinds = {"common": ["a", "b", "c", "d"], "rare": ["d"], "some": ["a", "d"]}
    assert choose(kinds, 1) == ["d"]
    # "d" is the rare one; then one of the two of "some", which may be "d" again, and one of the common ones.
    assert choose(kinds, 2)[0] == "d"
    assert sorted(choose(kinds, 9)) == ["a", "b", "c", "d"]
    assert choose({}, 3) == []
    assert choose(kinds, 3) == choose({name: ids[::-1] for name, ids in kinds.items()}, 3)


def test_wrong_items_are_a_kind_of_their_own(audited: Path) -> None:
    view = load_audit(audited)
    right = view.probes["subgroups"].measures["accuracy"]
    assert len(kinds_of(view)[WRONG]) == round((1 - right.value) * right.n) > 0


def test_the_command_writes_the_page(command: Any, tiny_policy_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    out_and_limits = ("--out", tmp_path / "run", "--limit", 2, "--max-new-tokens", 4, "--probes", "image")
    arguments = ("audit", "model", tiny_policy_dir, "--data", data_dir, *out_and_limits)
    code, out, _ = command(*arguments)
    assert code == 0
    assert f"Report: {tmp_path / 'run' / AUDIT_PAGE}" in out
    assert "Summary" in read(tmp_path / "run" / AUDIT_PAGE).text
    (tmp_path / "run" / AUDIT_PAGE).unlink()
    code, out, _ = command(*arguments, "--json")
    assert code == 0
    assert Path(json.loads(out)["page"]).is_file()
    code, out, _ = command("report", tmp_path / "run", "--out", tmp_path / "again.html")
    assert code == 0
    assert Reader((tmp_path / "again.html").read_text()).text.count("Summary") == 1


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_scrolling_sideways(browse: Browse, copied: Path, width: int) -> None:
    page = browse(render_model_audit(copied, items=2), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".verdicts .verdict").all_inner_texts()[2] == "fail"
    first = page.locator(".verdicts li").first.bounding_box()
    assert first["y"] + first["height"] < 900, "the first verdict is on the first screen"
    # Rejected where one cannot be shown; those far from the screen are not loaded before.
    page.evaluate("Promise.all([...document.images].map(image => { image.loading = 'eager'; return image.decode(); }))")
    page.locator(".verdicts a").nth(3).click()
    heading = page.locator("h2", has_text="Are its claims true?")
    # The browser scrolls to whole pixels.
    assert -1 < heading.bounding_box()["y"] < 900
