import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import medvlm_r1
from medvlm_r1.prompts.lenient import WINDOW, letter_in_prose
from medvlm_r1.prompts.parser import parse_response

ORGANS = ["Lung", "Liver", "Spleen", "Left kidney"]
FRACTURE = ["Fracture", "No fracture", "Dislocation", "None of the above."]


def inside(answer, options):
    return parse_response(f"<think>It is D) or so.</think><answer>{answer}</answer>", options).lenient_letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B.", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("b", "B"),
        ("(b)", "B"),
        ("b) liver", "B"),
        ("B) Liver tissue", "B"),
        ("B: Liver", "B"),
        ("B Liver", "B"),
        ("A Lung", "A"),
        ("Option B", "B"),
        ("The answer is B", "B"),
        ("I think B", "B"),
        ("A is right", "A"),
        ("Option A shows it", "A"),
        ("B\n\nB", "B"),
        ("B, not C", "B"),
        ("Liver", "B"),
        ("liver.", "B"),
        ("  LEFT\n KIDNEY ", "D"),
        ("the left kidney", "D"),
        ("a lung", "A"),
        ("Livers", "B"),
        ("A large mass in the liver", "B"),
        # Nothing, or more than one thing, was said.
        ("", None),
        ("   ", None),
        ("...", None),
        ("B or C", None),
        ("B) Lung", None),
        ("A, B", None),
        ("E", "E"),  # the strict letter, taken as it is
        ("E.", None),
        ("(J)", None),
        ("Lung or liver", None),
        ("not B", None),
        ("not the liver", None),
        ("kidney", None),
        ("unknown", None),
        ("B-cell lymphoma", None),
        ("anti-B", None),
        ("A mass", None),
        ("I", "I"),
        ("I am not sure", None),
        ("vitamin D", None),
    ],
)
def test_inside_the_answer_tag(answer, letter):
    assert inside(answer, ORGANS) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("No fracture", "B"),
        ("no fracture is seen", "B"),
        ("There is a fracture", "A"),
        ("There is no visible fracture", "B"),
        ("B) No fracture", "B"),
        ("A fracture", "A"),
        ("none of the above", "D"),
    ],
)
def test_longer_options_first_and_denial(answer, letter):
    assert inside(answer, FRACTURE) == letter


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (["Hepatitis C", "Hepatitis B", "Hepatitis A"], "Hepatitis C", "A"),
        (["Hepatitis C", "Hepatitis B", "Hepatitis A"], "It is hepatitis A.", "C"),
        (["Hepatitis C", "Hepatitis B", "Hepatitis A"], "B) Hepatitis B", "B"),
        (["Hepatitis C", "Hepatitis B", "Hepatitis A"], "B) Hepatitis C", None),
        (["Yes.", "No"], "yes", "A"),
        (["Yes.", "No"], "No, there is not.", "B"),
        (["Yes.", "No"], "Yes, there is no fracture", "A"),
        (["Yes.", "No"], "There is no fracture", None),
        (["Yes.", "No"], "No fracture", None),
        (["Yes.", "No"], "yes/no", None),
        (["Yes.", "No"], "It is a no.", "B"),
        (["B", "A"], "a", "A"),  # a letter is read as a letter
        (["1", "2", "3"], "2", "B"),
        (["T1", "T2", "FLAIR"], "T2-weighted", "B"),
        (["+", "-"], "-", "B"),
        (["CT", "CT", "MRI"], "ct", "A"),  # of equal options the first counts
        (["C++ (x|y)", "[a-z]*"], "it is [a-z]*", "B"),
        (["Vitamin D deficiency", "Rickets"], "Vitamin D deficiency is seen", "A"),
        ([], "(C)", "C"),
        ([], "Liver", None),
    ],
)
def test_option_texts(options, answer, letter):
    assert inside(answer, options) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("b", "B"),
        ("**B**", "B"),
        ("B) Liver", "B"),
        ("B. Liver", "B"),
        ("(B)", "B"),
        ("Liver", "B"),
        ("Liver.", "B"),
        ("The answer is B", "B"),
        ("the answer is (B).", "B"),
        ("The correct answer is: **B**", "B"),
        ("Answer: B) Liver", "B"),
        ("Answer:B", "B"),
        ("The correct option is B because of the texture.", "B"),
        ("I choose B.", "B"),
        ("The best option is B", "B"),
        ("Answer - B", "B"),
        ("Final answer: $\\boxed{B}$", "B"),
        ("A) Lung\nB) Liver\nC) Spleen\nThe answer is C.", "C"),
        ("<think>The answer is A.</think> The answer is B.", "B"),
        ("<think>The answer is A.</think>", "A"),
        ("<think>The answer is A.", "A"),
        ("It could be lung. The image shows the liver.", "B"),
        ("The lung is dark.\nTherefore it is the spleen", "C"),
        ("After looking, B) fits", "B"),
        ("The answer is A. No, the answer is B.", "B"),
        ("The spleen is pale. So, B)", "B"),
        # Nothing, or more than one thing, was said.
        ("The answer is not B", None),
        ("The answer is E", None),
        ("The answer is A tumour", None),
        ("A) Lung B) Liver", None),
        ("Either the lung or the liver.", None),
        ("It is not the liver.", None),
        ("The liver is bright. Hard to say.", None),
        ("A picture of something", None),
        ("I see nothing", None),
        ("B-cells", None),
        ("It was sent (to the LAB)", None),
        ("", None),
        ("</think></think>", None),
        ("!!!", None),
    ],
)
def test_without_an_answer_tag(text, letter):
    assert parse_response(text, ORGANS).lenient_letter == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is no.", "B"),
        ("No. There is no fracture.", "B"),
        ("No. Or rather: yes, there is.", "A"),
        ("No. Yes, there is.", "A"),
        ("Hard to say.\nYes, there is not much doubt.", "A"),
        ("There is no fracture.", None),
        ("No or yes?", None),
    ],
)
def test_yes_and_no_in_prose(text, letter):
    assert letter_in_prose(text, ["Yes", "No."]) == letter


def test_an_answer_tag_that_says_nothing_is_not_outvoted_by_the_reasoning():
    assert parse_response("The answer is B. <answer>unclear</answer>", ORGANS).lenient_letter is None


def test_only_the_first_answer_tag_is_read():
    assert parse_response("<answer>B.</answer><answer>C.</answer>", ORGANS).lenient_letter == "B"


REPLIES = [json.loads(line) for line in (Path(__file__).parent / "replies.jsonl").read_text("utf-8").splitlines()]
"""Replies in the styles of several models, with the letter that a careful human reader takes, or null."""


@pytest.mark.parametrize(
    "reply", [reply for reply in REPLIES if reply["set"] == "handed"], ids=lambda reply: reply["text"]
)
def test_replies_handed_to_us(reply):
    assert parse_response(reply["text"], reply["options"]).lenient_letter == reply["letter"]


@pytest.mark.parametrize("name", ["written", "written2", "written3", "fresh", "fresh2", "fresh3", "stranger"])
def test_few_letters_are_missed_and_fewer_are_wrong(name):
    rows = [reply for reply in REPLIES if reply["set"] == name]
    read = [(parse_response(row["text"], row["options"]).lenient_letter, row) for row in rows]
    wrong = [row["text"] for letter, row in read if letter not in (None, row["letter"])]
    missed = [row["text"] for letter, row in read if letter is None and row["letter"]]
    assert len(rows) >= 60
    assert len(wrong) <= len(rows) / 100, wrong
    assert len(missed) <= len(rows) / 20, missed


@pytest.mark.parametrize(
    "template", ["The answer is {}.", "{}) because of the shape", "I'd go with {}", "答案是{}", "Antwort: {}"]
)
@pytest.mark.parametrize("letter", "ABCD")
def test_full_width_letters_are_letters(template, letter):
    assert letter_in_prose(template.format(letter), ORGANS) == letter
    assert letter_in_prose(template.format(chr(ord(letter) + 0xFEE0)), ORGANS) == letter


@pytest.mark.parametrize(
    "template", ["not {}", "The answer is not {}.", "{} is wrong.", "I rule out {}.", "{}错误", "pas {}", "{} or C"]
)
@pytest.mark.parametrize("named", ["B", "the liver", "B) Liver"])
def test_what_is_ruled_out_is_never_the_answer(template, named):
    assert letter_in_prose(template.format(named), ORGANS) is None


WORDS = [
    "not",
    "is",
    "wrong",
    "or",
    "the answer is",
    "likely",
    "maybe",
    "wait,",
    "but",
    "B",
    "(c)",
    "A",
    "liver",
    "a lung",
]
WORDS += [
    "no",
    "yes",
    ".",
    ",",
    "?",
    ":",
    "\n",
    "**",
    "\\boxed{",
    "}",
    "✅",
    "❌",
    "不是",
    "答案",
    "\ue000",
    "\ue014",
    "1. ",
    '{"a":',
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


def test_prose_is_read_from_its_end():
    assert letter_in_prose("The answer is A. " + "word " * WINDOW + "The answer is B.", ORGANS) == "B"
