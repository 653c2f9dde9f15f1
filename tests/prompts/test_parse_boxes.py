"""Boxes of a completion: what counts, what is malformed, and that a written box is parsed back."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.prompts.boxes import box_text, parse_boxes, without_boxes

T, A = "<think>It is bright.</think>", "<answer>B</answer>"
BOX, EDGES = "<box>120,400,200,550</box>", (0.12, 0.4, 0.2, 0.55)


@pytest.mark.parametrize(
    ("text", "boxes", "malformed"),
    [
        (f"{T}{BOX}{A}", 1, 0),
        (f"{T}{A}", 0, 0),
        ("", 0, 0),
        (f"{T}{BOX}\n{BOX}{A}", 2, 0),
        (f"{T}<box> 120 ,\n400, 200,550 </box>{A}", 1, 0),
        # At any place after the reasoning, also without an answer.
        (f"{T}The mass: {BOX}", 1, 0),
        (f"{T}{A}{BOX}", 1, 0),
        (BOX, 1, 0),
        # In the reasoning.
        (f"<think>At {BOX}</think>{A}", 0, 0),
        (f"<THINK>At {BOX}</THINK>{A}", 0, 0),
        (f"<think>At {BOX}", 0, 0),
        (f"At {BOX}</think>{BOX}{A}", 1, 0),
        (f"{T}{BOX}{T.replace('It', BOX)}{A}", 1, 0),
        (f"<think><think>a</think>{BOX}", 1, 0),
        (f"{T}<box>120,400,<think>x</think>200,550</box>", 0, 2),
        # Malformed.
        *(
            (f"{T}<box>{inside}</box>{A}", 0, 1)
            for inside in (
                *("", "a", "1,2,3", "1,2,3,4,5", "1 2 3 4", "1;2;3;4", "1,2,3,"),
                *("-1,2,3,4", "+1,2,3,4", "1.0,2,3,4", "1e2,2,300,4", "00001,2,3,4", "1,2,nan,4", "٠,١,٢,٣"),
                *("5,2,5,4", "5,2,3,4", "1,4,3,4", "0,0,1001,9", "(1,2),(3,4)", "[1,2,3,4]"),
            )
        ),
        (f"{T}<box>1,2,3,4{A}", 0, 1),
        (f"{T}1,2,3,4</box>{A}", 0, 1),
        (f"{T}<box>{BOX}{A}", 1, 1),
        (f"{T}{BOX}</box>{A}", 1, 1),
        (f"{T}<BOX>1,2,3,4</BOX>{A}", 0, 1),
        (f"{T}<box >1,2,3,4</box>{A}", 0, 2),
        (f"{T}<boxes>1,2,3,4</boxes>{A}", 0, 0),
        (f"{T}<box>0,0,1000,1000</box>{A}", 1, 0),
    ],
)
def test_what_counts(text, boxes, malformed):
    parsed = parse_boxes(text)
    assert (len(parsed.boxes), parsed.malformed, parsed.count) == (boxes, malformed, boxes + malformed)
    assert {*parsed.boxes} <= {EDGES, (0, 0, 1, 1)}


def test_pixels_of_the_resized_image():
    parsed = parse_boxes("<box>39.2,98,78.45,196.0</box><box>1,2,393,4</box><box>1,2,3,4.567</box>", (392, 196))
    assert parsed.boxes == ((39.2 / 392, 0.5, 78.45 / 392, 1.0),)
    assert parsed.malformed == 2


PIECES = [
    "<think>",
    "</think>",
    "<box>",
    "</box>",
    "<answer>",
    "1",
    "20",
    "999",
    "1000",
    "1001",
    ",",
    " ",
    "x",
    "<",
    "<BOX",
]
texts = st.text() | st.lists(st.sampled_from([*PIECES, BOX, BOX[:12]]), max_size=20).map("".join)


def slow_boxes(text):
    """An independent implementation: character by character, without a pattern for a whole box."""
    inside = "</think>" in text and "<think>" not in text.split("</think>")[0]
    outside = [""]
    while text:
        if text.startswith("</think>" if inside else "<think>"):
            text, inside = text[8 if inside else 7 :], not inside
            outside.append("")
        elif text.startswith("</think>"):
            text = text[8:]
            outside.append("")
        else:
            outside[-1] += "" if inside else text[0]
            text = text[1:]
    boxes = []
    for part in outside:
        for candidate in part.split("<box>")[1:]:
            numbers = candidate.split("</box>")[0].split(",") if "</box>" in candidate else []
            digits = [n.strip() for n in numbers if n.strip().isdecimal() and n.isascii() and len(n.strip()) < 5]
            if len(digits) == len(numbers) == 4:
                x1, y1, x2, y2 = map(int, digits)
                if x1 < x2 <= 1000 and y1 < y2 <= 1000:
                    boxes.append((x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000))
    return boxes


@given(texts)
def test_any_text_is_parsed_as_by_hand(text):
    parsed = parse_boxes(text)
    assert list(parsed.boxes) == slow_boxes(text)
    assert parsed.malformed <= len(re.findall("</?box", text, re.IGNORECASE))
    # A letter before the text changes nothing, and a further box is one more.
    assert parse_boxes(f"x{text}") == parsed
    assert parse_boxes(f"{text}</think>{BOX}").boxes[-1] == EDGES


edge = st.floats(0, 1)
sizes = st.none() | st.tuples(st.integers(28, 2000), st.integers(28, 2000))


@given(st.tuples(edge, edge, edge, edge), sizes)
def test_a_written_box_is_parsed_back_within_half_a_step(drawn, size):
    box = (min(drawn[0], drawn[2]), min(drawn[1], drawn[3]), max(drawn[0], drawn[2]), max(drawn[1], drawn[3]))
    parsed = parse_boxes(box_text(box, size), size)
    assert (len(parsed.boxes), parsed.malformed) == (1, 0)
    steps = (1000, 1000) if size is None else (10 * size[0], 10 * size[1])
    for i, (written, true) in enumerate(zip(parsed.boxes[0], box, strict=True)):
        # A side of less than one step becomes one step.
        slack = 0.5 if box[i % 2 + 2] - box[i % 2] > 1 / steps[i % 2] else 1.5
        assert abs(written - true) * steps[i % 2] <= slack + 1e-6


def test_only_boxes_between_reasoning_and_answer_are_removed():
    assert without_boxes(f"{T}{BOX}\n{BOX}\n{A}") == f"{T}\n{A}"
    for text in (
        f"{T}{BOX}x{A}",
        f"{BOX}{T}{A}",
        f"{T}{A}{BOX}",
        f"{T}<box>a word</box>{A}",
        f"<think>{BOX}</think>{A}",
    ):
        assert without_boxes(text) == text
