import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlm_r1.data.readers.fields import right_option, split_problem
from medvlm_r1.data.sample import Sample, text_fault
from medvlm_r1.prompts.templates import lettered


@pytest.mark.parametrize(
    "problem",
    [
        "What is it?\nA) Lung, left\nB) Liver\nC) None",
        "What is it?  A) Lung, left B) Liver C) None",
        "What is it? A) Lung, left, B) Liver, C) None",
        "What is it?\n A. Lung, left\n B. Liver\n C. None",
        "What is it? (A) Lung, left (B) Liver (C) None",
        "What is it?\nA: Lung, left\nB: Liver\nC: None",
        "What is it?\nA)Lung, left\nB)Liver\nC)None\n",
    ],
)
def test_question_and_options(problem):
    assert split_problem(problem) == ("What is it?", ("Lung, left", "Liver", "None"))
    assert split_problem("Which?\nA) Grade A) or so\nB) Grade B") == ("Which?", ("Grade A) or so", "Grade B"))


@pytest.mark.parametrize(
    "problem",
    ["What is it?", "What? A) one", "What? B) one C) two", "A) one B) two", "What? A) B) two", "What? A) x C) y"],
)
def test_ambiguous_options(problem):
    with pytest.raises(ValueError, match="the options cannot be read from the text"):
        split_problem(problem)


words = st.from_regex(re.compile(r"[a-z]{1,8}( [a-z]{1,8}){0,3}", re.ASCII), fullmatch=True).filter(
    lambda text: not text_fault("text", text)
)


@settings(deadline=None)
@given(question=words, options=st.lists(words, min_size=2, max_size=10, unique=True))
def test_inverse_of_the_prompt(question, options):
    sample = Sample(id="a", images=(), question=question, options=tuple(options), answer=options[0], modality="CT")
    assert split_problem(lettered(sample)) == (question, tuple(options))


def test_right_option():
    for answer in ("Mass", "B", "b", "(B)", "B.", " B ", "B: Mass", "mass", " Mass. "):
        assert right_option(answer, ("Cyst", "Mass")) == "Mass"
    # The text comes before the letter, unless the set answers by letter.
    assert [right_option("B", ("B", "A"), letter_first=first) for first in (False, True)] == ["B", "A"]
    for answer in ("C", "", "Ma"):
        with pytest.raises(ValueError, match="neither the text nor the letter"):
            right_option(answer, ("Cyst", "Mass"))
    for answer, options in {"b": ("B", "a"), "cyst": ("Cyst", "CYST.")}.items():
        with pytest.raises(ValueError, match="names several"):
            right_option(answer, options)
