"""What the page asks of a model, and what it makes of the answers."""

from __future__ import annotations

import io

import numpy as np
import pytest
from page_model import scripted
from PIL import Image

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.serving.page.case import Entry, ask, make_question, read_options, shown_name
from medvlm_r1.serving.page.checks import run_checks
from medvlm_r1.serving.page.events import newest
from medvlm_r1.serving.page.image import Choice, Source, open_source

CHOICE = Choice(plane=None, slice=0, frame=0, window=None, center=0, width=0)
OPTIONS = ("brain", "knee", "chest")


def half_white() -> Source:
    """White on its left, black on its right."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return open_source(stream.getvalue(), "Mueller^Anna.png")[0]


def look(image: Image.Image, prompt: str) -> str:
    """Names a part by what is to be seen: brain where the left is bright, knee where the right is, else nothing new."""
    left, right = (np.asarray(image)[:, place].mean() for place in (5, -5))
    part = "brain" if left > right else "knee" if right > left else "chest"
    letter = next((line[0] for line in prompt.splitlines() if line.endswith(f") {part}")), "X")
    return f"<think>It is a {part}.</think><answer>{letter}</answer>"


def asked(model, source: Source, options: str = "\n".join(OPTIONS)) -> Entry:
    *live, done = ask(model, source, make_question(source, CHOICE, " Which part? ", options))
    assert all(case.live for case in live)
    return done


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ("", ()),
        (" \n\n", ()),
        ("yes\n\n  no  ", ("yes", "no")),
        ("A) MRI\nB) CT", ("MRI", "CT")),
        ("A. MRI\nB. CT\nC. X-ray", ("MRI", "CT", "X-ray")),
        ("A) MRI\nCT", ("A) MRI", "CT")),
        ("\n".join("abcdefghij"), tuple("abcdefghij")),
    ],
)
def test_options_are_read_as_they_are_typed(typed: str, options: tuple[str, ...]) -> None:
    assert read_options(typed) == options


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("only", "one option .'only'.; a question needs at least two"),
        ("\n".join("abcdefghijk"), "11 options; at most 10"),
        ("yes\nno\nYes", "option A and option C are the same"),
    ],
)
def test_unusable_options_are_refused(typed: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_options(typed)


def test_without_image_or_question_nothing_is_asked() -> None:
    with pytest.raises(UsageError, match="No image yet"):
        make_question(None, CHOICE, "Which part?", "")
    with pytest.raises(UsageError, match="No question yet"):
        make_question(half_white(), CHOICE, "  ", "")


def test_a_control_token_is_refused_before_anything_is_asked() -> None:
    source = half_white()
    with pytest.raises(UserError, match="control token"):
        next(ask(scripted(look), source, make_question(source, CHOICE, "What is <|image_pad|>?", "")))


def test_the_reasoning_grows_and_the_end_is_what_the_model_answers() -> None:
    source, model = half_white(), scripted(look)
    question = make_question(source, CHOICE, "Which part?", "\n".join(OPTIONS))
    *live, done = ask(model, source, question)
    texts = [case.reply.reasoning for case in live]
    assert texts == ["", "It", "It is", "It is a", "It is a brain."]
    answer = model.ask(source.file, "Which part?", OPTIONS)
    assert done.answer == answer
    reply = done.case.reply
    assert (reply.reasoning, reply.answer, reply.raw, reply.note) == ("It is a brain.", "A) brain", None, "")
    assert [share.chosen for share in reply.shares] == [True, False, False]
    assert done.case.image_note == "PNG, 60 x 40."


def test_the_checks_ask_four_times_and_judges_each() -> None:
    model = scripted(look, weigh=(0.1, 0.7, 0.2))
    steps = list(run_checks(model, asked(model, half_white())))
    assert [len(step.case.checks) for step in steps] == [1, 2, 3, 4]
    blank, mirrored, shifted, bare = steps[-1].case.checks
    assert (blank.title, blank.reply.answer, blank.tone) == ("Blank image", "C) chest", "pass")
    assert (mirrored.title, mirrored.reply.answer, mirrored.tone) == ("Mirrored image", "B) knee", "warn")
    # The first option now stands last.
    assert (shifted.title, shifted.reply.answer, shifted.tone) == ("Shifted options", "C) brain", "pass")
    assert [share.option for share in shifted.reply.shares] == ["knee", "chest", "brain"]
    assert (bare.title, bare.reply.answer, bare.tone) == ("No reasoning", "B) knee", "warn")
    assert [round(share.percent) for share in bare.reply.shares] == [10, 70, 20]
    assert model.backend.turns[-1] == "<think></think><answer>"


def test_a_model_that_does_not_look_is_told_so() -> None:
    model = scripted(lambda image, prompt: "<think>As always.</think><answer>A</answer>", weigh=(0.8, 0.1, 0.1))
    *_, done = run_checks(model, asked(model, half_white()))
    assert [check.tone for check in done.case.checks] == ["fail", "pass", "fail", "plain"]
    assert done.case.checks[0].verdict == "The answer does not change without the image."


def test_where_letters_cannot_be_weighed_the_letter_alone_is_asked_for() -> None:
    def say(image: Image.Image, prompt: str) -> str:
        return "B" if prompt.endswith("Answer with the option's letter only.") else look(image, prompt)

    model = scripted(say)
    *_, done = run_checks(model, asked(model, half_white()))
    bare = done.case.checks[-1]
    assert (bare.reply.answer, bare.reply.reasoning, bare.tone) == ("B) knee", None, "warn")
    assert bare.how.startswith("The prompt asks for the letter alone")


def test_an_open_question_has_two_looks() -> None:
    def say(image: Image.Image, prompt: str) -> str:
        return f"<think>.</think><answer>{'a line' if np.ptp(np.asarray(image)) else 'nothing'}</answer>"

    model = scripted(say)
    *_, done = run_checks(model, asked(model, half_white(), options=""))
    assert done.case.reply.answer == "a line"
    assert [check.tone for check in done.case.checks] == ["pass", "pass", "plain", "plain"]
    assert [check.reply is None for check in done.case.checks] == [False, False, True, True]


def test_an_answer_out_of_form_is_shown_as_written_and_marked() -> None:
    model = scripted(lambda image, prompt: "It is seen at once. The answer is B.")
    reply = asked(model, half_white()).case.reply
    assert (reply.reasoning, reply.raw, reply.answer) == (None, "It is seen at once. The answer is B.", "B) knee")
    assert reply.note == "the required format was not followed; the answer is from the lenient parser"
    nothing = asked(scripted(lambda image, prompt: "Hard to say."), half_white()).case.reply
    assert (nothing.answer, nothing.raw) == (None, "Hard to say.")


def test_a_session_keeps_its_newest_cases() -> None:
    model = scripted(look)
    one = asked(model, half_white())
    assert newest([one] * 60) == [one] * 50
    assert newest([]) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("phantom-base", "phantom-base"),
        ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-2B-Instruct"),
        ("/home/anna/runs/grpo/model", "grpo/model"),
        ("./model/", "model"),
    ],
)
def test_a_name_does_not_tell_where_a_model_lies(name: str, shown: str) -> None:
    assert shown_name(name) == shown
