"""The command line as a user meets it: exit codes, one message, nothing lost."""

import json

import pytest


def test_evaluation_runs_resumes_and_compares(command, tmp_path, tiny_policy_dir, data_dir):
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


def test_malformed_and_unknown_configuration(command, tmp_path, write_config):
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: [unclosed\nmethod: grpo\n")
    no_folder = "evaluate_every is set, but data.eval names no folder"
    for words, message in (
        (("grpo", "--config", broken), "broken.yaml"),
        (("grpo", "--config", write_config(), "trainer.learnin_rate=1"), "learning_rate"),
        (("sft", "--config", write_config()), "train grpo"),
        (("grpo", "--config", write_config(), "evaluate_every=1", "--dry-run"), no_folder),
        (("grpo", "--config", write_config(), "evaluate_every=1"), no_folder),
    ):
        code, _, err = command("train", *words)
        assert code == 2
        assert message in err


def test_ask_answers_one_question(command, tiny_policy_dir, data_dir):
    question = ["--image", data_dir / "images" / "0.png", "--question", "Which organ?", "--max-new-tokens", 3]
    code, out, _ = command("ask", tiny_policy_dir, *question, "--option", "liver", "--option", "knee", "--json")
    assert code == 0
    assert set(json.loads(out)) >= {"letter", "reasoning", "well_formed", "notice"}
    code, _, err = command("ask", tiny_policy_dir, *question, "--option", "liver")
    assert code == 2
    assert "a question needs at least two" in err


STOPPED = "Stopped after step 3 of 9; the checkpoint is in runs/x."
KEPT, LOST = "Finished work is kept; re-run to resume", "Nothing reusable was kept; re-running starts again"


@pytest.mark.parametrize(
    ("work", "words", "raised", "message"),
    [
        ("medvlm_r1.demo.run_demo", "demo --out demo", KeyboardInterrupt(STOPPED), STOPPED),
        ("medvlm_r1.demo.run_demo", "demo --out demo", KeyboardInterrupt, KEPT),
        ("medvlm_r1.phantom.benchmark.write_benchmark", "data import phantom --out data", KeyboardInterrupt, LOST),
        ("medvlm_r1.evaluation.compare.compare", "compare a b", KeyboardInterrupt, LOST),
    ],
)
def test_ctrl_c_reports_what_is_kept(work, words, raised, message, command, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise raised

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work, interrupted)
    code, _, err = command(*words.split())
    assert code == 130
    assert [text for text in (STOPPED, KEPT, LOST) if text in err] == [message]
    assert "Traceback" not in err


def test_runs_of_different_kinds_share_no_folder(command, tmp_path, tiny_policy_dir, data_dir):
    for kind, verb, name, text in (
        ("an evaluation", "audit model", "results.json", "{}"),
        ("a training", "audit model", "config.yaml", "{}"),
        ("a data set", "audit model", "info.json", "{}"),
        ("a model audit", "eval", "answers.jsonl", '{"id": "q0", "plan": ""}\n'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(text)
        code, _, err = command(*verb.split(), tiny_policy_dir, "--data", data_dir, "--out", tmp_path / name)
        assert code == 2
        assert f"holds {kind} ({name}); give another folder with --out" in err
        assert [path.name for path in (tmp_path / name).iterdir()] == [name]
