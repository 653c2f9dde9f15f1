"""The reward for what an answer takes from the image: hand cases, and what must hold of any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.rewards import resolve_reward

accuracy_strict, grounded = resolve_reward("accuracy_strict"), resolve_reward("grounded")
OPTIONS = ("knee", "brain", "lung", "liver")


def said(letter):
    return f"<think>It is bright.</think><answer>{letter}</answer>"


def reward(text, letter="B", *, own, options=OPTIONS):
    [value] = grounded(["p"], [text], letter=[letter], options=[options], own_image=[own])
    return value


@pytest.mark.parametrize(
    ("text", "own", "other"),
    [
        (said("B"), 1.0, 0.0),
        (said("A"), 0.0, 1.0),
        (said("D"), 0.0, 1.0),
        # No letter of an option, so no answer that could be another one.
        (said("E"), 0.0, 0.0),
        (said("b"), 0.0, 0.0),
        (said("knee"), 0.0, 0.0),
        (said(""), 0.0, 0.0),
        ("<think>It is bright.", 0.0, 0.0),
        ("", 0.0, 0.0),
        # Several answers are none, on either image.
        (said("A") + said("B"), 0.0, 0.0),
    ],
)
def test_hand_cases(text, own, other):
    assert reward(text, own=True) == own
    assert reward(text, own=False) == other


def test_each_completion_is_held_against_its_own_image():
    found = grounded(
        ["p"] * 4,
        [said("B"), said("B"), said("A"), [{"role": "assistant", "content": said("A")}]],
        letter=["B"] * 4,
        options=[OPTIONS] * 4,
        own_image=[True, False, True, False],
    )
    assert found == [1.0, 0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="zip"):
        grounded(["p"], [said("B")], letter=["B"], options=[OPTIONS], own_image=[])


texts = st.text() | st.sampled_from([said(letter) for letter in "ABCDEJ"])


@given(texts, st.sampled_from("ABCD"))
def test_beside_its_own_image_it_is_accuracy(text, letter):
    assert [reward(text, letter, own=True)] == accuracy_strict(["p"], [text], letter=[letter])


@given(texts, st.sampled_from("ABCD"), st.sampled_from("ABCD"))
def test_what_is_said_whatever_is_shown_is_paid_alike_whatever_it_is(text, letter, another):
    """The sum over a row of each half depends neither on the right letter nor on the answer."""
    paid = reward(text, letter, own=True) + reward(text, letter, own=False)
    assert paid == reward(text, another, own=True) + reward(text, another, own=False)
    assert paid == float(any(accuracy_strict(["p"], [text], letter=[x]) == [1.0] for x in "ABCD"))
