"""Rewards by name, and a user's own that cannot be called or does not return one number for each completion."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.rewards import REGISTRY, resolve_reward
from medvlm_r1.rewards.registry import DATA_COLUMNS, check_signature, checked
from medvlm_r1.training.dataset import as_dataset


@pytest.fixture
def own_rewards(tmp_path, monkeypatch):
    """A module of the user in the working directory, which is not on Python's path."""
    (tmp_path / "my_rewards.py").write_text(
        "LIMIT = 3\n"
        "def brevity(prompts, completions, **columns):\n"
        "    return [float(len(c) < LIMIT) for c in completions]\n"
    )
    (tmp_path / "my_broken_rewards.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    yield
    for name in ("my_rewards", "my_broken_rewards"):
        sys.modules.pop(name, None)


def test_names_and_paths():
    strict = ["accuracy_strict", "format_strict", "consistent", "grounded"]
    own = ["box_iou", "box_point", "format_box", "open_answer"]
    assert list(REGISTRY) == ["accuracy_paper", "format_paper", *strict, *own]
    for name in (*REGISTRY, "format_no_think", "format_think_after"):
        path = f"medvlm_r1.rewards.{name}"
        reward = resolve_reward(f"{path}:{name}")
        assert resolve_reward(f"{path}.{name}") is reward is REGISTRY.get(name, reward)
        assert reward.__name__ == name  # the name under which TRL logs it


@pytest.mark.parametrize("path", ["my_rewards:brevity", "my_rewards.brevity"])
@pytest.mark.parametrize("listed", [False, True])
def test_own_function_in_the_working_directory(own_rewards, path, listed, monkeypatch):
    if listed:
        monkeypatch.syspath_prepend(str(Path.cwd()))
    before = list(sys.path)
    assert resolve_reward(path)(prompts=["", ""], completions=["ab", "abc"]) == [1.0, 0.0]
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acuracy_paper", r"unknown reward 'acuracy_paper' .*did you mean 'accuracy_paper'\?"),
        (
            "zzz",
            "unknown reward 'zzz' .*known: 'accuracy_paper', 'accuracy_strict', 'box_iou', 'box_point', 'consistent'",
        ),
        ("", "unknown reward ''"),
        ("module:", "unknown reward 'module:'"),
        (":function", "unknown reward ':function'"),
        ("my_rewards:brevty", r"my_rewards has no 'brevty'; did you mean 'brevity'\?"),
        ("my_rewards:LIMIT", "'LIMIT' is a int, expected a function"),
        ("my_absent_rewards:f", "the module 'my_absent_rewards' cannot be imported .ModuleNotFoundError"),
        ("my_broken_rewards:f", "the module 'my_broken_rewards' cannot be imported .ZeroDivisionError"),
        ("..:f", "cannot be imported"),
        ("accuracy.paper", r"cannot be imported .*did you mean 'accuracy_paper'\?"),
    ],
)
def test_unknown_names(own_rewards, name, message):
    with pytest.raises(UsageError, match=message):
        resolve_reward(name)


def test_the_columns_are_those_of_the_data_set(data_dir):
    # `subject` and `question_type` are for counterfactual images and balance, and are dropped when a row is read.
    assert set(as_dataset(str(data_dir)).column_names) == {"prompt", "subject", "question_type", *DATA_COLUMNS}


async def waiting(prompts, completions, **columns):
    return []


def positional(completions, extra, /, **columns):
    return []


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda prompts, completions, *, age, **columns: [], "asks for the column 'age', which the data do not have"),
        (lambda completions, lettr, **columns: [], "asks for the column 'lettr'.*did you mean 'letter'"),
        (lambda prompts, completions: [], r"does not take completion_ids.*add '\*\*columns'"),
        (lambda prompts, completions, letter: [], r"does not take .*options.*add '\*\*columns'"),
        (positional, "positional only"),
        (waiting, "async function"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(function, words):
    with pytest.raises(UsageError, match=f"reward 'mine:f'.*{words}"):
        check_signature("mine:f", function)


@pytest.mark.parametrize(
    "function",
    [
        lambda prompts, completions, **columns: [],
        lambda completions, *, letter, age=None, **columns: [],
        lambda completions, blank_letter, own_image, log_metric, trainer_state, **columns: [],
        lambda **columns: [],
        # Its signature is not known.
        max,
    ],
)
def test_a_function_that_can_be_called_is_accepted(function):
    check_signature("mine:f", function)


class Broken:
    def __float__(self):
        raise TypeError


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (1.0, r"returned 1.0 \(float\)"),
        (None, r"returned None \(NoneType\)"),
        ([], "returned 0 values"),
        ([1.0], "returned 1 values"),
        ([1.0] * 4, "returned 4 values"),
        ("100", "returned a str"),
        ({"a": 1, "b": 2, "c": 3}, "returned a dict"),
        ([1.0, math.nan, 0.0], r"returned nan \(float\) for completion 1"),
        ([1.0, 0.0, "1"], r"returned '1' \(str\) for completion 2"),
        ([[1.0], [0.0], [1.0]], r"returned \[1.0\] \(list\) for completion 0"),
        ([Broken(), 0.0, 1.0], r"returned .*Broken.* for completion 0"),
        ([None, None, None], "returned None for all 3 completions"),
        (np.array([1.0, np.nan, 0.0]), "returned .*nan.* for completion 1"),
        (np.float64(1), "returned .*1.0"),
    ],
)
def test_a_result_that_is_not_one_number_each_is_named(result, words):
    function = checked("mine:f", lambda prompts, completions, **columns: result)
    with pytest.raises(UserError, match=f"The reward 'mine:f' {words}.*wanted a list of 3 numbers"):
        function(prompts=["p"] * 3, completions=["c"] * 3)


def test_a_built_in_reward_may_judge_no_completion_of_a_batch():
    assert checked("box_iou", REGISTRY["box_iou"])(["p"], completions=["c"], boxes=[None]) == [None]


@pytest.mark.parametrize(
    ("result", "numbers"),
    [
        ([1, 0.5, True], [1.0, 0.5, 1.0]),
        ((1.0, 0.0, 0.0), [1.0, 0.0, 0.0]),
        (np.array([1, 2, 3]), [1.0, 2.0, 3.0]),
        ([None, 1.0, None], [None, 1.0, None]),
        ((float(x) for x in range(3)), [0.0, 1.0, 2.0]),
    ],
)
def test_numbers_are_accepted_in_any_list(result, numbers):
    assert checked("f", lambda *_, **__: result)(["p"] * 3, ["c"] * 3) == numbers


def test_what_the_function_raises_is_named_with_its_line():
    def fails(prompts, completions, **columns):
        return [columns["age"] for _ in completions]

    with pytest.raises(UserError, match=r"'mine:f' failed with KeyError: 'age' \(.*test_reward_registry.py, line \d+"):
        checked("mine:f", fails)(prompts=[""], completions=[""])

    def refuses(prompts, completions, **columns):
        raise UserError("explained already")

    with pytest.raises(UserError, match=r"^explained already$"):
        checked("mine:f", refuses)(prompts=[""], completions=[""])


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("*, age, **columns): return [1.0]", 2, "asks for the column 'age', which the data do not have"),
        ("**columns): return 1.0", 1, "returned 1.0 (float); wanted a list of 4 numbers"),
    ],
)
def test_a_training_ends_with_one_message(body, code, message, tmp_path, monkeypatch, write_config, command):
    module = f"rewards_of_a_test_{len(body)}"
    (tmp_path / f"{module}.py").write_text(f"def own(prompts, completions, {body}\n")
    monkeypatch.chdir(tmp_path)
    # A signature is refused before a model is looked for.
    model = {"model": str(tmp_path / "no model is here")} if code == 2 else {}
    ended, _, errors = command("train", "grpo", "--config", write_config(rewards=[{"name": f"{module}:own"}], **model))
    assert ended == code
    assert f"{module}:own" in errors
    assert message in " ".join(errors.split())
    assert "Traceback" not in errors
