"""The demo with few questions and steps, on the embedded base: every stage is real, only the sizes differ."""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from medvlm_r1 import demo
from medvlm_r1.data.folder import write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.models.load import phantom_base_dir

SMALL = demo.Sizes(
    train=12, test=2, held_out=1, audit=2, overrides=("trainer.max_steps=1", "trainer.per_device_train_batch_size=8")
)


def test_embedded_base_is_small_and_loads_without_this_package():
    folder = phantom_base_dir()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 12 * 2**20
    code = (
        "import sys\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        f"model = AutoModelForImageTextToText.from_pretrained({str(folder)!r})\n"
        f"AutoProcessor.from_pretrained({str(folder)!r})\n"
        "assert type(model).__name__ == 'Qwen2VLForConditionalGeneration'\n"
        "assert not any(name.startswith('medvlm_r1') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_demo_ends_with_results_and_report_and_goes_on_after_an_interruption(tmp_path, monkeypatch):
    evaluate, calls = demo._evaluate, []

    def interrupted(model, out, stage, data):
        calls.append(stage)
        if calls.count("sft") == 1 and stage == "sft":
            raise KeyboardInterrupt
        evaluate(model, out, stage, data)

    monkeypatch.setattr(demo, "_evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path, sizes=SMALL)
    first = tmp_path / "eval" / "zero_shot" / "published" / "answers.jsonl"
    answered = first.stat().st_mtime_ns
    results = demo.run_demo(tmp_path, sizes=SMALL)
    assert first.stat().st_mtime_ns == answered
    assert json.loads((tmp_path / "results.json").read_text()) == results
    for row in ("guess", "option_prior", "zero_shot", "sft", "grpo_no_think", "grpo"):
        for figures in (results[row], results[row]["clean"]):
            assert set(figures["accuracy"]) == {"MRI", "CT", "X-ray", "mean"}
            assert {"n", "correct", "percent", "ci95"} <= figures["accuracy"]["X-ray"].keys()
            assert figures["accuracy"]["X-ray"]["n"] == 2
            if row in demo.STAGES:
                assert set(figures["favored_wrong"]) == {"MRI", "CT", "X-ray"}
    assert {"data", "zero_shot", "sft", "grpo_no_think", "grpo", "audit"} <= set(results["seconds"])
    assert set(results["audit"]) == {"sft", "grpo"}
    console = Console(file=io.StringIO(), width=100)
    demo.print_tables(results, console)
    printed = " ".join(console.file.getvalue().split())
    assert "As published: percent correct" in printed
    assert "Clean: percent correct" in printed
    assert demo.lead(results) in printed
    page = (tmp_path / "report.html").read_text()
    assert "Not a medical device" in page
    assert "not a reproduction of the paper" in page
    assert "Two models side by side" in page


def test_text_rows_by_hand(tmp_path):
    """The option prior of the training questions, and an even guess, on both test sets."""

    def write(name, answers, modality):
        shared = {"images": (), "question": "Finding?", "options": ("mass", "cyst"), "modality": modality}
        return [Sample(id=f"{name}-{modality}-{i}", answer=answer, **shared) for i, answer in enumerate(answers)]

    folders = {
        "train": write("train", ["mass", "mass", "mass", "cyst"], "MRI"),
        "published": [s for m in demo.DOMAINS for s in write("p", ["mass", "cyst", "cyst", "cyst"], m)],
        "clean": [s for m in demo.DOMAINS for s in write("c", ["mass", "cyst"], m)],
    }
    for name, samples in folders.items():
        write_folder(tmp_path / "data" / name, samples, info={})
    rows = demo._text_rows(tmp_path)
    assert rows["guess"]["accuracy"]["CT"] == {"n": 4, "correct": 2, "percent": 50, "ci95": [50, 50]}
    prior = rows["option_prior"]
    assert (prior["accuracy"]["MRI"]["correct"], prior["accuracy"]["mean"]) == (1, 25)
    assert (prior["clean"]["accuracy"]["X-ray"]["percent"], prior["clean"]["accuracy"]["mean"]) == (50, 50)
    assert prior["accuracy"]["MRI"]["ci95"][0] < 25 < prior["accuracy"]["MRI"]["ci95"][1]


def test_favored_wrong_counts_the_questions_that_offer_a_favored_option_which_is_wrong(tmp_path, monkeypatch):
    shared = {"images": (), "question": "Finding?", "options": ("mass", "cyst"), "modality": "CT"}
    train = [Sample(id=f"t{i}", answer="mass", **shared) for i in range(3)]
    write_folder(tmp_path / "data" / "train", train, info={})
    items = [Sample(id=f"p{i}", answer=answer, **shared) for i, answer in enumerate(["mass", "cyst", "cyst"])]
    items.append(Sample(id="new", answer="bleed", **{**shared, "options": ("bleed", "edema")}))
    graded = [SimpleNamespace(sample=item, correct=item.id == "p2") for item in items]
    answers = [SimpleNamespace(graded=lambda g=g: g) for g in graded]
    monkeypatch.setattr("medvlm_r1.evaluation.store.read_answers", lambda run: answers)
    shares = demo.favored_wrong(tmp_path, "sft", "published")
    assert (shares["CT"]["n"], shares["CT"]["correct"], shares["MRI"]["n"]) == (2, 1, 0)


def test_demo_of_another_seed_in_the_same_folder_is_refused(tmp_path):
    (tmp_path / "demo.json").write_text('{"seed": 3}')
    with pytest.raises(Exception, match="seed 3"):
        demo.run_demo(tmp_path, seed=0, sizes=SMALL)
