import sys
from pathlib import Path

import pytest

from medvlm_r1.errors import UsageError
from medvlm_r1.rewards import REGISTRY, resolve_reward


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


def test_names():
    strict = ["accuracy_strict", "format_strict", "consistent", "grounded"]
    assert list(REGISTRY) == ["accuracy_paper", "format_paper", *strict]
    for name, reward in REGISTRY.items():
        assert resolve_reward(name) is reward
        assert reward.__name__ == name  # the name under which TRL logs it


def test_a_name_is_also_a_path():
    path = "medvlm_r1.rewards.accuracy_paper"
    assert resolve_reward(f"{path}:accuracy_paper") is resolve_reward(f"{path}.accuracy_paper")
    assert resolve_reward(f"{path}:accuracy_paper") is REGISTRY["accuracy_paper"]


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
        ("zzz", "unknown reward 'zzz' .*known: 'accuracy_paper', 'accuracy_strict', 'consistent', 'format_paper'"),
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
