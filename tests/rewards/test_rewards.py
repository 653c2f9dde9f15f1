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


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("B", 1.0),
        ("b", 1.0),
        (" B ", 1.0),
        ("\nB\n", 1.0),
        ("B.", 0.5),
        ("(B)", 0.5),
        ("B) Lung", 0.0),
        ("B) Liver tissue", 0.0),
        ("The answer is B", 0.0),
        ("A", 0.0),
        ("A.", 0.0),
        ("B B", 0.0),
        ("A B", 0.0),
        ("K", 0.0),
        ("", 0.0),
    ],
)
def test_accuracy_paper(answer, reward):
    assert one(accuracy_paper, f"<think>t</think><answer>{answer}</answer>") == reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<ANSWER>B</Answer>", 1.0),
        ("B", 0.0),
        ("<answer>B", 0.0),
        ("<answer>B</answer><answer>C</answer>", 1.0),
        ("<answer>C</answer><answer>B</answer>", 0.0),
        ("<answer><answer>B</answer>", 0.0),
    ],
)
def test_accuracy_paper_reads_the_first_tag_in_any_case(text, reward):
    assert one(accuracy_paper, text) == reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>a</think><answer>B</answer>", 1.0),
        ("<think>a</think>\n<answer>wrong</answer>", 1.0),
        ("<think>a</think><answer>B</answer>\n", 0.0),
        (" <think>a</think><answer>B</answer>", 0.0),
        ("<think></think><answer></answer>", 1.0),
        ("<think>a</think><answer>B</answer> x <answer>C</answer>", 1.0),
        ("<answer>B</answer>", 0.0),
    ],
)
def test_format_paper(text, reward):
    assert one(format_paper, text) == reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<answer>B</answer>", 1.0),
        ("<think>A or B</think> <answer>\nB </answer>", 1.0),
        ("<answer>b</answer>", 0.0),
        ("<answer>B.</answer>", 0.0),
        ("<answer>A</answer>", 0.0),
        ("<ANSWER>B</ANSWER>", 0.0),
        ("B", 0.0),
        ("<answer>B</answer><answer>C</answer>", 0.0),
        ("<answer>B</answer><answer>B</answer>", 0.0),
        ("<answer>B</answer><ANSWER>C</ANSWER>", 0.0),
        ("<answer>B</answer><answer>", 0.0),
        ("</answer><answer>B</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_accuracy_strict(text, reward):
    assert one(accuracy_strict, text) == reward


def test_the_maximum_of_the_paper_is_two():
    text = "<think>a</think>\n<answer>B</answer>"
    assert one(accuracy_paper, text) + one(format_paper, text) == 2.0


@pytest.mark.parametrize("name", REGISTRY)
def test_both_shapes_of_completions_and_their_order(name):
    good, bad = "<think>It is C.</think><answer>C</answer>", "no"
    told = [
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
    rewards = REGISTRY[name](prompts=["p"] * 7, completions=told, completion_ids=[[1]] * 7, **columns)
    assert rewards == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert all(type(reward) is float for reward in rewards)


@pytest.mark.parametrize("reward", [accuracy_paper, accuracy_strict])
def test_each_completion_is_held_against_its_own_letter(reward):
    texts = [f"<answer>{letter}</answer>" for letter in "ABC"]
    assert reward(prompts=[""] * 3, completions=texts, letter=["A", "C", "C"]) == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="zip"):
        reward(prompts=[""] * 3, completions=texts, letter=["A"])


def paper_accuracy_again(text, right):
    """The paper's accuracy reward a second time, step by step as the release describes it."""
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL | re.IGNORECASE)
    said = found.group(1).strip() if found else ""
    characters = [c for c in said.upper() if "A" <= c <= "J"]
    if len(characters) != 1 or characters[0] != right:
        return 0.0
    return 0.5 if re.sub(right, "", said, count=1, flags=re.IGNORECASE).strip() else 1.0


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


@given(texts, letters)
def test_no_text_raises_or_exceeds_the_maximum(text, right):
    accuracy, strict = one(accuracy_paper, text, right), one(accuracy_strict, text, right)
    assert accuracy in (0.0, 0.5, 1.0)
    assert one(format_paper, text) in (0.0, 1.0)
    assert strict in (0.0, 1.0)
    assert strict <= accuracy


@given(texts)
def test_an_open_question_has_no_right_letter(text):
    assert one(accuracy_paper, text, "") == one(accuracy_strict, text, "") == 0.0


@given(texts)
def test_at_most_one_letter_is_paid_for_one_text(text):
    for reward in (accuracy_paper, accuracy_strict):
        assert sum(one(reward, text, letter) > 0 for letter in LETTERS) <= 1


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("unit", ["<answer>", "</think><answer>", "<think>", "</answer>", "<answer> ", " ", "B"])
def test_a_million_characters_are_scored(name, unit):
    """Not timed: a quadratic pattern would keep the suite from coming to an end."""
    assert one(REGISTRY[name], "<think>" + unit * (1_000_000 // len(unit))) == 0.0


def test_consistent_pays_for_the_answer_that_the_reasoning_concludes() -> None:
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
