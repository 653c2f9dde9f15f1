"""The gate on the blank image's answer: hand cases, and what must hold of any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.prompts.parser import strict_letter
from medvlm_r1.rewards import resolve_reward

accuracy_strict, grounded_gate = resolve_reward("accuracy_strict"), resolve_reward("grounded_gate")


def said(letter):
    return f"<think>It is bright.</think><answer>{letter}</answer>"


@pytest.mark.parametrize(
    ("answer", "blank", "reward"),
    [
        ("B", "A", 1.0),  # right, and not without the image
        ("B", None, 1.0),  # nothing could be read of the blank answer, or there is none
        ("B", "B", 0.0),  # right, but the blank image gets it too
        ("A", "B", 0.0),  # wrong where the blank image gets it right
        ("A", "A", 0.0),
        ("A", "C", 0.0),
        ("A", None, 0.0),
        ("b", "A", 0.0),  # the strict rule of accuracy holds
    ],
)
def test_hand_cases(answer, blank, reward):
    assert grounded_gate(prompts=["p"], completions=[said(answer)], letter=["B"], blank_letter=[blank]) == [reward]


def test_each_completion_is_held_against_its_own_blank_answer():
    rewards = grounded_gate(["p"] * 3, [said("B")] * 3, letter=["B", "B", "C"], blank_letter=["C", "B", "C"])
    assert rewards == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="zip"):
        grounded_gate(["p"], [said("B")], letter=["B"], blank_letter=[])


rows = st.lists(
    st.tuples(
        st.text() | st.sampled_from([said(x) for x in "ABC"]),
        st.sampled_from("ABC"),
        st.none() | st.sampled_from("ABC"),
    ),
    max_size=8,
)


@given(rows)
def test_it_is_accuracy_where_the_blank_answer_is_wrong_and_nothing_where_it_is_right(rows):
    texts, letters, blanks = ([row[place] for row in rows] for place in range(3))
    rewards = grounded_gate(texts, texts, letter=letters, blank_letter=blanks)
    accuracy = accuracy_strict(texts, texts, letter=letters)
    assert rewards == [
        0.0 if blank == letter else right for right, letter, blank in zip(accuracy, letters, blanks, strict=True)
    ]
    assert grounded_gate(texts, texts, letter=letters, blank_letter=[None] * len(texts)) == accuracy


@given(st.text() | st.sampled_from(LETTERS).map(said), st.sampled_from(LETTERS))
def test_a_policy_that_says_the_same_to_both_images_earns_nothing(text, letter):
    assert grounded_gate(["p"], [text], letter=[letter], blank_letter=[strict_letter(text)]) == [0.0]
