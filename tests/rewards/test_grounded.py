"""The reward for what an answer takes from the image: hand cases, and what must hold of any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.rewards import resolve_reward

accuracy_strict, grounded = resolve_reward("accuracy_strict"), resolve_reward("grounded")
OPTIONS = ("knee", "brain", "lung", "liver")


def answering(letter):
    return f"<think>It is bright.</think><answer>{letter}</answer>"


def reward(text, letter="B", *, own, options=OPTIONS):
    [value] = grounded(["p"], [text], letter=[letter], options=[options], own_image=[own])
    return value


@pytest.mark.parametrize(
    ("text", "own", "other"),
    [
        (answering("B"), 1.0, 0.0),
        (answering("A"), 0.0, 1.0),
        (answering("D"), 0.0, 1.0),
        # No letter of an option, so no answer that could be another one.
        (answering("E"), 0.0, 0.0),
        (answering("b"), 0.0, 0.0),
        (answering("knee"), 0.0, 0.0),
        (answering(""), 0.0, 0.0),
        ("<think>It is bright.", 0.0, 0.0),
        ("", 0.0, 0.0),
        # Several answers are none, on either image.
        (answering("A") + answering("B"), 0.0, 0.0),
    ],
)
def test_hand_cases(text, own, other):
    assert reward(text, own=True) == own
    assert reward(text, own=False) == other


def test_each_completion_is_compared_with_its_own_image():
    completions = [*map(answering, "BBA"), [{"role": "assistant", "content": answering("A")}]]
    own = [True, False, True, False]
    rewards = grounded(["p"] * 4, completions, letter=["B"] * 4, options=[OPTIONS] * 4, own_image=own)
    assert rewards == [1.0, 0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="zip"):
        grounded(["p"], [answering("B")], letter=["B"], options=[OPTIONS], own_image=[])


texts = st.text() | st.sampled_from([answering(letter) for letter in "ABCDEJ"])


@given(texts, st.sampled_from("ABCD"))
def test_with_its_own_image_it_is_accuracy(text, letter):
    assert [reward(text, letter, own=True)] == accuracy_strict(["p"], [text], letter=[letter])


@given(texts, st.sampled_from("ABCD"), st.sampled_from("ABCD"))
def test_an_answer_that_ignores_the_image_gets_the_same_whatever_it_is(text, letter, another):
    """The sum over a row of each half depends neither on the right letter nor on the answer."""
    total = reward(text, letter, own=True) + reward(text, letter, own=False)
    assert total == reward(text, another, own=True) + reward(text, another, own=False)
    assert total == float(any(accuracy_strict(["p"], [text], letter=[x]) == [1.0] for x in "ABCD"))
