"""Guards: pure detectors on written histories, and short runs in which something goes wrong."""

import math

import pytest
import sample_rewards
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import At, rows, weights

from medvlm_r1.errors import UserError
from medvlm_r1.training.guards import GUARDS
from medvlm_r1.training.reliability.checkpoint import damage
from medvlm_r1.training.reliability.guard import NonFinite

WITHIN = 10

# What a step of a sound run looks like, in wide bounds.
share = st.floats(0, 0.9)
sound = st.fixed_dictionaries(
    {
        "reward": st.floats(0.05, 2),
        "reward_std": st.floats(0.05, 1),
        "frac_reward_zero_std": share,
        "completions/clipped_ratio": share,
        "completions/mean_length": st.floats(60, 150),
        "kl": st.floats(0, 0.5),
    }
)
histories = st.lists(sound, min_size=10, max_size=40)
# The same with what each guard is for.
TROUBLE = {
    "zero rewards": lambda _: {"reward": 0.0, "reward_std": 0.0, "frac_reward_zero_std": 1.0},
    "no advantage": lambda _: {"frac_reward_zero_std": 1.0, "reward": 1.5},
    "cut off": lambda _: {"completions/clipped_ratio": 1.0},
    "length collapse": lambda rows: {"completions/mean_length": 0.2 * min(values(rows, "completions/mean_length"))},
    "KL run-away": lambda rows: {"kl": 1.1 + 11 * max(values(rows, "kl"))},
}


def values(rows, name):
    return [value for row in rows if (value := row[name]) is not None]


def speaking(history):
    return {name for name, guard in GUARDS.items() if guard.detector(history)}


@given(history=histories)
def test_a_sound_run_is_left_alone(history):
    assert all(not speaking(history[:end]) for end in range(len(history) + 1))


@pytest.mark.parametrize("name", TROUBLE)
def test_each_trouble_is_found_within_ten_steps(name, tried):
    cases = 0

    @given(before=histories, after=st.lists(sound, min_size=WITHIN, max_size=WITHIN))
    def check(before, after):
        nonlocal cases
        cases += 1
        wrong = TROUBLE[name](before)
        history = [*before, *({**row, **wrong} for row in after)]
        first = next(end for end in range(len(history) + 1) if GUARDS[name].detector(history[:end]))
        assert len(before) < first <= len(before) + WITHIN
        # And no other guard takes it for its own.
        assert all(speaking(history[:end]) <= {name} for end in range(len(history) + 1))

    check()
    tried("guards-detect", cases)


def test_a_shrinking_image_gap_is_found_at_its_evaluation(tried):
    cases = 0

    @given(
        before=st.lists(st.tuples(st.floats(60, 95), st.floats(25, 35)), min_size=1, max_size=8),
        lost=st.tuples(st.floats(60, 95), st.floats(0, 30)),
        steps=histories,
    )
    def check(before, lost, steps):
        nonlocal cases
        cases += 1
        rows = []
        for accuracy, blank in before:
            rows += [*steps[:3], {"eval_accuracy": accuracy, "eval_blank_accuracy": blank}]
        accuracy, gap = lost
        rows.append({"eval_accuracy": accuracy, "eval_blank_accuracy": accuracy - gap})
        best = max(accuracy - blank for accuracy, blank in before)
        # By hand: half of the best or less, and ten points down.
        wanted = accuracy - (accuracy - gap) <= best / 2 and best - (accuracy - (accuracy - gap)) >= 10
        assert ("image gap shrinking" in speaking(rows)) == wanted

    check()
    tried("guards-detect", cases)


def test_a_held_image_gap_is_left_alone():
    rows = [{"eval_accuracy": 80.0 + step, "eval_blank_accuracy": 40.0 + step / 2} for step in range(9)]
    assert not speaking(rows)
    # An evaluation without a blank run says nothing about the gap.
    assert not speaking([*rows, {"eval_accuracy": 20.0}])


@given(st.lists(st.dictionaries(st.sampled_from(["reward", "reward_std", "kl"]), st.none()), max_size=30))
def test_missing_figures_are_no_trouble(history):
    assert not speaking(history)


# Real runs

NOTHING = [{"name": "sample_rewards:nothing"}]


def test_zero_rewards_and_cut_off_completions_are_said_once_with_a_sample(train, capsys, tried):
    train(rewards=NOTHING, trainer={"max_steps": 12, "logging_steps": 6})
    warnings = [line[line.index("Guard (") :] for line in capsys.readouterr().err.split("\n") if "Guard (" in line]
    # One token limit and no answer known: random weights are cut off, too.
    zero, cut_off = warnings
    assert zero.startswith("Guard (zero rewards) at step 5: all rewards were 0 in the last 5 generations")
    assert "A sample (q" in zero
    assert "sample_rewards:nothing 0" in zero
    assert cut_off.startswith("Guard (cut off) at step 5:")
    assert "max_completion_length" in cut_off
    tried("guards-runs", 2)


def test_a_guard_that_stops_leaves_a_checkpoint_to_go_on_from(train, tmp_path, tried):
    changes = {"rewards": NOTHING, "trainer": {"max_steps": 9}}
    with pytest.raises(UserError, match=r"(?s)zero rewards\) at step 5.*on_guard=warn resumes") as stopped:
        train(on_guard="stop", **changes)
    assert stopped.value.exit_code == 1
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("checkpoint-*")] == ["checkpoint-5"]
    run = train(on_guard="warn", **changes)
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == list(range(1, 10))
    tried("guards-runs", 1)


def test_a_guard_at_the_last_step_takes_no_model_away(train, capsys, tmp_path, tried):
    # The last generation is learned from twice, so the fifth ends with the run.
    for number, trainer in enumerate([{"max_steps": 5}, {"max_steps": 10, "num_iterations": 2}]):
        changes = {"rewards": NOTHING, "trainer": {**trainer, "save_strategy": "no"}}
        assert (train(on_guard="stop", out=str(tmp_path / str(number)), **changes) / "model").is_dir()
        assert capsys.readouterr().err.count("Guard (zero rewards)") == 1
    tried("guards-runs", 2)


def test_an_infinite_reward_stops_the_run_before_the_weights_know(train, tmp_path, tried):
    rewards = [{"name": "sample_rewards:infinite_at_third"}]
    with pytest.raises(NonFinite) as stopped:
        train(rewards=rewards, trainer={"max_steps": 6, "save_steps": 1})
    message = str(stopped.value)
    ids = set(message.partition("The batch: ")[2].partition(". ")[0].split(", "))
    assert ids == {row["sample_id"] for row in sample_rewards.SEEN[8:]}
    for words in (
        "After step 2 of 6, a reward sample_rewards:infinite_at_third is inf.",
        *("checkpoint-2 is good", "trainer.learning_rate (now 0.001)", "A sample (q"),
    ):
        assert words in message
    last = tmp_path / "run/checkpoints/checkpoint-2"
    assert damage(last) is None
    assert all(torch.isfinite(tensor).all() for tensor in weights(last).values())
    assert not (tmp_path / "run/model").exists()
    tried("guards-non-finite", 1)


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_weights_that_burst_reach_neither_checkpoint_nor_model(train, tmp_path, method, tried):
    # Adam's first step is the learning rate itself, whatever the gradient.
    trainer = {"max_steps": 4, "save_steps": 1, "learning_rate": 1e39}
    rewards = {"rewards": [{"name": "sample_rewards:distinct_tokens"}]} if method == "grpo" else {}
    with pytest.raises(NonFinite, match=r"After step 1 of 4, the weight .* is not finite") as stopped:
        train(method, **rewards, trainer=trainer)
    assert "The batch: q" in str(stopped.value)
    assert "there is no checkpoint yet" in str(stopped.value)
    assert not list((tmp_path / "run/checkpoints").glob("*checkpoint*"))
    assert not (tmp_path / "run/model").exists()
    tried("guards-non-finite", 1)


def test_a_gradient_that_bursts_stops_the_run(train, tried):
    def burst(module, args, output):
        if isinstance(output, torch.Tensor) and output.requires_grad:
            output.register_hook(lambda gradient: gradient * math.inf)

    handle = torch.nn.modules.module.register_module_forward_hook(burst)
    try:
        with pytest.raises(NonFinite, match=r"After step 0 of 2, the norm of the gradient is (nan|inf)"):
            train("sft")
    finally:
        handle.remove()
    tried("guards-non-finite", 1)


def test_sampling_from_what_is_no_distribution_is_explained(train, monkeypatch, tried):
    multinomial = torch.multinomial
    monkeypatch.setattr(torch, "multinomial", lambda given, *args, **kw: multinomial(given * math.nan, *args, **kw))
    with pytest.raises(NonFinite, match="the distribution of the next token is NaN or Inf"):
        train()
    tried("guards-non-finite", 1)


def test_guards_know_the_steps_before_a_break(train, capsys):
    changes = {"rewards": NOTHING, "trainer": {"max_steps": 6}}
    with pytest.raises(KeyboardInterrupt):
        train(progress=At(3), **changes)
    assert "Guard" not in capsys.readouterr().err
    train(**changes)
    assert "Guard (zero rewards) at step 5" in capsys.readouterr().err
