import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.prompts.parser import (
    answer_text,
    is_well_formed,
    live_parts,
    parse_response,
    strict_letter,
    with_reasoning_opened,
)

# The release's own patterns, as facts to compare with: an independent second implementation.
STRICT = re.compile(r"<answer>\s*([A-Z])\s*</answer>")
FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)

PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", "<ANSWER>", "</Answer>", "<anſwer>"),
    *(" ", "\n", "B", "b)", "is C", "<", "x"),
]
tagged = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
texts = st.text() | tagged
option_lists = st.lists(st.text(max_size=12) | st.sampled_from(["B", "Lung", "No lung", "T2", "+"]), max_size=10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think> The rim is bright. </think>\n<answer> B </answer>", ("The rim is bright.", "B", "B", "B", True)),
        ("", (None, None, None, None, False)),
        ("<think>It could be A) or", (None, None, None, None, False)),
        # Cut off in the answer.
        ("<think>r</think><answer>B", ("r", None, None, "B", False)),
        # Empty tags are not absent.
        ("<think></think><answer></answer>", ("", "", None, None, True)),
        # Only a capital letter alone in a lower-case tag is a strict letter; the first such tag counts.
        ("before <answer>\n B\t</answer> after", (None, "B", "B", "B", False)),
        ("<answer>x</answer><answer>C</answer>", (None, "x", "C", "C", False)),
        ("<answer>B</answer><answer>C</answer>", (None, "B", "B", "B", False)),
        ("<answer>Z</answer>", (None, "Z", "Z", "Z", False)),
        ("<answer>b</answer>", (None, "b", None, "B", False)),
        ("<answer>B.</answer>", (None, "B.", None, "B", False)),
        ("<ANSWER>B</ANSWER>", (None, "B", None, "B", False)),
        # The whole text must have the form, in lower case.
        ("<think>a</think> \n\t<answer>B</answer>", ("a", "B", "B", "B", True)),
        ("<think>a\nb</think><answer>c\nd</answer>", ("a\nb", "c\nd", None, None, True)),
        ("<think>a</think><answer>B</answer> x <answer>C</answer>", ("a", "B", "B", "B", True)),
        ("<think>a</think><answer>B</answer>\n", ("a", "B", "B", "B", False)),
        (" <think>a</think><answer>B</answer>", ("a", "B", "B", "B", False)),
        ("<think>a</think>x<answer>B</answer>", ("a", "B", "B", "B", False)),
        ("<THINK>a</THINK><answer>B</answer>", ("a", "B", "B", "B", False)),
    ],
)
def test_responses_by_hand(text, expected):
    response = parse_response(text, ["x", "y", "z"])
    fields = ("reasoning", "answer", "letter", "lenient_letter", "well_formed")
    assert tuple(getattr(response, field) for field in fields) == expected


@given(texts)
@example("<think></think><answer>")
@example("<think></think></answer>")
def test_patterns_of_the_release_agree(text):
    assert is_well_formed(text) == bool(FORMAT.fullmatch(text))
    match = ANSWER.search(text)
    assert answer_text(text) == (match[1] if match else None)
    match = STRICT.search(text)
    assert strict_letter(text) == (match[1] if match else None)


@given(texts, option_lists)
def test_no_text_raises_and_the_parts_agree(text, options):
    response = parse_response(text, options)
    reasoning, answer = live_parts(text)
    assert "<think>" not in reasoning + (answer or "")
    if response.letter is not None:
        assert response.lenient_letter == response.letter
    elif response.lenient_letter is not None:
        assert response.lenient_letter in LETTERS[: len(options) or 10]
    if response.answer is not None:
        assert response.answer in text


WHOLE = "<think>A no, B yes.</think> <answer>B</answer>"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<thi", ("", None)),
        ("<think>A no</thin", ("A no", None)),
        ("<think>A no</think><answer>", ("A no", "")),
        ("<think>A no</think><answer>B</ans", ("A no", "B")),
        ("no tags at all", ("no tags at all", None)),
        ("<THINK>x</THINK><Answer>C</Answer>", ("x", "C")),
        ("signal < 3 and", ("signal < 3 and", None)),
    ],
)
def test_reasoning_and_answer_of_a_stream_are_separate(text, parts):
    assert live_parts(text) == parts


def test_the_displayed_text_only_grows_and_ends_at_the_parsed_response():
    before = ""
    for end in range(len(WHOLE) + 1):
        reasoning, answer = live_parts(WHOLE[:end])
        assert reasoning.startswith(before)
        assert "<" not in reasoning + (answer or "")
        before = reasoning
    response = parse_response(WHOLE)
    assert (reasoning, answer) == (response.reasoning, response.answer)


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("It is.</think><answer>B</answer>", True),
        ("It is.</THINK><answer>B</answer>", True),
        ("<think>It is.</think><answer>B</answer>", False),
        ("a <think>It is.</think>", False),
        ("It is.</think> no <think>", True),
        ("It is", False),
        ("", False),
    ],
)
def test_a_missing_opening_tag_is_added(text, opened):
    assert with_reasoning_opened(text) == ("<think>" if opened else "") + text
