"""The command line as a user meets it: exit codes, one message, nothing lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_import_phantom_writes_a_data_folder(command: Any, tmp_path: Path) -> None:
    code, out, _ = command("data", "import", "phantom", "--out", tmp_path / "d", "--n", 2, "--modality", "CT", "--json")
    assert code == 0
    assert json.loads(out)["written"] == 2
    assert len(list((tmp_path / "d" / "images").iterdir())) == 2


def test_evaluation_runs_resumes_and_compares(
    command: Any, tmp_path: Path, tiny_policy_dir: Path, data_dir: Path
) -> None:
    arguments = ["eval", tiny_policy_dir, "--data", data_dir, "--max-new-tokens", 4]
    code, out, _ = command(*arguments, "--out", tmp_path / "a", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"]["MRI"]["n"] == 4
    answers = (tmp_path / "a" / "answers.jsonl").read_text()
    # Interrupted in the middle of writing a line: the half line goes, the rest stays.
    lines = answers.splitlines(keepends=True)
    (tmp_path / "a" / "answers.jsonl").write_text("".join(lines[:5]) + lines[5][:40])
    (tmp_path / "a" / "results.json").unlink()
    code, again, _ = command(*arguments, "--out", tmp_path / "a", "--json")
    assert code == 0
    assert json.loads(again)["accuracy"] == json.loads(out)["accuracy"]
    command(*arguments, "--out", tmp_path / "b")
    code, out, _ = command("compare", tmp_path / "a", tmp_path / "b", "--json")
    assert code == 0
    assert json.loads(out)["all"]["difference"] == 0
    command(*arguments, "--template", "answer-only", "--limit", 5, "--out", tmp_path / "c")
    code, out, _ = command("compare", tmp_path / "a", tmp_path / "c")
    assert code == 0
    # What differs stands before the first p value.
    assert out.splitlines()[:2] == [
        "Settings differ: prompt template (medvlm-r1 and answer-only)",
        "Compared: 5 questions. Left out: 3 only in the first, 0 only in the second.",
    ]
    code, _, _ = command("report", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "r.html")
    assert code == 0
    assert "Not a medical device" in (tmp_path / "r.html").read_text()


def test_a_missing_image_is_refused_or_left_out(
    command: Any, tmp_path: Path, tiny_policy_dir: Path, data_dir: Path
) -> None:
    import shutil

    shutil.copytree(data_dir, tmp_path / "d")
    (tmp_path / "d" / "images" / "3.png").unlink()
    arguments = ["eval", tiny_policy_dir, "--data", tmp_path / "d", "--max-new-tokens", 2, "--out", tmp_path / "run"]
    code, _, err = command(*arguments)
    assert code == 1
    assert "1 of 8" in err
    assert "--skip-missing" in err
    code, out, _ = command(*arguments, "--skip-missing", "--json")
    assert code == 0
    assert json.loads(out)["n_missing"] == 1


def test_a_row_whose_answer_is_no_option_names_file_and_row(
    command: Any, tmp_path: Path, tiny_policy_dir: Path
) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    row = {"id": "x", "images": [], "question": "?", "options": ["a", "b"], "answer": "c", "modality": "CT"}
    (folder / "samples.jsonl").write_text(json.dumps(row) + "\n")
    code, _, err = command("eval", tiny_policy_dir, "--data", folder, "--out", tmp_path / "run")
    assert code == 1
    assert "samples.jsonl" in err
    assert "row 1" in err
    (folder / "samples.jsonl").write_text("")
    code, _, err = command("eval", tiny_policy_dir, "--data", folder, "--out", tmp_path / "run")
    assert code == 1
    assert "samples.jsonl" in err


def test_malformed_and_unknown_configuration(command: Any, tmp_path: Path, write_config: Any) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: [unclosed\nmethod: grpo\n")
    code, _, err = command("train", "grpo", "--config", broken)
    assert code == 2
    assert "broken.yaml" in err
    code, _, err = command("train", "grpo", "--config", write_config(), "trainer.learnin_rate=1")
    assert code == 2
    assert "learning_rate" in err
    code, _, err = command("train", "sft", "--config", write_config())
    assert code == 2
    assert "train grpo" in err


def test_train_grpo_writes_a_model(command: Any, tmp_path: Path, write_config: Any) -> None:
    code, out, _ = command("train", "grpo", "--config", write_config(), "trainer.max_steps=1")
    assert code == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert "model" in out


def test_ask_answers_one_question(command: Any, tiny_policy_dir: Path, data_dir: Path) -> None:
    question = ["--image", data_dir / "images" / "0.png", "--question", "Which organ?", "--max-new-tokens", 3]
    code, out, _ = command("ask", tiny_policy_dir, *question, "--option", "liver", "--option", "knee", "--json")
    assert code == 0
    assert set(json.loads(out)) >= {"letter", "reasoning", "well_formed", "notice"}
    code, _, err = command("ask", tiny_policy_dir, *question, "--option", "liver")
    assert code == 2
    assert "a question needs at least two" in err


@pytest.mark.parametrize("said", ["", "Stopped after step 3 of 9; the checkpoint is in runs/x."])
def test_ctrl_c_says_how_to_go_on(
    said: str, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt(said) if said else KeyboardInterrupt

    monkeypatch.setattr("medvlm_r1.demo.run_demo", interrupted)
    code, _, err = command("demo", "--out", tmp_path / "demo")
    assert code == 130
    assert (said or "Finished work is kept; re-run to resume") in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("work", "verb"),
    [
        ("medvlm_r1.phantom.benchmark.write_benchmark", ("data", "import", "phantom", "--out", "data")),
        ("medvlm_r1.evaluation.compare.compare", ("compare", "a", "b")),
    ],
)
def test_ctrl_c_promises_no_more_than_is_kept(
    work: str,
    verb: tuple[str, ...],
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work, interrupted)
    code, _, err = command(*verb)
    assert code == 130
    assert "re-running starts again" in err
    assert "work is kept" not in err


def test_runs_of_different_kinds_share_no_folder(
    command: Any, tmp_path: Path, tiny_policy_dir: Path, data_dir: Path
) -> None:
    for kind, name in (("an evaluation", "results.json"), ("a training", "config.yaml"), ("a data set", "info.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("{}")
        out = ["--data", data_dir, "--out", tmp_path / name]
        code, _, err = command("audit", "model", tiny_policy_dir, *out)
        assert code == 2
        assert f"holds {kind} ({name}); give another folder with --out" in err
        assert [path.name for path in (tmp_path / name).iterdir()] == [name]
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "answers.jsonl").write_text('{"id": "q0", "plan": ""}\n')
    code, _, err = command("eval", tiny_policy_dir, "--data", data_dir, "--out", tmp_path / "audit")
    assert code == 2
    assert "holds a model audit (answers.jsonl)" in err


def test_periodic_evaluation_needs_a_folder(command: Any, write_config: Any) -> None:
    for more in (["--dry-run"], []):
        code, _, err = command("train", "grpo", "--config", write_config(), "evaluate_every=1", *more)
        assert code == 2
        assert "evaluate_every is set, but data.eval names no folder" in err
