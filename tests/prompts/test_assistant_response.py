import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.prompts.assistant_response import split_response, split_sentences

PROSE = st.text(st.sampled_from("aB1. \n,:!?()*ég"), max_size=80)


@pytest.mark.parametrize(
    "pieces",
    [
        ["Axial CT of the head, brain window. ", "There is no finding. ", "A brain no, B knee yes."],
        ["1. The image is an MRI. ", "2. It shows 3.5 cm."],
        ["B knee no. ", "A brain yes."],
        ["The answer is B. ", "It fits."],
        ["See Fig. 2, e.g. Dr. Smith. ", "Done"],
        ["Slice no. 3 is shown. ", "Next!"],
        ["- Look:\n  ", "- the lung\n\n", "- the heart"],
        ["What is it? ", "(A cyst.) ", "So."],
        ["It is approx. five. yes"],
        ["..."],
        [],
    ],
)
def test_sentences(pieces):
    assert split_sentences("".join(pieces)) == pieces


@given(PROSE)
def test_sentences_are_the_text(text):
    pieces = split_sentences(text)
    assert "".join(pieces) == text
    if re.search(r"\w", text):
        assert all(re.search(r"\w", piece) for piece in pieces)


def test_a_response_keeps_the_text_around_its_sentences():
    response = split_response("<think>\n One. Two.\n</think>\n<answer> B</answer>")
    assert (response.head, response.sentences) == ("<think>\n ", ("One. ", "Two."))
    assert response.tail == "\n</think>\n<answer>"
    assert response.with_answer_opened("One. ") == "<think>\n One.\n</think>\n<answer>"
    # Nothing is left that a tokenizer would take into the next word.
    assert response.with_reasoning("One. ") == "<think>\n One."
    assert response.with_answer_opened() == "<think>\n \n</think>\n<answer>"


def test_boxes_are_kept_with_the_whole_reasoning_only():
    response = split_response("<think>One. Two.</think> <box>1,2,3,4</box>\n<box>5,6,7,8</box> <answer>B</answer>")
    assert response.tail == "</think> <box>1,2,3,4</box>\n<box>5,6,7,8</box> <answer>"
    assert response.with_answer_opened("One. ") == "<think>One.</think> <answer>"
    assert response.with_answer_opened("...") == "<think>...</think> <answer>"
    assert split_response("<think>One.</think> <box>one</box><answer>B</answer>") is None


@given(PROSE, st.sampled_from(["", "\n", " ", " <box>1,2,3,4</box>\n"]))
def test_a_rejoined_response_is_the_response(reasoning, space):
    text = f"<think>{space[:1]}{reasoning}</think>{space}<answer>A</answer>"
    response = split_response(text)
    if re.search(r"\w", reasoning):
        assert response.with_answer_opened(*response.sentences) + "A</answer>" == text
    else:
        assert response is None


@pytest.mark.parametrize(
    "text", ["", "B", "<think>Never closed. <answer>B</answer>", "Before <think>So.</think><answer>B</answer>"]
)
def test_what_is_not_well_formed_has_no_reasoning_to_cut(text):
    assert split_response(text) is None
