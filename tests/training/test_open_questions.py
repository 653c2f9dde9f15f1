"""Training on questions without options, alone and among questions with options."""

import math
from dataclasses import replace

import pytest
from runs import rows

from medvlm_r1.data import read_folder, write_folder
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo
from medvlm_r1.training.loop import _datasets, load_sets

REWARDS = [{"name": "accuracy_strict"}, {"name": "open_answer"}, {"name": "sample_rewards:distinct_tokens"}]


@pytest.fixture
def mixed(tmp_path, data_dir):
    """A data folder whose even questions are open."""
    samples = [
        replace(s, images=(), options=() if n % 2 == 0 else s.options) for n, s in enumerate(read_folder(data_dir))
    ]
    write_folder(tmp_path / "mixed", samples, info={})
    return {"train": str(tmp_path / "mixed")}


def test_each_reward_judges_its_own_questions(write_config, mixed, tmp_path):
    own = tmp_path / "own.tsv"
    own.write_text("liver\thepar\n")
    data = mixed | {"synonyms": str(own)}
    trainer = {"max_steps": 4, "per_device_train_batch_size": 2}
    config = load_config(write_config(rewards=REWARDS, data=data, trainer=trainer))
    run = train_grpo(config).parent
    rollouts = rows(run / "rollouts.jsonl")
    assert len({row["sample_id"] for row in rollouts}) == 4
    for row in rollouts:
        opened = int(row["sample_id"][1]) % 2 == 0
        judged = {name: value is not None for name, value in row["rewards"].items()}
        assert judged == {"accuracy_strict": not opened, "open_answer": opened, "sample_rewards:distinct_tokens": True}
        assert math.isfinite(row["advantage"])
    own.write_text("liver\tjecur\n")
    (run / "model").rename(run / "old")
    with pytest.raises(UserError, match=r"another data: train.synonyms"):
        train_grpo(config)


def test_sft_learns_letters_and_the_texts_of_open_answers(write_config, mixed):
    config = load_config(write_config("sft", data=mixed))
    rows = _datasets(config, load_sets(config, None))["train_dataset"]
    assert [row["completion"][0]["content"] for row in rows][:4] == ["liver", "B", "brain", "D"]


@pytest.mark.parametrize(
    ("rewards", "changes", "message"),
    [
        (REWARDS[:1], {}, "4 open questions, the first 'q0'.*reward open_answer"),
        ([REWARDS[1], {"name": "grounded"}], {}, "4 open questions, .*not with grounded"),
        (REWARDS[:1], {"synonyms": "x.tsv"}, "data.synonyms is for the reward open_answer"),
        (REWARDS, {"synonyms": "x.tsv"}, "x.tsv: the synonyms cannot be read"),
    ],
)
def test_what_cannot_be_trained_is_refused(write_config, mixed, rewards, changes, message):
    with pytest.raises((UserError, UsageError), match=message):
        train_grpo(load_config(write_config(rewards=rewards, data=mixed | changes)))
