"""The rewards on cases by hand, on any text, and compared with a second implementation of the paper's."""

import re

import pytest
from hostile_completions import OPTIONS, WANTED
from hypothesis import example, given
from hypothesis import strategies as st

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.rewards import REGISTRY, resolve_reward

accuracy_paper, format_paper, accuracy_strict, grounded = (
    resolve_reward(name) for name in ("accuracy_paper", "format_paper", "accuracy_strict", "grounded")
)

PIECES = ["<think>", "</think>", "<answer>", "</answer>", "<ANSWER>", "</Answer>", " ", "\n", "B", "b", "A", "xyz", "."]
FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


def reward_of(reward, text, letter="B", own=True):
    [value] = reward(prompts=["p"], completions=[text], letter=[letter], options=[OPTIONS], own_image=[own])
    return value


def answering(letter):
    return f"<think>It is bright.</think><answer>{letter}</answer>"


@pytest.mark.parametrize(
    ("reward", "texts"),
    [
        (1.0, ["B", "b", " B ", "\nB\n"]),
        (0.5, ["B.", "(B)"]),
        (0.0, ["B) Lung", "B) Liver tissue", "The answer is B", "A", "A.", "B B", "A B", "K", ""]),
    ],
)
def test_accuracy_paper(reward, texts):
    assert [reward_of(accuracy_paper, answering(text)) for text in texts] == [reward] * len(texts)


@pytest.mark.parametrize(
    ("text", "own", "other"),
    [
        (answering("B"), 1.0, 0.0),
        (answering("A"), 0.0, 1.0),
        # No letter of an option, so no answer that could be another one.
        *((answering(text), 0.0, 0.0) for text in ("E", "b", "knee")),
        # Several answers are none, on either image.
        (answering("A") + answering("B"), 0.0, 0.0),
    ],
)
def test_grounded(text, own, other):
    assert (reward_of(grounded, text, own=True), reward_of(grounded, text, own=False)) == (own, other)


@pytest.mark.parametrize("name", [name for name in REGISTRY if name not in ("box_iou", "box_point")])
def test_both_shapes_of_completions_and_their_order(name):
    good, bad = "<think>It is C.</think><answer>C</answer>", "no"
    completions = [
        bad,
        good,
        [{"role": "assistant", "content": good}],
        [{"role": "assistant", "content": [{"type": "text", "text": good[:9]}, {"type": "text", "text": good[9:]}]}],
        [{"role": "tool", "content": "x"}, {"role": "assistant", "content": good}],
        [{"role": "assistant", "content": None}],
        [],
    ]
    columns = {"letter": ["C"], "options": [["x", "y", "It is C"]], "sample_id": ["a"], "modality": ["CT"]}
    columns |= {"blank_letter": ["A"], "own_image": [True], "question": ["Which?"], "answer": ["C"]}
    if name == "open_answer":
        columns["options"] = [[]]
    every = {column: values * 7 for column, values in columns.items()}
    rewards = REGISTRY[name](prompts=["p"] * 7, completions=completions, completion_ids=[[1]] * 7, **every)
    assert rewards == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert all(type(reward) is float for reward in rewards)
    if not name.startswith("format"):
        with pytest.raises(ValueError, match="zip"):
            REGISTRY[name](["p"] * 7, completions, **columns)


@pytest.mark.parametrize("reward", [accuracy_paper, accuracy_strict])
def test_each_completion_is_compared_with_its_own_letter(reward):
    texts = [f"<answer>{letter}</answer>" for letter in "ABC"]
    assert reward(prompts=[""] * 3, completions=texts, letter=["A", "C", "C"]) == [1.0, 0.0, 1.0]


def paper_accuracy_again(text, right):
    """The paper's accuracy reward a second time, step by step as the release describes it."""
    match = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL | re.IGNORECASE)
    answer = match.group(1).strip() if match else ""
    if [c for c in answer.upper() if "A" <= c <= "J"] != [right]:
        return 0.0
    return 0.5 if re.sub(right, "", answer, count=1, flags=re.IGNORECASE).strip() else 1.0


def check_paper(text, right):
    assert reward_of(accuracy_paper, text, right) == paper_accuracy_again(text, right)
    assert reward_of(format_paper, text) == float(bool(FORMAT.fullmatch(text)))


@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.sampled_from(LETTERS))
@example("<answer>ǰ</answer>", "J")
@example("<answer>ﬀ</answer>", "F")
@example("<anſwer>B</answer>", "B")
@example("<answer>\x1cB</answer>", "B")
def test_the_paper_s_rewards_equal_the_second_implementation(text, right):
    check_paper(text, right)


@pytest.mark.parametrize("text", [text for text, _ in WANTED.values()], ids=list(WANTED))
def test_hostile_completions_get_of_the_paper_s_rewards_what_the_release_gives(text):
    for letter in LETTERS:
        check_paper(text, letter)


@given(st.text() | st.sampled_from([answering(letter) for letter in "ABCDEJ"]), *[st.sampled_from("ABCD")] * 2)
def test_an_answer_that_ignores_the_image_gets_the_same_whatever_it_is(text, letter, another):
    """The sum over a row of each half depends neither on the correct letter nor on the answer."""
    total, other = (reward_of(grounded, text, x) + reward_of(grounded, text, x, own=False) for x in (letter, another))
    assert reward_of(grounded, text, letter) == reward_of(accuracy_strict, text, letter)
    assert total == other == float(any(reward_of(accuracy_strict, text, x) for x in "ABCD"))
