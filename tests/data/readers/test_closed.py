import pytest

from medvlm_r1.data.importing.draft import Draft
from medvlm_r1.data.readers.closed import ClosedQuestions, closed_options


def test_all_spellings_of_yes_and_no_give_the_same_options():
    for answers, options in {
        ("yes", "Yes", " YES. ", "no"): ("Yes", "No"),
        ("是", "有", "不是", "没有", "否"): ("是", "否"),
    }.items():
        results = [closed_options("Is it normal?", answer, choice=choice) for answer in answers for choice in (0, 1)]
        assert {result[0] for result in results} == {options}
        assert {result[1] for result in results} == set(options)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("Is this a CT or an MRI?", ("CT", "MRI")),
        ("Which is bigger, lung or liver?", ("lung", "liver")),
        ("Is the lesion on the left or right?", ("left", "right")),
        ("Is the patient male or female ?", ("male", "female")),
        ("Is it a T1 or  T2?", ("T1", "T2")),
    ],
)
def test_a_choice_of_two_words(question, words):
    for word in words:
        assert closed_options(question, word.lower(), choice=True) == (words, word)
        # What the set does not call closed stays open.
        assert closed_options(question, word, choice=False) == ((), word)
    assert closed_options(question, "neither", choice=True) == ((), "neither")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is this an MRI or a CT scan?", "MRI"),
        ("Is the pleural effusion large or small?", "small"),
        ("Is it left or right or both?", "left"),
        ("Is the liver or the kidney bigger?", "liver"),
        ("Is it left or left?", "left"),
    ],
)
def test_what_cannot_be_read_for_sure_stays_open(question, answer):
    assert closed_options(question, answer, choice=True) == ((), answer)


def imported(*rows, choices=True):
    """Drafts of closed questions and answers after both passes, and what was kept open."""
    closed = ClosedQuestions(choices=choices)
    drafts = []
    for question, given in rows:
        options, answer = closed_options(question, given, choice=True)
        drafts.append(Draft(question=question, answer=answer, options=options, closed=True))
    for draft in drafts:
        assert closed.collected(draft) is draft
    return [closed.with_options(draft) for draft in drafts], closed.kept_open


SIDES = [("Which side is it?", "Left"), ("Which side is it ?", "left"), ("which side is it?", "Right")]


def test_closed_questions_without_options_are_counted_by_reason():
    rows = [*SIDES, ("Is it left or right?", "Both"), ("Is it left or right?", "Left"), ("Is it normal?", "Yes")]
    drafts, kept_open = imported(*rows, choices=False)
    assert [draft.options for draft in drafts] == [(), (), (), (), ("left", "right"), ("Yes", "No")]
    assert kept_open == {
        "the question does not end in two words to choose from": {"Left": 1, "left": 1, "Right": 1},
        "the answer is not one of the two words that the question names": {"Both": 1},
    }


def test_the_answers_of_a_set_to_one_question_are_its_options():
    drafts, kept_open = imported(*SIDES, ("Which plane?", "Axial"))
    assert {draft.options for draft in drafts[:3]} == {("Left", "Right")}
    assert [draft.answer for draft in drafts[:3]] == ["Left", "Left", "Right"]
    assert [draft.record for draft in drafts[:3]] == [{}, {"answer": "left"}, {}]
    assert drafts[3].options == ()
    assert kept_open == {"the question names no candidates, and the set has one answer to it": {"Axial": 1}}


@pytest.mark.parametrize(
    ("question", "answer", "options"),
    [
        ("Is the lesion on the left or right side?", "Left", ("Left", "Right")),
        ("Is this a CT, MRI or X-ray image?", "CT", ("CT", "MRI", "X-ray")),
        ("Is this an MRI or a CT scan?", "MRI", ("CT", "MRI")),
        ("Is the effusion large or small today?", "small", ()),
        ("Is it left or right, axial or coronal, here?", "left", ()),
    ],
)
def test_known_contrasts_anywhere_in_a_question(question, answer, options):
    [draft], _ = imported((question, answer))
    assert (draft.options, draft.answer) == (options, answer)


def test_more_answers_than_letters_stay_open():
    drafts, kept_open = imported(*(("Where?", f"place {number}") for number in range(11)))
    assert {draft.options for draft in drafts} == {()}
    assert list(kept_open) == ["the set has more than 10 answers to the question"]


def test_open_questions_and_yes_or_no_are_left_alone():
    closed = ClosedQuestions(choices=True)
    drafts = [Draft(question="Which?", answer=answer) for answer in ("a", "b")]
    drafts += [Draft(question="Is it?", answer=a, options=("Yes", "No"), closed=True) for a in ("Yes", "No")]
    for draft in drafts:
        closed.collected(draft)
    assert [closed.with_options(draft) for draft in drafts] == drafts
    assert closed.kept_open == {}
