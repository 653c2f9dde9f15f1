"""The demo with few questions and steps, on the embedded base: every stage is real, only the sizes differ."""

import json
import subprocess
import sys

import pytest

from medvlm_r1 import demo
from medvlm_r1.models.load import phantom_base_dir

SMALL = demo.Sizes(
    train=12, test=2, held_out=1, overrides=("trainer.max_steps=1", "trainer.per_device_train_batch_size=8")
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

    def interrupted(model, out, stage, template):
        calls.append(stage)
        if calls.count("sft") == 1 and stage == "sft":
            raise KeyboardInterrupt
        evaluate(model, out, stage, template)

    monkeypatch.setattr(demo, "_evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path, sizes=SMALL)
    answered = (tmp_path / "eval" / "zero_shot" / "answers.jsonl").stat().st_mtime_ns
    results = demo.run_demo(tmp_path, sizes=SMALL)
    assert (tmp_path / "eval" / "zero_shot" / "answers.jsonl").stat().st_mtime_ns == answered
    assert json.loads((tmp_path / "results.json").read_text()) == results
    for stage in ("zero_shot", "sft", "grpo"):
        assert results[stage]["accuracy"]["X-ray"]["n"] == 2
        assert set(results[stage]["accuracy"]) == {"MRI", "CT", "X-ray", "mean"}
    assert {"zero_shot", "sft", "grpo"} <= set(results["seconds"])
    page = (tmp_path / "report.html").read_text()
    assert "Not a medical device" in page
    assert "not a reproduction of the paper" in page


def test_demo_of_another_seed_in_the_same_folder_is_refused(tmp_path):
    (tmp_path / "demo.json").write_text('{"seed": 3}')
    with pytest.raises(Exception, match="seed 3"):
        demo.run_demo(tmp_path, seed=0, sizes=SMALL)
