"""Runs that learn nothing from the first step on say why within ten steps. An ordinary run says nothing."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.optimizer import register_optimizer_step_pre_hook

from medvlm_r1.prompts.parser import parse_response
from medvlm_r1.training.guards import GUARDS
from medvlm_r1.training.run_folder import varying_groups

WITHIN, SEEDS = 10, (0,)
VARIED, LORA = "distinct_tokens", {"lora": {"r": 2}}


@pytest.fixture
def spoken(train, capsys):
    """A function that trains ten steps with rewards of `sample_rewards` by name; the lines of the guards by name."""

    def run(*rewards, **changes):
        trainer = {"max_steps": WITHIN, "save_strategy": "no", "per_device_train_batch_size": 8, "num_generations": 4}
        trainer |= {"max_completion_length": 8} | changes.pop("trainer", {})
        train(rewards=[{"name": f"sample_rewards:{name}"} for name in rewards], trainer=trainer, **changes)
        lines = re.findall(r"Guard \((.*?)\) at step (\d+): (.*)", capsys.readouterr().err)
        assert all(int(step) <= WITHIN for _, step, _ in lines)
        # The tiny model seldom ends its completions, which is another trouble.
        return {name: text for name, _, text in lines if name != "cut off"}

    return run


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("rewards", "changes", "name", "words"),
    [
        ((VARIED, "by_question"), {}, "constant reward", "by_question was the same for all completions of each prompt"),
        ((VARIED, "half"), {}, "constant reward", "half was 0.5 for every completion of the first 8 generations"),
        ((VARIED, "nothing"), {}, "constant reward", "ignores the completion, or no completion has earned it"),
        (
            ("equal", "format_equal"),
            {},
            "no advantage",
            "full marks, so nothing was learned.*medvlm-r1 data difficulty",
        ),
        (("format_equal", "accuracy_nothing"), {}, "never correct", "Parsed answer: .*; correct answer: '[A-D] "),
        ((VARIED,), LORA | {"trainer": {"learning_rate": 0.0}}, "untrained adapters", "B is 0 in all"),
    ],
)
def test_each_trouble_is_said_once_with_a_sample(spoken, rewards, changes, name, words, seed):
    lines = spoken(*rewards, **changes, seed=seed)
    assert lines.keys() == {name}
    assert re.search(words, lines[name])
    assert re.search(r"A sample \(q\d; sample_rewards:", lines[name])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("changes", [{}, LORA])
def test_an_ordinary_run_says_nothing(spoken, changes, seed):
    assert spoken(VARIED, "equal", **changes, seed=seed) == {}


def test_gradients_that_do_not_reach_the_adapters(train, capsys):
    """SFT has no rewards: every step should teach."""

    def clear(optimizer, *_):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad.zero_()

    handle = register_optimizer_step_pre_hook(clear)
    try:
        train("sft", **LORA, trainer={"max_steps": 6, "save_strategy": "no"})
    finally:
        handle.remove()
    assert "Guard (untrained adapters) at step 5: after 5 steps" in capsys.readouterr().err


def test_the_answer_is_parsed_as_the_evaluation_does():
    assert parse_response("<think>.</think><answer>B) knee</answer>", ("liver", "knee")).answer == "B) knee"


def row(**rewards):
    """One generation: mean, spread and share of varying groups by reward."""
    figures = {"reward": 1.0, "reward_std": 0.5, "frac_reward_zero_std": 0.2}
    for name, values in rewards.items():
        figures |= dict(
            zip((f"rewards/{name}/{key}" for key in ("mean", "std", "varying_groups")), values, strict=True)
        )
    return figures


def speaking(history):
    return {name for name, guard in GUARDS.items() if guard.detector(history)}


@pytest.mark.parametrize(
    ("history", "names"),
    [
        ([row(a=(0.4, 0.5, 0.6), b=(0.0, 0.0, 0.0))] * 7, set()),
        ([row(a=(0.4, 0.5, 0.6), b=(0.0, 0.0, 0.0))] * 8, {"constant reward"}),
        # A format that the policy knows, a reward that varied once, and rewards of which none varies.
        ([row(a=(0.4, 0.5, 0.6), b=(1.0, 0.0, 0.0))] * 20, set()),
        ([row(a=(0.4, 0.5, 0.6), b=(0.1, 0.1, 0.1)), *[row(a=(0.4, 0.5, 0.6), b=(0.0, 0.0, 0.0))] * 20], set()),
        ([row(a=(0.4, 0.5, 0.0), b=(0.3, 0.1, 0.0))] * 20, set()),
        # Well-formed, and correct once; `information` is no format.
        (
            [*[row(format=(1.0, 0, 0), accuracy=(0.0, 0, 0))] * 7, row(format=(1.0, 0, 0), accuracy=(0.1, 0.1, 0.1))],
            set(),
        ),
        ([row(information=(1.0, 0, 0), accuracy=(0.0, 0, 0))] * 8, set()),
        ([row(format=(1.0, 0, 0), accuracy=(0.0, 0, 0), length=(0.4, 0.5, 0.6))] * 8, {"never correct"}),
        # Steps that could not teach, and adapters that have moved.
        ([{"adapters_zero": 1.0, "frac_reward_zero_std": 1.0}] * 20, set()),
        ([*[{"adapters_zero": 1.0, "frac_reward_zero_std": 0.5}] * 9, {"frac_reward_zero_std": 0.5}], set()),
    ],
)
def test_histories(history, names):
    assert speaking(history) == names


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=3, max_size=3).map(tuple), min_size=1, max_size=6)
)
def test_varying_groups_against_pairs(groups):
    judged = [[value for value in group if value == value] for group in groups]
    pairs = [any(a != b for a in group for b in group) for group in judged if len(group) >= 2]
    expected = sum(pairs) / len(pairs) if pairs else None
    assert varying_groups([value for group in groups for value in group], 3) == expected
