"""Parsing a response takes time linear in its length, whatever is in it."""

import pytest

from medvlm_r1.prompts.assistant_response import split_response, split_sentences
from medvlm_r1.prompts.boxes import parse_boxes, without_boxes
from medvlm_r1.prompts.conclusion import concluded_letter, weighings
from medvlm_r1.prompts.parser import live_parts, parse_response
from medvlm_r1.rewards.format_box import format_box

OPTIONS = ("brain", "knee", "lung", "liver")
N = 1_000_000
BOMBS = {
    "stops": ". " * (N // 2),
    "stops and small letters": ". a" * (N // 3),
    "marks, then small letters": "!" * (N // 2) + ". a" * (N // 6),
    "numbers": "1. " * (N // 3),
    "a number and marks": "1. " + "! " * (N // 2),
    "abbreviations": "e.g. " * (N // 5),
    "initials": "A.A. " * (N // 5),
    "numbers of slices": "no. 1 " * (N // 6),
    "lines": "\n \u2028" * (N // 3),
    "quotes": '."' * (N // 2),
    "white space": "B" + " " * N,
    "white space after an option": "B knee" + " " * N + "x",
    "white space around a colon": "B knee" + " " * (N // 2) + ":" + " " * (N // 2) + "x",
    "letters": "(B " * (N // 3),
    "weighed": "B knee yes " * (N // 11),
    "half a tag": "</" * (N // 2),
    "tags": "<think></answer>" * (N // 16),
    "boxes": "<box>" * (N // 10) + "<box>1,2,3,4</box>" * (N // 36),
    "half boxes": "</think>" + "<box>1,2,3,4" * (N // 24) + "</think><box>" * (N // 26),
    "numbers in a box": f"<box>{'1' * (N // 2)}{' ' * (N // 2)},",
    "boxes between": "</think>" + "<box>1,2,3,4</box> " * (N // 19),
}
READERS = {
    "split_sentences": split_sentences,
    "split_response": lambda text: split_response(f"<think>{text}</think>{text}<answer>B</answer>"),
    "split_response, around": lambda text: split_response(f"<think>x</think>{' ' * len(text)}<answer>{text}</answer>"),
    "weighings": lambda text: weighings(text, OPTIONS),
    "concluded_letter": lambda text: concluded_letter(text, OPTIONS),
    "parse_response": lambda text: parse_response(text, OPTIONS),
    "live_parts": live_parts,
    "parse_boxes": parse_boxes,
    "parse_boxes, in one": lambda text: parse_boxes(f"<box>{text}</box>", (640, 480)),
    "without_boxes": without_boxes,
    "format_box": lambda text: format_box([], [text, f"<think>x</think><box>1,2,3,4</box>{text}<answer>B</answer>"]),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_million_characters_are_read(tried, bounded_time, bomb):
    text = BOMBS[bomb]
    for read in READERS.values():
        with bounded_time():
            read(text)
    with bounded_time():
        assert "".join(split_sentences(text)) == text
    tried("reading-linear", len(READERS))
