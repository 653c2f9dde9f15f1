"""The page: figures, items and curves are on it, model text is only text, and nothing is fetched."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medvlm_r1.console import accuracy_lines
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.report import RunView, load_run, render_report
from medvlm_r1.report.items import choose_items
from medvlm_r1.report.page import template_text

RunMaker = Callable[..., Path]
RIGHT = "<think>Looks like it.</think><answer>B</answer>"
WRONG = "<think>Looks like it.</think><answer>A</answer>"
HOSTILE = (
    '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(1)>"\'&amp;{{ 7*7 }}\u202e</main>'
)


class Reader(HTMLParser):
    """Collects tags with their attributes, and the visible text."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def assert_sealed(path: Path) -> None:
    """Nothing is fetched, and nothing runs but the one script, which the page's policy knows by its hash."""
    page = re.sub(r"base64,[\w+/=]+", "", path.read_text(encoding="utf-8"))
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert scripts == [template_text("sort.js")]
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<iframe|javascript:", page.replace(scripts[0], ""))
    assert not re.search(r"https?:|fetch|import|eval|innerHTML|document\.write", scripts[0])
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(attrs["content"] for tag, attrs in read(path).tags if "http-equiv" in attrs)
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )


def assert_only_text(page: Reader) -> None:
    """`HOSTILE`, which the page shows, has become text: no tag or attribute of it is one of the page."""
    assert not {"iframe", "object", "embed", "form", "link"} & {tag for tag, _ in page.tags}
    assert all((attrs["src"] or "").startswith("data:") for tag, attrs in page.tags if tag == "img")
    assert all((attrs["href"] or "").startswith("#") for tag, attrs in page.tags if tag == "a")
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "alert(1)" in page.text
    assert "{{ 7*7 }}" in page.text


def read(path: Path) -> Reader:
    reader = Reader(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def render(runs: dict[str, RunView], tmp_path: Path, **arguments: object) -> Reader:
    path = render_report(runs, tmp_path / "report.html", title="A title", summary="In plain words.", **arguments)  # type: ignore[arg-type]
    return read(path)


def test_the_whole_page(make_run: RunMaker, make_training: RunMaker, tmp_path: Path) -> None:
    training = make_training("grpo", [{"step": n, "reward": 0.1 * n, "loss": 0.2} for n in range(1, 6)])
    runs = {
        "Zero-shot": load_run(make_run("base", [RIGHT, WRONG, "the answer is B", "no idea ..."])),
        "GRPO": load_run(make_run("tuned", [RIGHT] * 4), training=training),
    }
    page = render(
        runs,
        tmp_path,
        notes=["`medvlm-r1 demo` makes it."],
        domains={"MRI": "in domain"},
        paper={"MedVLM-R1": {"Mean": 78.22}},
    )
    text = page.text
    for wanted in (
        "A title",
        "In plain words.",
        "MRI in domain",
        "50.0",
        "9.5–90.5",
        "1 of 2",
        "100.0",
        "Guessing at random",
        "+75.0",
        "gained 3, lost 0 of 4",
        "Lesion Grading",
        "78.22",
        "medvlm-r1 demo makes it.",
        "Reward",
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
        assert wanted in text
    assert text.count(RESEARCH_USE) >= 3
    assert [tag for tag, _ in page.tags].count("img") == 4
    assert_sealed(tmp_path / "report.html")


@pytest.mark.parametrize("text", [HOSTILE, f"<think>{HOSTILE}</think><answer>{HOSTILE}</answer>", f"<answer>{HOSTILE}"])
def test_hostile_model_text_stays_text(make_run: RunMaker, tmp_path: Path, text: str) -> None:
    view = load_run(make_run("run", [text] * 4))
    page = render({HOSTILE: view}, tmp_path, notes=[HOSTILE, f"`{HOSTILE}`"], domains={"MRI": HOSTILE}, items=["q0"])
    assert_only_text(page)


def test_hostile_questions_options_and_metrics_stay_text(
    samples_dir: Path, make_run: RunMaker, make_training: RunMaker, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (samples_dir / "samples.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"question": HOSTILE, "options": [HOSTILE, "kidney"], "question_type": HOSTILE, "modality": HOSTILE}
    (samples_dir / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = make_training("grpo", [{"step": 1, f"rewards/{HOSTILE}/mean": 1.0}])
    page = render({"run": load_run(make_run("run", [RIGHT] * 4), training=training)}, tmp_path, items=1)
    assert_only_text(page)


def test_half_a_character_does_not_stop_the_page(make_run: RunMaker, tmp_path: Path) -> None:
    render({"run": load_run(make_run("run", ["\ud83d"] * 4))}, tmp_path)


def test_a_missing_published_figure_is_a_dash(make_run: RunMaker, tmp_path: Path) -> None:
    page = render({"run": load_run(make_run("run", [RIGHT] * 4))}, tmp_path, paper={"A": {"Mean": 55.11}, "B": {}})
    assert "A 55.11 B –" in page.text


def test_an_evaluation_alone_has_no_empty_sections(make_run: RunMaker, tmp_path: Path) -> None:
    text = render({"run": load_run(make_run("run", [RIGHT] * 4))}, tmp_path).text
    assert "Training" not in text
    assert "Differences" not in text
    assert "paper’s own" not in text


def test_a_training_alone_has_curves_only(make_training: RunMaker, tmp_path: Path) -> None:
    text = render({"grpo": load_run(make_training("grpo", [{"step": 1, "reward": 1.0}]))}, tmp_path).text
    assert "Reward" in text
    assert "Accuracy" not in text
    assert "Behind the figures" not in text
    assert RESEARCH_USE in text


def test_open_questions_are_counted_apart(make_run: RunMaker, samples_dir: Path, tmp_path: Path) -> None:
    samples = read_folder(samples_dir)
    write_folder(samples_dir, [replace(s, options=()) if n > 1 else s for n, s in enumerate(samples)], info={})
    runs = {name: load_run(make_run(name, [RIGHT, text, WRONG, WRONG])) for name, text in (("a", RIGHT), ("b", WRONG))}
    text = render(runs, tmp_path).text
    assert "50.0 9.5–90.5 1 of 2" in text
    assert "Open questions (not in the accuracy) 2 2" in text
    assert (
        "b: Compared: 2 questions. Left out: 0 only in the first, 0 only in the second, 2 open questions in b" in text
    )
    assert "open question: correct only if it matches the reference text" in text


def test_a_run_of_open_questions_alone_says_so(make_run: RunMaker, samples_dir: Path, tmp_path: Path) -> None:
    write_folder(samples_dir, [replace(s, options=()) for s in read_folder(samples_dir)], info={})
    view = load_run(make_run("run", [RIGHT] * 4))
    assert "Open questions (not in the accuracy) 4" in render({"run": view}, tmp_path).text
    assert view.results is not None
    lines = accuracy_lines(view.results)
    assert lines[0] == "No question has options, so there is no accuracy."
    assert lines[-1].startswith("open questions (without options) 4, included above only in")


def test_what_differs_between_compared_runs_is_said(make_run: RunMaker, samples_dir: Path, tmp_path: Path) -> None:
    runs = {"one": load_run(make_run("one", [RIGHT] * 4)), "few": load_run(make_run("few", ["B"] * 3, limit=3))}
    runs["bare"] = load_run(make_run("bare", ["B"] * 4, template="answer-only"))
    (samples_dir / "images" / "1.png").write_bytes((samples_dir / "images" / "0.png").read_bytes())
    runs["mirrored"] = load_run(make_run("mirrored", [RIGHT] * 4))
    text = render(runs, tmp_path).text
    assert "few: Compared: 3 questions. Left out: 1 only in the first, 0 only in the second." in text
    assert "bare: Settings differ: prompt template (medvlm-r1 and answer-only). Compared: 4 questions." in text
    assert "mirrored: not compared. one and mirrored: 1 of 4 ids they share stand for different items; 'q1'" in text


def test_runs_on_other_data_have_rows_and_no_differences(make_run: RunMaker, samples_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(samples_dir, other)
    file = other / "samples.jsonl"
    file.write_text(file.read_text().replace('"id": "q', '"id": "other-q').replace("Question", "Another question"))
    runs = {"one": load_run(make_run("one", [RIGHT] * 4)), "two": load_run(make_run("two", [WRONG] * 4, data=other))}
    page = render(runs, tmp_path, items=["q0"])
    assert "Differences" not in page.text
    assert f"models/two, on {tmp_path.name}/other" in page.text
    assert str(tmp_path) not in page.text
    assert "Another question" not in page.text


def test_an_image_that_is_gone_is_said_to_be(make_run: RunMaker, samples_dir: Path, tmp_path: Path) -> None:
    run = make_run("run", [RIGHT] * 4)
    (samples_dir / "images" / "0.png").write_bytes(b"broken")
    page = render({"run": load_run(run)}, tmp_path, items=["q0", "q1"])
    assert "This image is not available" in page.text
    assert [tag for tag, _ in page.tags].count("img") == 1


def test_items_are_picked_without_their_answers(make_run: RunMaker, tmp_path: Path) -> None:
    right, wrong = load_run(make_run("right", [RIGHT] * 4)), load_run(make_run("wrong", [WRONG] * 4))
    assert choose_items({"run": right}, 3) == choose_items({"run": wrong}, 3)
    assert len(choose_items({"run": right}, 99)) == 4
    assert choose_items({"training": RunView()}, 3) == []
    modalities = {answer.sample.id: answer.sample.modality for answer in right.answers}
    assert [modalities[name] for name in choose_items({"run": right}, 3)] == ["MRI", "CT", "OCT"]


def test_items_all_models_answered_come_first(make_run: RunMaker) -> None:
    runs = {"all": load_run(make_run("all", [RIGHT] * 4)), "two": load_run(make_run("two", [RIGHT] * 2, limit=2))}
    assert set(choose_items(runs, 6)) == {"q0", "q1"}


def test_an_unknown_item_is_an_error_and_leaves_no_page(make_run: RunMaker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'q9'"):
        render({"run": load_run(make_run("run", [RIGHT] * 4))}, tmp_path, items=["q9"])
    assert not (tmp_path / "report.html").exists()


def test_answers_of_an_answer_only_model_show_no_reasoning(make_run: RunMaker, tmp_path: Path) -> None:
    page = render({"SFT": load_run(make_run("sft", ["B"] * 4, template="answer-only"))}, tmp_path, items=["q0"])
    assert "✓ Correct Answer B) kidney" in page.text
    assert "Full text" not in page.text
