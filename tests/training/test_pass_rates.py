"""Training on questions of some pass rates, and easy ones first."""

import json
import shutil

import pytest
import sample_rewards

from medvlm_r1.data.difficulty import DIFFICULTY
from medvlm_r1.data.folder import read_folder
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.prompts.templates import hash_prompt, messages
from medvlm_r1.report import load_runs, render_report
from medvlm_r1.training.config import load_config
from medvlm_r1.training.dataset import select_by_difficulty

RIGHT = [0, 1, 2, 3, 4, 0, 1, 2]
"""Correct completions of four, by question."""


@pytest.fixture
def folder(data_dir, tmp_path):
    """The eight questions with their pass rates."""
    folder = shutil.copytree(data_dir, tmp_path / "rated")
    fields = {"samples": 4, "ci95": [0, 1], "cut_off": 0, "model": "tiny", "template": "medvlm-r1"}
    rows = [
        fields | {"id": s.id, "answer": s.answer, "correct": right, "key": {"prompt": hash_prompt(messages(s))}}
        for s, right in zip(read_folder(folder), RIGHT, strict=True)
    ]
    (folder / DIFFICULTY).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_range_includes_its_ends_and_the_order_is_that_of_the_pass_rates(configure, folder, capsys):
    def chosen(**data):
        config = configure(data={"train": str(folder), **data})
        samples, entry = select_by_difficulty(config, read_folder(folder))
        return [sample.id for sample in samples], entry

    assert chosen() == ([f"q{n}" for n in range(8)], None)
    ids, entry = chosen(pass_rate=[0.25, 0.75])
    assert ids == ["q1", "q2", "q3", "q6", "q7"]
    assert entry["left_out"] == {"below": 2, "above": 1}
    assert (sum(entry["all"].values()), sum(entry["used"].values())) == (8, 5)
    assert "5 of 8 samples have a pass rate from 0.25 to 0.75 (tiny, 4 completions each)" in capsys.readouterr().err
    ordered, _ = chosen(order="easy-to-hard")
    assert [RIGHT[int(name[1:])] for name in ordered] == sorted(RIGHT, reverse=True)
    assert ordered == chosen(order="easy-to-hard")[0]


def test_a_run_sees_the_easy_questions_first_and_its_report_shows_what_was_left_out(train, folder, tmp_path):
    data = {"train": str(folder), "pass_rate": [0.25, 1.0], "order": "easy-to-hard"}
    run = train(data=data, rewards=[{"name": "sample_rewards:distinct_tokens"}], trainer={"max_steps": 3})
    seen = [RIGHT[int(row["sample_id"][1:])] for row in sample_rewards.SEEN]
    assert seen == [4, 4, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1]
    assert json.loads((run / "data.json").read_text())["train"]["pass_rates"]["left_out"] == {"below": 2, "above": 0}
    page = render_report(load_runs([run]), tmp_path / "page.html", title="t", summary="s").read_text()
    section = page[page.index("Difficulty of the training questions") :]
    assert "pass rates of tiny" in section
    (run / "data.json").write_text("[")
    with pytest.raises(UserError, match=r"data.json: not the data of a training"):
        load_runs([run])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"q3"', '"q9"', "1 of 8 training samples have no pass rate .*the first 'q3'. Run 'medvlm-r1 data difficulty"),
        ('"answer": "liver"', '"answer": "knee"', "1 of 8 training samples have no pass rate for their current"),
        ('{"prompt": "', '{"prompt": "0', "the first 'q0'"),
        ('{"prompt"', '{"prompts"', "the first 'q0'"),
        (None, "", "no such file; make it with 'medvlm-r1 data difficulty"),
    ],
)
def test_pass_rates_of_other_questions_are_refused(train, folder, old, new, message):
    file = folder / DIFFICULTY
    if old:
        file.write_text(file.read_text().replace(old, new, 1))
    else:
        file.unlink()
    with pytest.raises(UserError, match=message):
        train(data={"train": str(folder), "pass_rate": [0, 1]})


def test_no_question_left(train, folder):
    with pytest.raises(UserError, match=r"0 of 8 samples .*Left out: 7 below, 1 above. Set a wider data.pass_rate"):
        train(data={"train": str(folder), "pass_rate": [0.9, 0.95]})


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("grpo", ["data.pass_rate=[0.9, 0.1]"], r"wanted \[lowest, highest\]"),
        ("grpo", ["data.pass_rate=[0.1]"], "data.pass_rate"),
        ("grpo", ["data.pass_rate=[0.1, 2]"], "less than or equal to 1"),
        ("grpo", ["data.order=hard"], "easy-to-hard"),
        ("grpo", ["data.order=easy-to-hard", "trainer.shuffle_dataset=true"], "leave one of them out"),
        ("sft", ["data.order=easy-to-hard"], "data.order is for method grpo"),
    ],
)
def test_wrong_keys_are_refused(write_config, method, changes, message):
    with pytest.raises(UsageError, match=message):
        load_config(write_config(method), changes)
