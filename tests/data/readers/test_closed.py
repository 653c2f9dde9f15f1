import pytest

from medvlm_r1.data.readers.closed import closed_options


@pytest.mark.parametrize("answer", ["yes", "Yes", "YES", " yes. "])
def test_yes(answer):
    assert closed_options("Is it normal?", answer, choice=False) == (("Yes", "No"), "Yes")


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("Is this a CT or an MRI?", ("CT", "MRI")),
        ("Is this CT or MRI?", ("CT", "MRI")),
        ("Which is bigger in this image, lung or liver?", ("lung", "liver")),
        ("Is the lesion on the left or right?", ("left", "right")),
        ("Is the lesion in the brain's left or right?", ("left", "right")),
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
        ("Is it in the axial plane or coronal?", "coronal"),
        ("Is the pleural effusion large or small?", "small"),
        ("Is it left or right or both?", "left"),
        ("Is the liver or the kidney bigger?", "liver"),
        ("Is it left or left?", "left"),
        ("What is it?", "or"),
    ],
)
def test_what_cannot_be_read_for_sure_stays_open(question, answer):
    assert closed_options(question, answer, choice=True) == ((), answer)


def test_options_do_not_tell_the_answer():
    for yes, no in [("yes", "no"), ("是", "不是"), ("有", "没有"), ("是", "否")]:
        options = {closed_options("q?", answer, choice=True)[0] for answer in (yes, no)}
        assert len(options) == 1
