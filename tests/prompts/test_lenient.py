import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import medvlm_r1
from medvlm_r1.prompts.lenient import WINDOW, letter_in_prose
from medvlm_r1.prompts.parser import parse_response

ORGANS = ["Lung", "Liver", "Spleen", "Left kidney"]


REPLIES = [json.loads(line) for line in (Path(__file__).parent / "replies.jsonl").read_text("utf-8").splitlines()]
"""Replies in the styles of several models, with the letter that a careful human reader takes, or null."""


@pytest.mark.parametrize(
    "reply", [reply for reply in REPLIES if reply["set"] in ("handed", "tag", "prose")], ids=lambda reply: reply["text"]
)
def test_replies_by_hand(reply):
    assert parse_response(reply["text"], reply["options"]).lenient_letter == reply["letter"]


@pytest.mark.parametrize("name", ["written", "written2", "written3", "fresh", "fresh2", "fresh3", "stranger"])
def test_few_letters_are_missed_and_fewer_are_wrong(name):
    rows = [reply for reply in REPLIES if reply["set"] == name]
    letters = [(parse_response(row["text"], row["options"]).lenient_letter, row) for row in rows]
    wrong = [row["text"] for letter, row in letters if letter not in (None, row["letter"])]
    missed = [row["text"] for letter, row in letters if letter is None and row["letter"]]
    assert len(rows) >= 60
    assert len(wrong) <= len(rows) / 100, wrong
    assert len(missed) <= len(rows) / 20, missed


def test_only_the_first_answer_tag_counts():
    assert parse_response("The answer is B. <answer>unclear</answer>", ORGANS).lenient_letter is None
    assert parse_response("<answer>B.</answer><answer>C.</answer>", ORGANS).lenient_letter == "B"


@pytest.mark.parametrize(
    "template", ["The answer is {}.", "{}) because of the shape", "I'd go with {}", "答案是{}", "Antwort: {}"]
)
def test_full_width_letters_are_letters(template):
    for letter in "ABCD":
        assert letter_in_prose(template.format(letter), ORGANS) == letter
        assert letter_in_prose(template.format(chr(ord(letter) + 0xFEE0)), ORGANS) == letter


@pytest.mark.parametrize(
    "template", ["not {}", "The answer is not {}.", "{} is wrong.", "I rule out {}.", "{}错误", "pas {}", "{} or C"]
)
def test_what_is_ruled_out_is_never_the_answer(template):
    for named in ("B", "the liver", "B) Liver"):
        assert letter_in_prose(template.format(named), ORGANS) is None


WORDS = [
    *("not", "is", "wrong", "or", "the answer is", "likely", "maybe", "wait,", "but", "B", "(c)", "A", "liver"),
    *("a lung", "no", "yes", ".", ",", "?", ":", "\n", "**", "\\boxed{", "}", "✅", "❌", "不是", "答案", "\ue000"),
    *("\ue014", "1. ", '{"a":'),
]


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=40).map(" ".join), st.booleans())
def test_any_text_gives_an_offered_letter_or_none(text, yes_no):
    options = ["yes", "no"] if yes_no else ORGANS
    assert letter_in_prose(text, options) in (None, *"ABCD"[: len(options)])


def test_who_reads_the_lenient_letter():
    """Neither strict accuracy nor a reward depends on it."""
    src = Path(medvlm_r1.__file__).parent
    texts = {path.relative_to(src).as_posix(): path.read_text("utf-8") for path in src.rglob("*.py")}
    importers = {name for name, text in texts.items() if "prompts.lenient" in text}
    readers = {name for name, text in texts.items() if "lenient_letter" in text}
    assert importers == {"prompts/parser.py"}
    assert readers == {"prompts/parser.py", "evaluation/score.py", "serving/answer.py", "serving/page/case.py"}


def test_a_long_answer_is_read_at_its_start_and_end():
    assert letter_in_prose("B) Liver\n\n" + "The lung is dark. " * WINDOW, ORGANS) == "B"
    assert letter_in_prose("The lung is dark. " * WINDOW + "So it is B", ORGANS) == "B"
    assert letter_in_prose("The answer is A. " + "word " * WINDOW + "The answer is B.", ORGANS) == "B"
