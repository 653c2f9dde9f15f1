"""What is shown of a text while it is being written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.prompts.parser import live_parts, parse_response

WHOLE = "<think>A no, B yes.</think> <answer>B</answer>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ("", None)),
        ("<thi", ("", None)),
        ("<think>A n", ("A n", None)),
        ("<think>A no</thin", ("A no", None)),
        ("<think>A no</think><answer", ("A no", None)),
        ("<think>A no</think><answer>", ("A no", "")),
        ("<think>A no</think><answer>B</ans", ("A no", "B")),
        (WHOLE, ("A no, B yes.", "B")),
        ("no tags at all", ("no tags at all", None)),
        ("<THINK>x</THINK><Answer>C</Answer>", ("x", "C")),
        ("signal < 3 and", ("signal < 3 and", None)),
    ],
)
def test_reasoning_and_answer_are_kept_apart(text: str, shown: tuple[str, str | None]) -> None:
    assert live_parts(text) == shown


def test_what_is_shown_only_grows_and_ends_at_the_parsed_response() -> None:
    before = ""
    for end in range(len(WHOLE) + 1):
        reasoning, answer = live_parts(WHOLE[:end])
        assert reasoning.startswith(before)
        assert "<" not in reasoning + (answer or "")
        before = reasoning
    response = parse_response(WHOLE)
    assert (reasoning, answer) == (response.reasoning, response.answer)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "<", "a ", "B"])).map("".join))
def test_no_text_raises(text: str) -> None:
    reasoning, answer = live_parts(text)
    assert "<think>" not in reasoning + (answer or "")
