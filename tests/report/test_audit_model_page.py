"""The page of a model's audit: verdicts, figures and items are on it, images are what was shown, model text is text."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from page_reader import HOSTILE, Reader, assert_only_text, assert_sealed
from PIL import Image

from audited import Scripted
from benchmarks.known_models import Eyes, FollowsCues
from medvlm_r1.audit.registry import PROBES, QUESTIONS, answer_word
from medvlm_r1.audit.runner import audit_model
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.phantom.benchmark import write_benchmark
from medvlm_r1.report import load_run, load_runs, render_report
from medvlm_r1.report.html import AUDIT_PAGE, render_model_audit
from medvlm_r1.report.items import WRONG, build_audit_items, choose, kinds_of
from medvlm_r1.report.page import Album
from medvlm_r1.report.views import Pictures, load_audit

ITEMS = 36


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """PhantomVQA's first MRI questions; do not write into it."""
    folder = tmp_path_factory.mktemp("phantom") / "data"
    write_benchmark(folder, split="test", modalities=["MRI"], n=ITEMS)
    return folder


@pytest.fixture(scope="module")
def audited(phantom):
    """The audit of a model that sees and reasons, but follows hints; do not write into it."""
    samples = read_folder(phantom)
    eyes = Eyes(samples, [load_image(phantom / sample.images[0]) for sample in samples])
    audit_model("models/cued", phantom, phantom.parent / "run", backend=FollowsCues(eyes))
    return phantom.parent / "run"


@pytest.fixture
def copied(audited, tmp_path):
    """The audit and its data in another folder."""
    shutil.copytree(audited.parent / "data", tmp_path / "moved" / "data")
    shutil.copytree(audited, tmp_path / "moved" / "run")
    change(tmp_path / "moved" / "run", lambda record: record.update(data=str(tmp_path / "gone")))
    return tmp_path / "moved" / "run"


def change(run, edit):
    record = json.loads((run / "audit.json").read_text())
    edit(record)
    (run / "audit.json").write_text(json.dumps(record))


def test_the_whole_page(copied):
    # No subject and no path is printed.
    for file in (copied / "answers.jsonl", copied.parent / "data" / "samples.jsonl"):
        file.write_text(re.sub(r'"subject": "[^"]*"', '"subject": "Mustermann"', file.read_text()))
    page_file = render_model_audit(copied)
    assert_sealed(page_file)
    page = Reader(page_file)
    record = json.loads((copied / "audit.json").read_text())
    for verdict, (probe, question) in QUESTIONS.items():
        sentence = " ".join(record["probes"][probe]["sentence"].split())
        assert f"{answer_word(record['verdicts'][verdict], sentence)} {question} {sentence}" in page.text
    assert record["verdicts"]["reasoning"] == "fail"
    for wanted in (
        "Audit of models/cued",
        f"{ITEMS} questions in {record['answers']['variants']} variants; answers to the questions as they are: 0 "
        "unparsed, 0 cut off, 0 empty",
        "Yes (pass): the interval is on the good side",
        "Accuracy by image",
        "Recall by letter, 2 options",
        "Early answering",
        "Reliability",
        "Risk and coverage",
        "True claims",
        "By question type",
        "added_by_description needed from 0.1 at the lower end",
        "Mistakes by position",
        "12 items, selected by what they show",
        "is added to the question (a wrong hint)",
        "is drawn on the image (a wrong hint)",
        "Description truncated after 0 of",
        "Sampled at temperature 1",
        "✗ Wrong ≠ changed “A radiologist says",
        "= same answer",
        "probability of one as large if the letter did not matter letter_bias_p",
        "Prompt template: medvlm-r1",
    ):
        assert wanted in page.text, wanted
    assert page.text.count(RESEARCH_USE) >= 4
    assert len([tag for tag, attrs in page.tags if attrs.get("class") == "case-item"]) == 12
    # Of each item its own image, gray, noise, another's, and the one with the hint.
    assert page.count("img") + page.count("use") == 12 * 5
    for private in ("Mustermann", str(copied.parent)):
        assert private not in page_file.read_text()
    # The verdicts link to headings.
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert len(ids) == len(set(ids))
    assert len(links) == len(PROBES)
    assert all((link or "").removeprefix("#") in ids for link in links)


def pixels(picture):
    content = base64.b64decode(picture.uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_images_and_answers_are_those_of_the_audit(audited):
    view, kind = load_audit(audited), "swayed by the text, not saying so"
    swayed = view.probes["reasoning"].items[kind][0]
    [item] = build_audit_items(view, Pictures(view), [swayed, "unknown"], Album(9))
    images = {card.name: pixels(card.images[0]) for card in item.cards if card.images}
    own = np.asarray(load_image(audited.parent / "data" / item.sample.images[0])).astype(int)
    assert (images["real"] == own).all()
    assert (images["blank"] == 128).all()
    assert images["noise"].std() > 20
    assert (images["shuffled"] != own).any()
    hint = (images["cue-image"] != own).any(axis=2)
    assert (hint.any(), hint[len(own) // 2 :].any()) == (True, False)
    unseen = {card.name: card.unseen for card in item.cards if not card.images}
    shared = dict.fromkeys(["cue-text", "mistake-description"], "with its own image")
    assert unseen == {"absent": "no image"} | shared
    answers = view.items[swayed].answers
    assert next(card.answer for card in item.cards if card.name == "cue-text") == answers["cue-text"]
    assert item.rows["cut-0"] == answers["cut-0"]
    assert item.votes.endswith("of 5 agree with the answer")
    assert kind in item.kinds


def test_images_that_are_gone_or_have_changed_are_not_shown(copied):
    view = load_audit(copied)
    chosen = next(iter(view.items))
    assert Pictures(view).inputs(chosen) is not None
    Image.new("RGB", (8, 8)).save(copied.parent / "data" / view.items[chosen].sample.images[0])
    pictures = Pictures(view)
    [item] = build_audit_items(view, pictures, [chosen], Album(9))
    assert [card.images for card in item.cards] == [()] * len(item.cards)
    # It is another item's partner too; all others are as they were.
    assert sum(pictures.inputs(name) is None for name in view.items) == 2
    shutil.rmtree(copied.parent / "data")
    page = Reader(render_model_audit(copied, items=3))
    assert "The data folder no longer exists: questions are shown without images." in page.text
    assert page.count("img") == 0
    assert [attrs.get("class") for tag, attrs in page.tags if tag == "span"].count("badge") == 3
    assert "not available" in page.text


def test_model_text_is_only_text(phantom, tmp_path):
    text = f"<think>{HOSTILE} It is. {HOSTILE}</think><answer>A</answer>"
    audit_model(HOSTILE, phantom, tmp_path / "run", backend=Scripted(lambda _: text), limit=2)
    assert_only_text(Reader(render_model_audit(tmp_path / "run")))


def test_unparsed_answers_and_missing_probes_are_reported(phantom, tmp_path):
    backend = Scripted(lambda _: "<think>It goes on and on ...")
    audit_model("m", phantom, tmp_path / "run", backend=backend, limit=3, probes=["subgroups"])
    text = Reader(render_model_audit(tmp_path / "run")).text
    for wanted in (
        "3 unparsed, 3 cut off, 0 empty",
        "real 3 3 3 0",
        "✗ No answer",
        "truncated at the token limit",
        "It goes on and on ...",
        "Not measured Does it look at the image? The probe was not requested.",
        f"Probes that were not requested: {', '.join(name for name in PROBES if name != 'subgroups')}.",
    ):
        assert wanted in text


def test_an_audit_next_to_an_evaluation(audited, make_run, tmp_path):
    runs = load_runs([make_run("evaluated", ["<think>x</think><answer>B</answer>"] * 4), audited])

    def text(items):
        return Reader(render_report(runs, tmp_path / "report.html", title="T", summary="", items=items)).text

    assert "Summary run Model: models/cued" in text(2)
    assert "Wilson 95" in text(2)
    chosen = next(iter(load_audit(audited).items))
    assert chosen in text([chosen, "q2"])
    assert "Question 2?" in text([chosen, "q2"])
    with pytest.raises(UserError, match="no run of the report has answered it"):
        text(["neither"])


def damage(probe, **fields):
    return lambda record: record["probes"][probe].update(fields)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda record: record.pop("verdicts"), "not the figures of an audit"),
        (lambda record: record.pop("template"), "no template in it"),
        (lambda record: record["verdicts"].update(looks="fine"), r"no verdicts\.looks in it"),
        (damage("image", verdict="<b>"), "not the figures of an audit"),
        (lambda record: record["probes"]["image"]["measures"]["chance"].update(value="x"), r"chance\.value: Input"),
        (damage("reasoning", detail={"early": {"same": [1]}}), "details of the probe 'reasoning' cannot be drawn"),
        (damage("options", detail={"recall_by_letter": {"2": [1]}}), "details of the probe 'options' cannot be drawn"),
        (damage("confidence", detail={"vote": {"risk_coverage": [[1]]}}), "probe 'confidence' cannot be drawn"),
    ],
)
def test_damaged_figures_are_named(copied, edit, message):
    change(copied, edit)
    with pytest.raises(UserError, match=rf"audit\.json: .*{message}"):
        render_model_audit(copied)
    assert not (copied / AUDIT_PAGE).exists()


def test_an_answer_without_its_note_and_an_unfinished_audit(copied):
    log = copied / "answers.jsonl"
    log.write_text(re.sub(r'"note": {[^}]*}', '"note": {}', log.read_text()))
    assert "“?” was changed to “?”" in Reader(render_model_audit(copied, items=2)).text
    (copied / "audit.json").unlink()
    with pytest.raises(UserError, match=r"it has answers\.jsonl only: run the same `medvlm-r1 audit model` again"):
        load_run(copied)


def test_the_rarest_kinds_are_shown_first(audited):
    kinds = {"common": ["a", "b", "c", "d"], "rare": ["d"], "some": ["a", "d"]}
    assert choose(kinds, 1) == ["d"]
    # "d" is the rare one; then one of the two of "some", which may be "d" again, and one of the common ones.
    assert choose(kinds, 2)[0] == "d"
    assert sorted(choose(kinds, 9)) == ["a", "b", "c", "d"]
    assert choose({}, 3) == []
    assert choose(kinds, 3) == choose({name: ids[::-1] for name, ids in kinds.items()}, 3)
    view = load_audit(audited)
    right = view.probes["subgroups"].measures["accuracy"]
    assert len(kinds_of(view)[WRONG]) == round((1 - right.value) * right.n) > 0


def test_the_command_writes_the_page(command, tiny_policy_dir, data_dir, tmp_path):
    page = tmp_path / "run" / AUDIT_PAGE
    arguments = ["audit", "model", tiny_policy_dir, "--data", data_dir, "--out", page.parent, "--limit", 2]
    code, out, _ = command(*arguments, "--max-new-tokens", 4, "--probes", "image", "--json")
    assert (code, json.loads(out)["page"]) == (0, str(page))
    assert command("report", page.parent, "--out", tmp_path / "again.html")[0] == 0
    for file in (page, tmp_path / "again.html"):
        assert Reader(file).text.count("Summary") == 1


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_scrolling_sideways(browse, copied, width):
    page = browse(render_model_audit(copied, items=2), width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".verdicts .verdict").all_inner_texts()[2] == "No"
    first = page.locator(".verdicts li").first.bounding_box()
    assert first["y"] + first["height"] < 900, "the first verdict is on the first screen"
    # Rejected where one cannot be shown; those far from the screen are not loaded before.
    page.evaluate("Promise.all([...document.images].map(image => { image.loading = 'eager'; return image.decode(); }))")
    page.locator(".verdicts a").nth(3).click()
    heading = page.locator("h2", has_text="Are its claims true?")
    # The browser scrolls to whole pixels.
    assert -1 < heading.bounding_box()["y"] < 900
