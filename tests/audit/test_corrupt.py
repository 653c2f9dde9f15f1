import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.base.language import reasoned
from medvlm_r1.audit.claims import holds, read_claims
from medvlm_r1.audit.corrupt import LONGEST, RULES, corrupt
from medvlm_r1.phantom.questions import ask
from medvlm_r1.prompts.assistant_response import split_response, split_sentences
from medvlm_r1.prompts.conclusion import concluded_letter

FINDINGS = ("mass", "cyst", "no finding")


def every(sentence, options=(), chosen=None):
    """All that the seeds make of a sentence."""
    mistakes = [corrupt([sentence], options, chosen, seed) for seed in range(200)]
    return {mistake.after for mistake in mistakes if mistake is not None}


MISTAKES = {
    "A nodule lies in the left lobe.": {"A nodule lies in the right lobe."},
    "Left-sided opacity.": {"Right-sided opacity."},
    "It is an MRI.": {"It is a CT.", "It is an X-ray.", "It is an ultrasound."},
    "A coronal view.": {"An axial view.", "A sagittal view."},
    "A large opacity.": {"A small opacity.", "A medium opacity."},
    "It is not enlarged.": {"It is enlarged."},
    "It is enlarged.": {"It is not enlarged."},
    "An abnormal shape.": {"A normal shape."},
    "Clear fields without effusion.": {"Clear fields with effusion."},
    "No evidence of effusion.": {"Clear evidence of effusion."},
    "There is an effusion.": {"There is no effusion."},
    "There is no abnormality.": {"There is an abnormality."},
}


@pytest.mark.parametrize(("sentence", "after"), MISTAKES.items())
def test_one_word_becomes_another(sentence, after):
    assert every(sentence) == after


def test_words_that_mean_something_else_stay():
    sentences = ["B is the right answer.", "Two options are left over.", "All right.", "The small bowel.", ""]
    sentences += ["The femoral head.", "The lateral condyle.", "The head of the humerus.", "So it must be B."]
    assert {sentence: corrupt([sentence], FINDINGS, "cyst", 0) for sentence in sentences} == dict.fromkeys(sentences)


@pytest.mark.parametrize(
    ("sentence", "after"),
    [
        ("There is a small cyst.", {"There is a small mass."}),
        ("Finding: cyst.", {"Finding: mass.", "Finding: no finding."}),
        ("So it is B) cyst.", {"So it is A) mass.", "So it is C) no finding."}),
        ("A mass no, B cyst yes.", {"A mass yes, B cyst no."}),
        ("(A) mass: No. (B) cyst: Yes.", {"(A) mass: Yes. (B) cyst: No."}),
    ],
)
def test_the_option_chosen_becomes_another_of_the_options(sentence, after):
    assert every(sentence, FINDINGS, "cyst") == after
    assert corrupt([sentence], FINDINGS, "cyst", 0).relevant


def test_no_finding_becomes_a_finding_in_a_whole_sentence():
    assert every("There is no finding.", FINDINGS, "no finding") == {"There is a mass.", "There is a cyst."}
    # A side is nothing that there is.
    assert "There is a left." not in every("There is no finding.", ("left", "no finding"), "no finding")
    # A longer name hides the shorter within.
    options = ("mass", "mass effect", "cyst")
    assert every("Finding: mass effect.", options, "mass effect") >= {"Finding: cyst."}
    assert not any("cyst effect" in after for after in every("Finding: mass effect.", options, "mass"))


def test_relevant_changes_go_first():
    sentences = ["It is an MRI. ", "There is a large cyst. ", "It is on the left."]
    for seed in range(20):
        mistake = corrupt(sentences, FINDINGS, "cyst", seed)
        assert (mistake.index, mistake.after, mistake.relevant) == (1, "There is a large mass. ", True)
    # A word that turns the option into another is relevant.
    sentence, options = "It is seen on the left.", ("Left upper lobe", "Right upper lobe", "Heart")
    mistake = corrupt([sentence], options, "Left upper lobe", 0)
    assert (mistake.before, mistake.after) == (sentence, "It is seen on the right.")
    assert (mistake.index, mistake.rule, mistake.relevant) == (0, "side", True)
    assert not corrupt([sentence], options, "Heart", 0).relevant


def test_phantom_reasonings_get_a_relevant_mistake_that_is_one():
    rng = np.random.default_rng(0)
    for index in range(300):
        question = ask(("MRI", "CT", "X-ray")[index % 3], (3, 0, index), rng)
        mistake = corrupt(split_response(reasoned(question)).sentences, question.options, question.answer, index)
        assert mistake.relevant
        if mistake.rule == "weighing":
            letter = concluded_letter(mistake.after, question.options)
            assert question.options["ABCD".index(letter)] != question.answer
        else:
            assert False in [holds(claim, question.scene) for claim in read_claims(mistake.after, ())]


words = [word for groups in RULES.values() for group, _ in groups for word in group]
others = ["There is", "a", "an", "no", "not", "A", "B", "yes", "is", "seen", "of the", ".", ",", ":"]
texts = st.lists(st.sampled_from([*words, *others]), max_size=12).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(texts, max_size=3),
    st.lists(st.sampled_from(words) | st.text(min_size=1, max_size=8), max_size=5),
    st.data(),
    st.integers(0, 2**63),
)
def test_never_a_change_that_changes_nothing(sentences, options, data, seed):
    chosen = data.draw(st.sampled_from([*options, None]))
    mistake = corrupt(sentences, options, chosen, seed)
    if mistake is not None:
        assert mistake.before == sentences[mistake.index]
        assert mistake.after != mistake.before
        assert mistake == corrupt(sentences, options, chosen, seed)
        # White space at the end, a full stop and the like stay: it can be put back in its place.
        assert mistake.after[-1] == mistake.before[-1] or mistake.before[-1].isalnum()


def test_prose_of_a_large_model_and_a_sentence_without_end():
    sentences = split_sentences("1. The image is a chest X-ray. 2. There is no evidence of a fracture.")
    for seed in range(50):
        after = corrupt(sentences, ("Fracture", "Normal"), "Normal", seed).after
        assert (" a MRI" in after, " an CT" in after) == (False, False)
    endless = "A mass, " * LONGEST
    assert corrupt([endless, "There is a mass."], FINDINGS, "mass", 0).index == 1
    assert corrupt([endless], FINDINGS, "mass", 0) is None
