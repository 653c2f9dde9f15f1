import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.data.names import folded
from medvlm_r1.data.question import question_faults
from medvlm_r1.data.sample import LETTERS, Sample, row_from_sample, sample_from_row

ROW = {
    "id": "s1",
    "images": ["images/knee.png"],
    "question": "Which modality?",
    "options": ["CT", "MRI"],
    "answer": "MRI",
    "modality": "MRI",
}


def made(**changes):
    return sample_from_row({**ROW, **changes})


def test_letter_is_the_position_of_the_answer():
    assert made().letter == "B"
    assert made(options=list("0123456789"), answer="9").letter == "J"


def test_open_question_has_no_letter():
    assert made(options=[], answer="a cyst").letter == ""


def test_defaults():
    sample = made()
    assert (sample.question_type, sample.subject, sample.split, sample.missing, sample.record) == (
        "",
        "",
        "",
        False,
        {},
    )


def test_sample_is_frozen_hashable_and_does_not_share_its_record():
    sample = made(record={"side": "left"})
    assert len({sample, made(record={"side": "left"})}) == 1
    assert made().record is not made().record
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.answer = "CT"


@pytest.mark.parametrize("name", ["id", "images", "question", "options", "answer", "modality"])
def test_missing_field_is_named(name):
    row = {key: value for key, value in ROW.items() if key != name}
    with pytest.raises(ValueError, match=f"field '{name}' is missing"):
        sample_from_row(row)


def test_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown field 'subjct'; did you mean 'subject'\?"):
        made(subjct="p1")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": "PET"}, "answer 'PET' is not among the options"),
        ({"answer": "mri"}, "not among the options"),
        ({"options": [str(i) for i in range(11)], "answer": "1"}, "11 options; at most 10"),
        ({"options": "CT"}, "options must be a list"),
        ({"options": ["CT", 3]}, "option B must be text, not 3"),
        ({"options": ["CT", " "], "answer": "CT"}, "option B holds an empty text"),
        ({"images": "images/x.png"}, "images must be a list"),
        ({"images": [None]}, "images must be text"),
        ({"images": ["../x.png"]}, "leaves the data folder"),
        ({"images": ["/etc/x.png"]}, "leaves the data folder"),
        ({"question": " \n"}, "question holds an empty text"),
        ({"question": None}, "question must be text, not None"),
        ({"id": ""}, "id holds an empty text"),
        ({"modality": ""}, "modality holds an empty text"),
        ({"subject": 7}, "subject must be text, not 7"),
        ({"missing": 1}, "missing must be true or false"),
        ({"record": []}, "record must be an object"),
        ({"question": "half \ud800"}, "lone surrogate"),
    ],
)
def test_bad_values_are_refused_with_the_value_seen(changes, said):
    with pytest.raises(ValueError, match=said):
        made(**changes)


def test_lists_are_refused_at_construction():
    with pytest.raises(ValueError, match="options must be a tuple"):
        Sample(id="a", images=(), question="q", options=["x"], answer="x", modality="CT")


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: not question_faults(text, (text, "another option"))
)
options_lists = st.lists(texts, min_size=2, max_size=len(LETTERS), unique_by=folded)


@given(data=st.data(), options=options_lists, question=texts, missing=st.booleans())
def test_json_round_trip(data, options, question, missing):
    answer = data.draw(st.sampled_from(options))
    row = {**ROW, "options": options, "answer": answer, "question": question, "missing": missing, "record": {"n": [1]}}
    sample = sample_from_row(row)
    assert sample_from_row(json.loads(json.dumps(row_from_sample(sample)))) == sample
    assert options[LETTERS.index(sample.letter)] == answer
