"""Groups without advantage are replaced, advantages are balanced, and both are logged."""

from types import SimpleNamespace

import pytest
import sample_rewards
import torch
from questions import noise, write_questions
from runs import At, rows, same_weights
from test_distributed import SCRIPT, TORCHRUN, _run

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.report import load_runs, render_report
from medvlm_r1.training.resampling import balancing_weights, check_resampling, dead_groups
from medvlm_r1.training.run_folder import group_figures

NAN = torch.nan
TEACHING = ("q0", "q5", "q6")
"""Questions of which completions get different rewards."""


def by_question(prompts, completions, *, sample_id, **columns):
    """A reward that differs between the completions of some questions alone."""
    sample_rewards.note(prompts, sample_id=sample_id)
    return [float(row % 2) if name in TEACHING else 0.25 for row, name in enumerate(sample_id)]


REWARDS = [{"name": "test_resampling.by_question"}]


def groups(run, step):
    """The questions that a step has learned from, and their advantages."""
    found = {}
    for row in rows(run / "rollouts.jsonl"):
        if row["step"] == step:
            found.setdefault(row["sample_id"], []).append(row["advantage"])
    return found


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_groups_without_advantage_are_replaced_as_long_as_attempts_are_left(train, data_dir, tmp_path, sharing):
    trainer = {"max_steps": 2, "num_generations": 2, "per_device_train_batch_size": 4, "shuffle_dataset": False}
    options = {"data": {"train": str(data_dir)}, "rewards": REWARDS, "sharing": sharing, "trainer": trainer}
    many = train(resample_dead_groups=20, out=str(tmp_path / "many"), **options)
    # Of q0 and q1 in the first step the second is replaced, and of q2 and q3 in the second both.
    assert "q0" in groups(many, 1)
    assert "q1" not in groups(many, 1)
    for step in (1, 2):
        assert set(groups(many, step)) <= set(TEACHING)
        assert len(groups(many, step)) == 2
        assert all(any(advantages) for advantages in groups(many, step).values())
    logged = rows(many / "metrics.jsonl")
    assert [row["resampled/replaced"] for row in logged] == [1, 2]
    assert all(row["resampled/drawn"] >= row["resampled/replaced"] for row in logged)
    assert [row["frac_reward_zero_std"] for row in logged] == [0, 0]
    # Every row was scored once, in the batch that drew it.
    scored = sum(2 * row["resampled/drawn"] + 4 for row in logged)
    assert len(sample_rewards.SEEN) == scored
    with pytest.raises(KeyboardInterrupt):
        train(resample_dead_groups=20, out=str(tmp_path / "again"), progress=At(1), **options)
    again = train(resample_dead_groups=20, out=str(tmp_path / "again"), **options)
    assert same_weights(many / "model", again / "model")
    none = train(resample_dead_groups=0, out=str(tmp_path / "none"), **options)
    assert set(groups(none, 1)) == {"q0", "q1"}
    assert "resampled/drawn" not in (none / "metrics.jsonl").read_text()
    assert not same_weights(many / "model", none / "model")


def test_attempts_are_limited_and_end_when_no_question_is_left(train, data_dir, tmp_path):
    trainer = {"max_steps": 1, "num_generations": 2, "per_device_train_batch_size": 4}
    options = {"data": {"train": str(data_dir)}, "rewards": [{"name": "sample_rewards:half"}], "trainer": trainer}
    drawn = {}
    for attempts in (1, 2, 50):
        run = train(resample_dead_groups=attempts, out=str(tmp_path / str(attempts)), **options)
        [row] = rows(run / "metrics.jsonl")
        assert (row["resampled/replaced"], row["frac_reward_zero_std"]) == (0, 1)
        drawn[attempts] = row["resampled/drawn"]
    # Two groups of eight questions: six questions are left, two for each attempt.
    assert drawn == {1: 2, 2: 4, 50: 6}


def test_two_processes_draw_the_same_number_of_groups(write_config, tmp_path):
    trainer = {"max_steps": 2, "num_generations": 4, "per_device_train_batch_size": 4, "shuffle_dataset": False}
    config = write_config(rewards=REWARDS, resample_dead_groups=3, trainer=trainer)
    out = tmp_path / "two"
    logged, _, _ = _run([*TORCHRUN, str(SCRIPT), str(config), str(out)], out)
    assert all(row["resampled/drawn"] % 2 == 0 and row["resampled/drawn"] > 0 for row in logged)
    for step in (1, 2):
        # Both processes may draw the same question.
        sizes = [len(advantages) for advantages in groups(out, step).values()]
        assert sum(sizes) == 8
        assert all(size % 4 == 0 for size in sizes)


def test_what_cannot_be_resampled_is_refused(train, configure):
    grounded = [{"name": "grounded"}]
    with pytest.raises(UserError, match="cannot be combined with `grounded`"):
        train(resample_dead_groups=1, rewards=grounded)
    # Two processes with 2 rows each, and groups of 4.
    args = SimpleNamespace(per_device_train_batch_size=2, steps_per_generation=1, num_generations=4)
    with pytest.raises(UserError, match="steps_per_generation is 2, no multiple of"):
        check_resampling(["accuracy_paper"], args)
    for field in ({"resample_dead_groups": 1}, {"balance": "modality"}):
        with pytest.raises(UsageError, match="are for method grpo"):
            configure("sft", **field)


def test_dead_groups_of_hand():
    rewards = torch.tensor([[1.0, 0], [0, 1], [1, NAN], [1, NAN], [NAN, NAN], [NAN, NAN], [1, NAN], [NAN, NAN]])
    # The sums of the first group are equal although its rewards differ.
    assert dead_groups(rewards, torch.tensor([1.0, 1.0]), 2) == [0, 1, 2, 3]
    assert dead_groups(rewards, torch.tensor([1.0, 1.0]), 2, separate=True) == [1, 2, 3]
    assert dead_groups(rewards, torch.tensor([1.0, 0.5]), 2) == [1, 2, 3]


def test_balancing_weights_of_hand_and_in_a_run(train, tmp_path):
    assert balancing_weights(["CT", "CT", "CT", "MRI"]) == {"CT": 4 / 6, "MRI": 2.0}
    (tmp_path / "data").mkdir()
    images = [[noise(28, 28, index)] for index in range(4)]
    folder = write_questions(tmp_path / "data", images, modality=["MRI", "CT", "CT", "CT"])
    trainer = {"max_steps": 1, "num_generations": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
    trainer |= {"optim": "sgd", "shuffle_dataset": False, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    options = {"data": {"train": str(folder)}, "rewards": [{"name": "sample_rewards:distinct_tokens"}]}
    plain = train(out=str(tmp_path / "plain"), trainer=trainer, **options)
    even = train(out=str(tmp_path / "even"), trainer=trainer, balance="modality", **options)
    # One question per subject and type: nothing to balance.
    for field in ("subject", "question_type"):
        same = train(out=str(tmp_path / field), trainer=trainer, balance=field, **options)
        assert same_weights(plain / "model", same / "model")
    assert not same_weights(plain / "model", even / "model")
    [row] = rows(even / "metrics.jsonl")
    both = [row[f"reward/{modality}"] for modality in ("MRI", "CT")]
    assert row["reward"] == pytest.approx(sum(both) / 2)
    assert both == [row[f"rewards/sample_rewards:distinct_tokens/mean/{modality}"] for modality in ("MRI", "CT")]
    assert row["rewards/sample_rewards:distinct_tokens/advantage_share"] == pytest.approx(1)
    page = render_report(load_runs([even]), tmp_path / "page.html", title="t", summary="s").read_text()
    assert all(heading in page for heading in ("Reward by modality", "What the advantages reward"))


def test_group_figures_of_hand():
    rewards = {"a": [1, 0, 1, 1], "b": [0.0, 2, 0, float("nan")]}
    figures = group_figures(rewards, {"a": 2, "b": 0.5}, 2, ["MRI", "MRI", "CT", "CT"])
    # Weighted and centered: a = 1, -1, 0, 0; b = -0.5, 0.5, 0, 0; their sum is 0.5, -0.5, 0, 0.
    assert figures == {
        "rewards/a/varying_groups": 0.5,
        "rewards/b/varying_groups": 1.0,
        "rewards/a/advantage_share": 2.0,
        "rewards/b/advantage_share": -1.0,
        "reward/MRI": 1.5,
        "frac_reward_zero_std/MRI": 0.0,
        "rewards/a/mean/MRI": 0.5,
        "rewards/b/mean/MRI": 1.0,
        "reward/CT": 2.0,
        "frac_reward_zero_std/CT": 1.0,
        "rewards/a/mean/CT": 1.0,
        "rewards/b/mean/CT": 0.0,
    }
    assert not any("share" in name or "/CT" in name for name in group_figures({"a": [1, 1]}, {"a": 1}, 2))
