import pytest

from medvlm_r1.data.importing.draft import Draft
from medvlm_r1.data.readers.closed import ClosedQuestions, closed_options


def test_all_spellings_of_yes_and_no_give_the_same_options():
    spellings = {("Yes", "No"): ("yes", "Yes", " YES. ", "no"), ("是", "否"): ("是", "有", "不是", "没有", "否")}
    for options, answers in spellings.items():
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
        # Two single words are not certain.
        ("Is this an MRI or a CT scan?", ()),
        ("Is the pleural effusion large or small?", ()),
        ("Is it left or right or both?", ()),
        ("Is the liver or the kidney bigger?", ()),
        ("Is it left or left?", ()),
    ],
)
def test_a_choice_of_two_words(question, words):
    for word in words:
        assert closed_options(question, word.lower(), choice=True) == (words, word)
        # Questions that the set does not call closed stay open.
        assert closed_options(question, word, choice=False) == ((), word)
    for answer in ("neither", *(() if words else ("MRI", "small", "left", "liver"))):
        assert closed_options(question, answer, choice=True) == ((), answer)


def both_passes(*rows, choices=True):
    """Drafts of closed questions and answers after both passes, and the counts of those that stay open."""
    closed = ClosedQuestions(choices=choices)
    drafts = []
    for question, given in rows:
        options, answer = closed_options(question, given, choice=True)
        drafts.append(Draft(question=question, answer=answer, options=options, closed=True))
    drafts += [Draft(question="Which organ?", answer=answer) for answer in ("a", "b")]
    for draft in drafts:
        assert closed.collected(draft) is draft
    *done, open_a, open_b = map(closed.with_options, drafts)
    assert [open_a, open_b] == drafts[-2:]
    return done, closed.kept_open


SIDES = [("Which side is it?", "Left"), ("Which side is it ?", "left"), ("which side is it?", "Right")]


def test_closed_questions_without_options_are_counted_by_reason():
    rows = [*SIDES, ("Is it left or right?", "Both"), ("Is it left or right?", "Left"), ("Is it normal?", "Yes")]
    drafts, kept_open = both_passes(*rows, choices=False)
    assert [draft.options for draft in drafts] == [(), (), (), (), ("left", "right"), ("Yes", "No")]
    assert kept_open == {
        "the question does not end in two words to choose from": {"Left": 1, "left": 1, "Right": 1},
        "the answer is not one of the two words that the question names": {"Both": 1},
    }


def test_the_answers_of_a_set_to_one_question_are_its_options():
    drafts, kept_open = both_passes(*SIDES, ("Which plane?", "Axial"), ("Is it?", "Yes"), ("Is it?", "No"))
    assert {draft.options for draft in drafts[:3]} == {("Left", "Right")}
    assert [(draft.answer, draft.record) for draft in drafts[:3]] == [
        *(("Left", {}), ("Left", {"answer": "left"}), ("Right", {}))
    ]
    assert [draft.options for draft in drafts[3:]] == [(), ("Yes", "No"), ("Yes", "No")]
    assert kept_open == {"the question names no candidates, and the set has one answer to it": {"Axial": 1}}
    drafts, kept_open = both_passes(*(("Where?", f"place {number}") for number in range(11)))
    assert {draft.options for draft in drafts} == {()}
    assert list(kept_open) == ["the set has more than 10 answers to the question"]


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
    [draft], _ = both_passes((question, answer))
    assert (draft.options, draft.answer) == (options, answer)
