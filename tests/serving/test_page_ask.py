"""What the page asks of a model, and what it makes of the answers."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from page_model import scripted
from PIL import Image

from medvlm_r1.errors import UsageError
from medvlm_r1.serving.page.case import Entry, ask, make_question, run_checks, shown_name
from medvlm_r1.serving.page.events import newest
from medvlm_r1.serving.page.image import Choice, Source, open_source

CHOICE = Choice(plane=None, slice=0, frame=0, window=None, center=0, width=0)
OPTIONS = ("brain", "knee", "chest")


@pytest.fixture(scope="module")
def half_white() -> Source:
    """White on its left, black on its right."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return open_source(stream.getvalue(), "Mueller^Anna.png")[0]


def look(image: Image.Image, prompt: str) -> str:
    """Answers by what is to be seen: brain where the left is bright, knee where the right is, otherwise chest."""
    left, right = (np.asarray(image)[:, column].mean() for column in (5, -5))
    organ = "brain" if left > right else "knee" if right > left else "chest"
    letter = next((line[0] for line in prompt.splitlines() if line.endswith(f") {organ}")), "X")
    return f"<think>It is a {organ}.</think><answer>{letter}</answer>"


def entry_of(model, source: Source, options: str = "\n".join(OPTIONS)) -> Entry:
    *live, done = ask(model, make_question(source, CHOICE, " Which part? ", options))
    assert all(case.live for case in live)
    return done


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        (" \n\n", ()),
        ("yes\n\n  no  ", ("yes", "no")),
        ("A) MRI\nB) CT", ("MRI", "CT")),
        ("A) MRI\nCT", ("A) MRI", "CT")),
        ("\n".join("abcdefghij"), tuple("abcdefghij")),
    ],
)
def test_options_are_read_as_they_are_typed(half_white: Source, typed: str, options: tuple[str, ...]) -> None:
    assert make_question(half_white, CHOICE, "Which?", typed).options == options


def test_without_image_or_question_nothing_is_asked(half_white: Source) -> None:
    with pytest.raises(UsageError, match="No image yet"):
        make_question(None, CHOICE, "Which part?", "")
    with pytest.raises(UsageError, match="No question yet"):
        make_question(half_white, CHOICE, "  ", "")


def test_the_reasoning_grows_and_the_end_is_what_the_model_answers(half_white: Source) -> None:
    *live, done = ask(scripted(look), make_question(half_white, CHOICE, "Which part?", "\n".join(OPTIONS)))
    assert [case.reply.reasoning for case in live] == ["", "It", "It is", "It is a", "It is a brain."]
    reply = done.case.reply
    assert (reply.reasoning, reply.answer, reply.raw, reply.note) == ("It is a brain.", "A) brain", None, "")
    assert (reply.letter, reply.options, reply.confidence) == ("A", OPTIONS, None)
    assert done.case.image_note == "PNG, 60 x 40."


def test_boxes_are_drawn_as_they_come_and_are_no_reasoning(half_white: Source) -> None:
    text = "<think>It is.</think> <box>100,200,300,400</box> <box>1,1</box> <answer>A</answer>"
    query = make_question(half_white, CHOICE, "Which?", "brain\nknee", "medvlm-r1-box")
    *live, done = ask(scripted(text), query)
    assert [len(case.reply.boxes) for case in live] == [0, 0, 0, 1, 1, 1]
    assert {case.reply.reasoning for case in live[2:]} == {"It is."}
    reply = done.case.reply
    assert (reply.boxes, reply.reasoning, reply.answer) == (((0.1, 0.2, 0.3, 0.4),), "It is.", "A) brain")
    assert reply.note == "malformed boxes are not shown"
    # Other templates do not ask for boxes.
    *_, done = ask(scripted(text), replace(query, template="medvlm-r1"))
    assert (done.case.reply.boxes, done.case.reply.note) == ((), "the required format was not followed")
    with pytest.raises(UsageError, match="is for Qwen-VL models"):
        scripted(text).ask_batch([replace(query, template="medvlm-r1-box-pixels")])


def test_the_checks_ask_four_times_and_judge_each(half_white: Source) -> None:
    model = scripted(look, shares=(0.1, 0.7, 0.2))
    steps = list(run_checks(model, entry_of(model, half_white)))
    assert [len(step.case.checks) for step in steps] == [1, 2, 3, 4]
    checks = steps[-1].case.checks
    assert [(check.title, check.reply.answer, check.tone) for check in checks] == [
        ("Blank image", "C) chest", "pass"),
        ("Mirrored image", "B) knee", "warn"),
        # The first option is now the last.
        ("Shifted options", "C) brain", "pass"),
        ("No reasoning", "B) knee", "warn"),
    ]
    assert checks[2].reply.options == ("knee", "chest", "brain")
    assert checks[3].reply.confidence == dict(zip(OPTIONS, (0.1, 0.7, 0.2), strict=True))
    assert model.backend.prefills[-1] == "<think></think><answer>"


def test_a_model_that_does_not_look_fails(half_white: Source) -> None:
    model = scripted("<think>As always.</think><answer>A</answer>", shares=(0.8, 0.1, 0.1))
    *_, done = run_checks(model, entry_of(model, half_white))
    assert [check.tone for check in done.case.checks] == ["fail", "pass", "fail", "plain"]


def test_a_model_without_letter_probabilities_is_asked_for_the_letter_alone(half_white: Source) -> None:
    def say(image: Image.Image, prompt: str) -> str:
        return "B" if prompt.endswith("Answer with the option's letter only.") else look(image, prompt)

    model = scripted(say)
    *_, done = run_checks(model, entry_of(model, half_white))
    bare = done.case.checks[-1]
    assert (bare.reply.answer, bare.reply.reasoning, bare.tone) == ("B) knee", None, "warn")
    assert bare.how.startswith("The prompt asks for the letter alone")


def test_an_open_question_has_two_checks(half_white: Source) -> None:
    def say(image: Image.Image, prompt: str) -> str:
        return f"<think>.</think><answer>{'a line' if np.ptp(np.asarray(image)) else 'nothing'}</answer>"

    model = scripted(say)
    *_, done = run_checks(model, entry_of(model, half_white, options=""))
    assert done.case.reply.answer == "a line"
    assert [check.tone for check in done.case.checks] == ["pass", "pass", "plain", "plain"]
    assert [check.reply is None for check in done.case.checks] == [False, False, True, True]


def test_an_answer_out_of_form_is_shown_as_written_and_marked(half_white: Source) -> None:
    text = "It is seen at once. The answer is B."
    reply = entry_of(scripted(text), half_white).case.reply
    assert (reply.reasoning, reply.raw, reply.answer) == (None, text, "B) knee")
    assert reply.note == "the required format was not followed; the answer is from the lenient parser"
    nothing = entry_of(scripted("Hard to say."), half_white).case.reply
    assert (nothing.answer, nothing.raw) == (None, "Hard to say.")


def test_a_session_has_its_newest_cases(half_white: Source) -> None:
    entry = entry_of(scripted(look), half_white)
    assert newest([entry] * 60) == [entry] * 50
    assert newest([]) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-2B-Instruct"),
        ("/home/anna/runs/grpo/model", "grpo/model"),
        ("./model/", "model"),
    ],
)
def test_a_name_does_not_contain_the_path_of_a_model(name: str, shown: str) -> None:
    assert shown_name(name) == shown
