import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.base.language import reasoned
from medvlm_r1.phantom.questions import ask
from medvlm_r1.prompts.assistant_response import split_response
from medvlm_r1.prompts.conclusion import concluded_letter, contradicts, states_choice

OPTIONS = ("brain", "knee", "chest")
ORGANS = ("brain", "knee", "lung", "liver")
FINDINGS = ("Pneumonia", "Pneumothorax", "Pleural effusion", "Normal")
FORMS = ("knee", "the knee", "a knee", "B", "option B", "(B)", "B) knee", "the answer B")
"""What replaces `{x}` in the first two sets of `conclusions.jsonl`."""

ROWS = [json.loads(line) for line in (Path(__file__).parent / "conclusions.jsonl").read_text("utf-8").splitlines()]


def texts(name):
    """Reasonings of a set: they deny option B (or hedge, ask, name several), or affirm it."""
    return [row["text"] for row in ROWS if row["set"] == name]


@pytest.mark.parametrize(
    ("reasoning", "letter"),
    [
        ("Axial MRI. Region: knee. A brain no, B knee yes, C chest no.", "B"),
        ("(A) brain: no. (B) knee: no. (C) chest: yes.", "C"),
        ("A) brain - YES", "A"),
        # Changed its mind: the last verdict on an option counts.
        ("A brain yes, B knee no. On reflection A brain no, B knee yes.", "B"),
        ("A brain yes, B knee yes.", None),
        ("A brain no, B knee no, C chest no.", None),
        ("The joint is seen, so the answer is B.", "B"),
        ("The femur meets the tibia. This is a knee.", "B"),
        ("It could be the brain or the chest.", None),
        ("", None),
    ],
)
def test_what_a_reasoning_concludes(reasoning, letter):
    assert concluded_letter(reasoning, OPTIONS) == letter


@pytest.mark.parametrize("template", texts("denying"))
def test_what_denies_an_option_does_not_conclude_it(template):
    filled = [template.format(x=form) for form in FORMS]
    assert [text for text in filled if concluded_letter(text, ORGANS) == "B"] == []


@pytest.mark.parametrize("template", texts("affirming"))
def test_what_affirms_an_option_concludes_it(template):
    filled = [template.format(x=form) for form in FORMS if form != "the answer B"]
    assert [text for text in filled if concluded_letter(text, ORGANS) != "B"] == []


def test_reasonings_by_hand():
    alone = {row["text"]: row["letter"] for row in ROWS if row["set"] == "alone"}
    assert {text: concluded_letter(text, ORGANS) for text in alone} == alone
    assert [text for text in texts("findings-denying") if concluded_letter(text, FINDINGS) == "B"] == []
    assert [text for text in texts("findings-affirming") if concluded_letter(text, FINDINGS) != "B"] == []


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("No, there is no fracture.", "B"),
        ("There is no fracture, so the answer is no.", "B"),
        ("Yes, a fracture is visible.", "A"),
        ("The answer is yes.", "A"),
        ("The answer is not yes.", None),
        ("Is there a fracture? No.", "B"),
        ("There is no fracture.", None),
        ("The answer is yes. The answer is no.", None),
        ("A yes no, B no yes.", "B"),
    ],
)
def test_verdicts_of_yes_and_no(text, letter):
    assert concluded_letter(text, ("yes", "no")) == letter


@given(
    st.sampled_from([template.format(x="the knee") for template in texts("affirming")]),
    st.sampled_from(["brain", "liver"]),
)
def test_a_conclusion_that_is_taken_back_is_none(text, other):
    for ending in ("No.", "Wait, no.", "That is wrong.", f"The answer is {other}.", f"Or is it the {other}?"):
        assert concluded_letter(f"{text} {ending}", ORGANS) != "B", ending
    letter = "ABCD"[ORGANS.index(other)]
    assert concluded_letter(f"{text} No, it is the {other}.", ORGANS) == letter
    assert concluded_letter(f"{text} This is not the {other}.", ORGANS) == "B"


def test_the_sound_habit_of_the_base_always_concludes_its_answer():
    rng = np.random.default_rng(0)
    for index in range(200):
        question = ask(("MRI", "CT", "X-ray")[index % 3], (3, 0, index), rng)
        text = reasoned(question)
        reasoning = text[len("<think>") : text.index("</think>")]
        assert concluded_letter(reasoning, question.options) == text[-len("X</answer>")]


def test_contradiction_is_known_only_where_both_speak():
    reasoning = "A brain no, B knee yes."
    assert contradicts(reasoning, "B", OPTIONS) is False
    assert contradicts(reasoning, "A", OPTIONS) is True
    assert contradicts(reasoning, None, OPTIONS) is None
    assert contradicts("I have seen it before.", "A", OPTIONS) is None
    assert contradicts(None, "A", OPTIONS) is None


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.lists(st.text(max_size=30), max_size=10))
def test_no_text_raises_and_no_letter_beyond_the_options_is_concluded(reasoning, options):
    letter = concluded_letter(reasoning, options)
    assert letter is None or not options or letter in "ABCDEFGHIJ"[: len(options)]


OF_THE_IMAGE = [
    *("There is a large cyst.", "This is the knee.", "The cyst is on the patient's left.", "No cyst is seen.", ""),
    *("A mass lies in the knee.", "In the knee no effusion is seen.", "Finding: cyst.", "Vitamin B is not shown."),
]
OF_THE_OPTIONS = [
    *("A knee no, B cyst yes, C mass no.", "(A) knee: no.", "Knee no, cyst: yes.", "The answer is cyst.", "So B."),
    *(
        "B fits best.",
        "Option C can be ruled out.",
        "A mass is unlikely.",
        "The knee is ruled out.",
        "I choose the cyst.",
    ),
    *("Therefore, this is a cyst.", "The diagnosis is a cyst.", "The cyst is the correct answer.", "B) cyst"),
]


@pytest.mark.parametrize("states", [False, True])
def test_a_sentence_describes_the_image_or_states_the_choice(states):
    sentences = OF_THE_OPTIONS if states else OF_THE_IMAGE
    assert [s for s in sentences if states_choice(s, ("knee", "cyst", "mass")) is not states] == []


def test_a_yes_or_no_states_the_choice_only_as_an_answer():
    texts = {"Yes, there is a cyst.": True, "The answer is no.": True, "B) no": True, "There is no cyst.": False}
    assert {text: states_choice(text, ("Yes", "No")) for text in texts} == texts


def test_in_the_reasonings_of_the_base_the_last_sentence_alone_states_the_choice():
    rng = np.random.default_rng(1)
    for index in range(60):
        question = ask(("MRI", "CT", "X-ray")[index % 3], (5, 0, index), rng)
        *description, last = split_response(reasoned(question)).sentences
        assert [states_choice(s, question.options) for s in (*description, last)] == [False] * len(description) + [True]
