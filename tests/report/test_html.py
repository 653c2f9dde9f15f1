"""The report: figures, items and curves are on it, model text is only text, and each part is of the right folder."""

import io
import json
import re
import shutil
from dataclasses import replace

import pytest
from page_reader import HOSTILE, Reader, assert_only_text, assert_sealed
from PIL import Image

from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError
from medvlm_r1.evaluation.score import report_lines
from medvlm_r1.report import RunView, load_run, load_runs, render_report
from medvlm_r1.report.items import choose_items

RIGHT = "<think>Looks like it.</think><answer>B</answer>"
WRONG = "<think>Looks like it.</think><answer>A</answer>"


def render(runs, tmp_path, **arguments):
    path = render_report(runs, tmp_path / "report.html", title="A title", summary="In plain words.", **arguments)
    return Reader(path)


def test_the_whole_page(make_run, make_training, tmp_path):
    training = make_training("grpo", [{"step": n, "reward": 0.1 * n, "loss": 0.2} for n in range(1, 6)])
    runs = {
        "Zero-shot": load_run(make_run("base", [RIGHT, WRONG, "the answer is B", "no idea ..."])),
        "GRPO": load_run(make_run("tuned", [RIGHT] * 4), training=training),
    }
    paper = {"MedVLM-R1": {"Mean": 78.22}, "Other": {}}
    notes = ["`medvlm-r1 demo` makes it."]
    page = render(runs, tmp_path, notes=notes, domains={"MRI": "in domain"}, paper=paper)
    for wanted in (
        "A title",
        "In plain words.",
        "MRI in domain",
        "50.0 9.5–90.5 1 of 2",
        "Guessing at random",
        "+75.0",
        "gained 3, lost 0 of 4",
        "Lesion Grading",
        "MedVLM-R1 78.22 Other –",
        "medvlm-r1 demo makes it.",
        "Loss of GRPO",
        "✓ Correct",
        "✗ Wrong",
        "✗ No answer",
        "correct by the lenient rule",
        "truncated at the token limit",
        "kidney correct answer",
        "Reasoning Looks like it. Answer B) kidney",
        "Full text the answer is B",
    ):
        assert wanted in page.text
    assert page.text.count(RESEARCH_USE) >= 3
    assert page.count("img") == 4
    assert_sealed(tmp_path / "report.html")


@pytest.mark.parametrize("text", [HOSTILE, f"<think>{HOSTILE}</think><answer>{HOSTILE}</answer>", "\ud83d"])
def test_hostile_texts_stay_text(samples_dir, make_run, make_training, tmp_path, text):
    rows = [json.loads(line) for line in (samples_dir / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"question": HOSTILE, "options": [HOSTILE, "kidney"], "question_type": HOSTILE, "modality": HOSTILE}
    (samples_dir / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = make_training("grpo", [{"step": 1, f"rewards/{HOSTILE}/mean": 1.0}])
    view = load_run(make_run("run", [text] * 4), training=training)
    notes = [HOSTILE, f"`{HOSTILE}`"]
    assert_only_text(render({HOSTILE: view}, tmp_path, notes=notes, domains={HOSTILE: HOSTILE}, items=["q0"]))


def test_one_kind_of_run_has_no_empty_sections(make_run, make_training, tmp_path):
    text = render({"run": load_run(make_run("run", [RIGHT] * 4))}, tmp_path).text
    for heading in ("Training", "Differences", "paper’s own"):
        assert heading not in text
    text = render({"grpo": load_run(make_training("grpo", [{"step": 1, "reward": 1.0}]))}, tmp_path).text
    assert "Reward" in text
    for heading in ("Accuracy", "Behind the figures"):
        assert heading not in text
    assert RESEARCH_USE in text


def test_open_questions_are_counted_apart(make_run, samples_dir, tmp_path):
    samples = read_folder(samples_dir)
    write_folder(samples_dir, [replace(s, options=()) if n > 1 else s for n, s in enumerate(samples)], info={})
    runs = {name: load_run(make_run(name, [RIGHT, text, WRONG, WRONG])) for name, text in (("a", RIGHT), ("b", WRONG))}
    text = render(runs, tmp_path).text
    for wanted in (
        "50.0 9.5–90.5 1 of 2",
        "Open questions (not in the accuracy) 2 2",
        "b: Compared: 2 questions. Left out: 0 only in the first, 0 only in the second, 2 open questions in both.",
        "Open questions, mean score 0.0 % 0.0 %",
        "Open questions by deciding rule words 2 words 2",
        "open question: score 0.00 (rule: words)",
    ):
        assert wanted in text
    write_folder(samples_dir, [replace(s, options=()) for s in samples], info={})
    view = load_run(make_run("run", [RIGHT] * 4))
    assert "Open questions (not in the accuracy) 4" in render({"run": view}, tmp_path).text
    lines = report_lines(view.results or {})
    assert lines[0] == "No question has options, so there is no accuracy."
    assert lines[-2].startswith(
        'open questions (without options) 4, included above only in "cut off"; mean score 0.0 %'
    )
    assert lines[-1] == "open questions by rule (mean score): words 4 (0 %)"


def test_what_differs_between_compared_runs_is_reported(make_run, samples_dir, tmp_path):
    runs = {"one": load_run(make_run("one", [RIGHT] * 4)), "few": load_run(make_run("few", ["B"] * 3, limit=3))}
    runs["bare"] = load_run(make_run("bare", ["B"] * 4, template="answer-only"))
    (samples_dir / "images" / "1.png").write_bytes((samples_dir / "images" / "0.png").read_bytes())
    runs["mirrored"] = load_run(make_run("mirrored", [RIGHT] * 4))
    text = render(runs, tmp_path).text
    assert "few: Compared: 3 questions. Left out: 1 only in the first, 0 only in the second." in text
    assert "bare: Settings differ: prompt template (medvlm-r1 and answer-only). Compared: 4 questions." in text
    assert "mirrored: not compared. one and mirrored: 1 of 4 ids they share stand for different items; 'q1'" in text
    text = render({"SFT": runs["bare"]}, tmp_path, items=["q0"]).text
    assert "✓ Correct Answer B) kidney" in text
    assert "Full text" not in text


def test_runs_on_other_data_have_rows_and_no_differences(make_run, samples_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(samples_dir, other)
    file = other / "samples.jsonl"
    file.write_text(file.read_text().replace('"id": "q', '"id": "other-q').replace("Question", "Another question"))
    runs = {"one": load_run(make_run("one", [RIGHT] * 4)), "two": load_run(make_run("two", [WRONG] * 4, data=other))}
    page = render(runs, tmp_path, items=["q0"])
    assert f"models/two, on {tmp_path.name}/other" in page.text
    for text in ("Differences", str(tmp_path), "Another question"):
        assert text not in page.text


def test_items(make_run, samples_dir, tmp_path):
    right, wrong = load_run(make_run("right", [RIGHT] * 4)), load_run(make_run("wrong", [WRONG] * 4))
    # Selected without their answers, alternating between modalities.
    assert choose_items({"run": right}, 3) == choose_items({"run": wrong}, 3)
    assert len(choose_items({"run": right}, 99)) == 4
    assert choose_items({"training": RunView()}, 3) == []
    modalities = {answer.sample.id: answer.sample.modality for answer in right.answers}
    assert [modalities[name] for name in choose_items({"run": right}, 3)] == ["MRI", "CT", "OCT"]
    # Those that all models answered come first.
    two = load_run(make_run("two", [RIGHT] * 2, limit=2))
    assert set(choose_items({"all": right, "two": two}, 6)) == {"q0", "q1"}
    (samples_dir / "images" / "0.png").write_bytes(b"broken")
    page = render({"run": right}, tmp_path, items=["q0", "q1"])
    assert "This image is not available" in page.text
    assert page.count("img") == 1
    (tmp_path / "report.html").unlink()
    with pytest.raises(UserError, match="'q9'"):
        render({"run": right}, tmp_path, items=["q9"])
    assert not (tmp_path / "report.html").exists()


def test_900_questions_on_a_few_images_hold_each_image_once(make_run, samples_dir, tmp_path, browse):
    colors = [(200, 10, 10), (10, 150, 10), (10, 10, 200)]
    for number, color in enumerate(colors):
        Image.new("RGB", (12, 12), color).save(samples_dir / f"images/{number}.png")
    sample, *_ = read_folder(samples_dir)
    samples = [replace(sample, id=f"q{n}", images=(f"images/{n % 3}.png",)) for n in range(900)]
    write_folder(samples_dir, samples, info={})
    render({"run": load_run(make_run("run", [RIGHT] * 900))}, tmp_path, items=900)
    path = tmp_path / "report.html"
    assert (path.read_text().count("<article"), path.read_text().count("data:image/")) == (900, 3)
    assert path.stat().st_size < 2_500_000
    page = browse(path, 390)
    for index in (0, 450, 899):
        item = page.locator("article").nth(index)
        item.scroll_into_view_if_needed()
        number = int(item.locator(".meta bdi").text_content().removeprefix("q"))
        shot = Image.open(io.BytesIO(item.locator(".picture").screenshot())).convert("RGB")
        assert shot.getpixel((shot.width // 2, shot.height // 2)) == pytest.approx(colors[number % 3], abs=3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_which_part_is_of_which_folder(make_run, make_training, tmp_path):
    run, training = make_run("run", [RIGHT] * 4), make_training("grpo", [{"step": 1, "reward": 0.5}, {"step": 2}])
    with (training / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')  # still being written
    # Figures and rollouts in a training folder are no test.
    (training / "results.json").write_text('{"accuracy": {}}')
    (training / "rollouts.jsonl").write_text('{"text": "a rollout"}\n')
    view = load_run(training)
    assert (view.results, view.answers, len(view.metrics)) == (None, (), 2)
    view = load_run(run, training=training)
    assert (view.results or {})["accuracy"]["mean"] == 100.0
    assert [answer.sample.id for answer in view.answers] == ["q0", "q1", "q2", "q3"]
    assert (view.data, len(view.metrics), load_run(run).metrics) == (tmp_path / "data", 2, ())
    # The data are found where both were moved.
    (tmp_path / "moved").mkdir()
    for name in ("data", "run"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    data = load_run(tmp_path / "moved" / "run").data
    assert data is not None
    assert data.resolve() == tmp_path / "moved" / "data"
    shutil.rmtree(data)
    assert load_run(tmp_path / "moved" / "run").data is None


def test_folders_that_are_no_run(make_run, make_training, tmp_path):
    with pytest.raises(UserError, match=r"neither results\.json of an evaluation nor metrics\.jsonl"):
        load_run(tmp_path)
    run, training = make_run("run", [RIGHT] * 4), make_training("grpo", [])
    with pytest.raises(UserError, match=r"grpo: no metrics\.jsonl with a row"):
        load_run(run, training=training)
    (run / "results.json").unlink()
    with pytest.raises(UserError, match="run the same `medvlm-r1 eval` again"):
        load_run(run)
    (training / "metrics.jsonl").write_text('{"step": 1}\nnot json\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, row 2: malformed JSON"):
        load_run(training)
    with pytest.raises(UsageError, match="no run folder"):
        load_runs([])
    with pytest.raises(UsageError, match="given twice"):
        load_runs([training, f"{training}/../grpo"])


def test_runs_are_named_after_their_folders(make_training):
    first, second, grpo = (make_training(name, [{"step": 1}]) for name in ("one/eval", "two/eval", "grpo"))
    assert list(load_runs([first, grpo])) == ["eval", "grpo"]
    assert list(load_runs([first, second])) == ["one/eval", "two/eval"]


@pytest.fixture
def page(make_run, tmp_path):
    """Three models: on MRI 50, 100 and 0 percent right; the second has answered the first two questions alone."""
    runs = {
        "one": load_run(make_run("one", [RIGHT, WRONG, RIGHT, RIGHT])),
        "two": load_run(make_run("two", [RIGHT] * 2, limit=2)),
        "ten": load_run(make_run("ten", [WRONG] * 4)),
    }
    return render_report(runs, tmp_path / "page.html", title="T", summary="")


@pytest.mark.parametrize("width", [1280, 390])
def test_tables_sort_by_click_and_by_key_and_the_reference_row_stays(page, browse, width):
    opened = browse(page, width)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    table = opened.locator("table").first

    def order():
        return [name.strip() for name in table.locator("tbody .name").all_inner_texts()]

    written = ["one", "two", "ten", "Guessing at random"]
    assert order() == written
    mri = table.locator("thead th", has_text="MRI")
    button = mri.locator("button")
    button.click()
    assert (mri.get_attribute("aria-sort"), order()) == ("ascending", ["ten", "one", "two", written[-1]])
    button.press("Enter")
    assert (mri.get_attribute("aria-sort"), order()) == ("descending", ["two", "one", "ten", written[-1]])
    button.press("Space")
    assert (mri.get_attribute("aria-sort"), order()) == (None, written)
    # Unknown values come last both ways, and the table is sorted by one column alone.
    ct = table.locator("thead th").filter(has_text=re.compile(r"^CT"))
    for expected in (["ten", "one", "two"], ["one", "ten", "two"]):
        ct.locator("button").click()
        assert order()[:3] == expected
    assert mri.get_attribute("aria-sort") is None
    table.locator("thead th", has_text="Model").locator("button").click()
    assert order()[:3] == ["one", "ten", "two"]
    # Negative differences come first; a table of unlike rows does not sort.
    differences = opened.locator("table").nth(1)
    values = differences.locator("tbody td:nth-child(2) .value")
    assert values.all_inner_texts() == ["+50.0", "−50.0"]
    differences.locator("thead th", has_text="MRI").locator("button").click()
    assert values.all_inner_texts() == ["−50.0", "+50.0"]
    assert opened.locator("table.facts button").count() == 0
