import re

import pytest
from hostile_completions import WANTED
from hypothesis import example, given
from hypothesis import strategies as st

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.rewards import REGISTRY, resolve_reward

accuracy_paper, format_paper, accuracy_strict, consistent = (
    resolve_reward(name) for name in ("accuracy_paper", "format_paper", "accuracy_strict", "consistent")
)

PIECES = ["<think>", "</think>", "<answer>", "</answer>", "<ANSWER>", "</Answer>", " ", "\n", "B", "b", "A", "xyz", "."]
texts = st.text() | st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
letters = st.sampled_from(LETTERS)


def one(reward, text, letter="B"):
    [value] = reward(
        prompts=["p"],
        completions=[text],
        letter=[letter],
        options=[["x", "y"]],
        sample_id=["s"],
        blank_letter=[None],
        own_image=[True],
    )
    return value


def cases(table):
    """Pairs of a text and its reward."""
    return pytest.mark.parametrize(("text", "reward"), [(t, reward) for reward, texts in table.items() for t in texts])


@cases(
    {
        1.0: ["B", "b", " B ", "\nB\n"],
        0.5: ["B.", "(B)"],
        0.0: ["B) Lung", "B) Liver tissue", "The answer is B", "A", "A.", "B B", "A B", "K", ""],
    }
)
def test_accuracy_paper(text, reward):
    assert one(accuracy_paper, f"<think>t</think><answer>{text}</answer>") == reward


@cases(
    {
        1.0: ["<ANSWER>B</Answer>", "<answer>B</answer><answer>C</answer>"],
        0.0: ["B", "<answer>B", "<answer>C</answer><answer>B</answer>", "<answer><answer>B</answer>"],
    }
)
def test_accuracy_paper_reads_the_first_tag_in_any_case(text, reward):
    assert one(accuracy_paper, text) == reward


@cases(
    {
        1.0: [
            "<think>a</think><answer>B</answer>",
            "<think>a</think>\n<answer>wrong</answer>",
            "<think></think><answer></answer>",
            "<think>a</think><answer>B</answer> x <answer>C</answer>",
        ],
        0.0: [
            "<think>a</think><answer>B</answer>\n",
            " <think>a</think><answer>B</answer>",
            "<answer>B</answer>",
        ],
    }
)
def test_format_paper(text, reward):
    assert one(format_paper, text) == reward


@cases(
    {
        1.0: ["<answer>B</answer>", "<think>A or B</think> <answer>\nB </answer>"],
        0.0: [
            *("<answer>b</answer>", "<answer>B.</answer>", "<answer>A</answer>", "<ANSWER>B</ANSWER>", "B", ""),
            *("<answer>B</answer><answer>C</answer>", "<answer>B</answer><answer>B</answer>"),
            *("<answer>B</answer><ANSWER>C</ANSWER>", "<answer>B</answer><answer>", "</answer><answer>B</answer>"),
        ],
    }
)
def test_accuracy_strict(text, reward):
    assert one(accuracy_strict, text) == reward


def test_the_maximum_of_the_paper_is_two():
    text = "<think>a</think>\n<answer>B</answer>"
    assert one(accuracy_paper, text) + one(format_paper, text) == 2.0


@pytest.mark.parametrize("name", REGISTRY)
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
    columns = {
        "letter": ["C"] * 7,
        "options": [["x", "y", "It is C"]] * 7,
        "sample_id": list("abcdefg"),
        "modality": ["CT"] * 7,
        "blank_letter": ["A"] * 7,
        "own_image": [True] * 7,
    }
    rewards = REGISTRY[name](prompts=["p"] * 7, completions=completions, completion_ids=[[1]] * 7, **columns)
    assert rewards == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert all(type(reward) is float for reward in rewards)


@pytest.mark.parametrize("reward", [accuracy_paper, accuracy_strict])
def test_each_completion_is_compared_with_its_own_letter(reward):
    texts = [f"<answer>{letter}</answer>" for letter in "ABC"]
    assert reward(prompts=[""] * 3, completions=texts, letter=["A", "C", "C"]) == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="zip"):
        reward(prompts=[""] * 3, completions=texts, letter=["A"])


def paper_accuracy_again(text, right):
    """The paper's accuracy reward a second time, step by step as the release describes it."""
    match = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL | re.IGNORECASE)
    answer = match.group(1).strip() if match else ""
    if [c for c in answer.upper() if "A" <= c <= "J"] != [right]:
        return 0.0
    return 0.5 if re.sub(right, "", answer, count=1, flags=re.IGNORECASE).strip() else 1.0


@given(texts, letters)
@example("<answer>ǰ</answer>", "J")
@example("<answer>ﬀ</answer>", "F")
@example("<anſwer>B</answer>", "B")
@example("<answer>\x1cB</answer>", "B")
def test_accuracy_paper_equals_the_second_implementation(text, right):
    assert one(accuracy_paper, text, right) == paper_accuracy_again(text, right)


FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


@given(texts)
def test_format_paper_equals_the_pattern(text):
    assert one(format_paper, text) == float(bool(FORMAT.fullmatch(text)))


@pytest.mark.parametrize("text", [text for text, _ in WANTED.values()], ids=list(WANTED))
def test_hostile_completions_get_of_the_paper_s_rewards_what_the_release_gives(text):
    assert one(format_paper, text) == float(bool(FORMAT.fullmatch(text)))
    assert [one(accuracy_paper, text, letter) for letter in LETTERS] == [
        paper_accuracy_again(text, letter) for letter in LETTERS
    ]


@given(texts)
def test_an_open_question_has_no_right_letter(text):
    assert one(accuracy_paper, text, "") == one(accuracy_strict, text, "") == 0.0


@given(texts)
def test_at_most_one_letter_is_rewarded_for_one_text(text):
    for reward in (accuracy_paper, accuracy_strict):
        assert sum(one(reward, text, letter) > 0 for letter in LETTERS) <= 1


def test_consistent_rewards_the_answer_that_the_reasoning_concludes() -> None:
    options = ("brain", "knee")
    texts = {
        "<think>A brain no, B knee yes.</think><answer>B</answer>": 1.0,
        "<think>A brain no, B knee yes.</think><answer>A</answer>": 0.0,
        "<think>I have seen it before.</think><answer>B</answer>": 0.0,
        "<think></think><answer>B</answer>": 0.0,
        "A brain no, B knee yes. <answer>B</answer>": 0.0,
        "<think>A brain no, B knee yes.</think><answer>knee</answer>": 0.0,
        "": 0.0,
    }
    given = [[{"role": "assistant", "content": text}] for text in texts]
    assert consistent([None] * len(given), given, options=[options] * len(given)) == list(texts.values())
    with pytest.raises(ValueError, match="zip"):
        consistent([None], given[:1], options=[])
