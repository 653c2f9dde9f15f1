"""The rules for a usable sample, and that every way into the package keeps them."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.data.check import check_folders
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.names import folded
from medvlm_r1.data.rows import RowFaults
from medvlm_r1.data.sample import (
    LETTERS,
    Box,
    Sample,
    control_token,
    question_faults,
    row_from_sample,
    sample_from_row,
)
from medvlm_r1.errors import UserError

ROW = {"id": "s", "images": ["images/x.png"], "question": "Which?", "options": ["x", "y"]}
ROW |= {"answer": "x", "modality": "CT"}
BAD = [
    ({"options": ["x"]}, "one option ('x'); a question needs at least two"),
    ({"options": ["x", "X"]}, "option A and option B are the same ('x' and 'X')"),
    ({"options": ["x", " x."]}, "option A and option B are the same"),
    ({"options": ["x", *"bcdefghijk"]}, "11 options; at most 10"),
    ({"options": ["x", ""]}, "option B holds an empty text"),
    ({"options": ["x", "\u200b\ufeff"]}, "option B holds an empty text"),
    ({"options": ["x", "NaN"]}, "option B holds 'NaN', a missing value"),
    ({"options": ["x", "<image>"]}, "option B holds the control token '<image>'"),
    ({"options": ["x", "<image 2>"]}, "an option is an image"),
    ({"options": ["x", 3]}, "option B must be text, not 3"),
    ({"options": "x"}, "options must be a list"),
    ({"question": "\u200b"}, "question holds an empty text"),
    ({"question": "nan"}, "question holds 'nan'"),
    ({"question": None}, "question must be text, not None"),
    ({"question": "half \ud800"}, "lone surrogate"),
    ({"question": "What is <|image_pad|> here?"}, "question holds the control token '<|image_pad|>'"),
    ({"question": "Which [IMG]?"}, "question holds the control token '[IMG]'"),
    ({"answer": "z"}, "answer 'z' is not among the options"),
    ({"answer": "X"}, "answer 'X' is not among the options"),
    ({"images": "images/x.png"}, "images must be a list"),
    ({"images": [None]}, "images must be text"),
    ({"images": ["../x.png"]}, "leaves the data folder"),
    ({"id": ""}, "id holds an empty text"),
    ({"modality": ""}, "modality holds an empty text"),
    ({"subject": "nan"}, "subject holds 'nan'"),
    ({"subject": 7}, "subject must be text, not 7"),
    ({"missing": 1}, "missing must be true or false"),
    ({"record": []}, "record must be an object"),
    ({"subjct": "p1"}, "unknown field 'subjct'; did you mean 'subject'?"),
]


def made(**changes):
    return sample_from_row({**ROW, **changes})


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_a_bad_row_is_refused_by_sample_check_and_every_reader_of_a_folder(tmp_path, changes, message):
    row = {"id": "bad", **changes}
    with pytest.raises(RowFaults) as refused:
        made(**row)
    assert message in str(refused.value)
    write_folder(tmp_path, [made()], info={"name": "t", "source": "t", "license": "t"})
    with (tmp_path / "samples.jsonl").open("a") as stream:
        stream.write(json.dumps({**ROW, **row}) + "\n")
    # What `data check` reports, and what training, evaluation and audit read.
    [bad] = check_folders([tmp_path]).bad_rows.items
    assert (bad.row, message in bad.reason) == (2, True)
    with pytest.raises(UserError, match=r"samples.jsonl, row 2: "):
        read_folder(tmp_path)


def test_all_faults_are_named_at_once():
    with pytest.raises(RowFaults) as refused:
        made(options=["x", "X", "nan"], question=" ", subject=3)
    for word in ("subject", "question", "option C", "are the same"):
        assert word in str(refused.value)
    for name in ROW:
        with pytest.raises(RowFaults, match=f"field '{name}' is missing"):
            sample_from_row({key: value for key, value in ROW.items() if key != name})
    for text in ("p < |t| > 2", "<b>bold</b>", "[1] and (A)", "a <unknown> word", "Is <image 1> normal?"):
        assert control_token(text) is None
        assert question_faults(text, ("x", "y", "T1", "T2", "1.5", "15")) == []


def test_a_sample_is_frozen_hashable_and_has_a_letter():
    assert [made(answer="y").letter, made(options=[], answer="a cyst").letter] == ["B", ""]
    assert made(options=list("0123456789"), answer="9").letter == "J"
    sample = made(record={"side": "left"})
    assert len({sample, made(record={"side": "left"})}) == 1
    assert made().record is not made().record
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.answer = "CT"
    with pytest.raises(ValueError, match="options must be a tuple"):
        Sample(id="a", images=(), question="q", options=["x"], answer="x", modality="CT")


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: not question_faults(text, (text, "another option"))
)
options_lists = st.lists(texts, min_size=2, max_size=len(LETTERS), unique_by=folded)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"label": ""}, "the label of a box holds an empty text"),
        ({"image": 1}, "the box of 'cyst' is in image 1; wanted a number from 0 to 0"),
        ({"image": True}, "is in image True"),
        ({"x2": 3}, r"the box of 'cyst' is \[3, 4, 3, 8.5\]; wanted pixels 0 <= x1 < x2 and 0 <= y1 < y2"),
        ({"y1": -1}, r"\[3, -1, 7, 8.5\]"),
        ({"y2": float("nan")}, "nan"),
        ({"x1": "3"}, "'3'"),
        ({"z": 1}, r"boxes holds \{.*'z': 1\}; wanted an object with label, image, x1, y1, x2 and y2"),
    ],
)
def test_boxes_are_checked(change, fault):
    box = {"label": "cyst", "image": 0, "x1": 3, "y1": 4, "x2": 7, "y2": 8.5}
    sample = made(boxes=[box])
    assert sample.boxes == (Box(**box),)
    assert sample_from_row(json.loads(json.dumps(row_from_sample(sample)))) == sample
    with pytest.raises(RowFaults, match=fault):
        made(boxes=[box, {**box, **change}])


def test_truth_and_boxes_have_their_types():
    for change, fault in (({"truth": []}, "truth must be an object"), ({"boxes": {}}, "boxes must be a list of boxes")):
        with pytest.raises(RowFaults, match=fault):
            made(**change)


@given(data=st.data(), options=options_lists, question=texts, missing=st.booleans())
def test_json_round_trip(data, options, question, missing):
    answer = data.draw(st.sampled_from(options))
    sample = made(options=options, answer=answer, question=question, missing=missing, record={"n": [1]})
    assert sample_from_row(json.loads(json.dumps(row_from_sample(sample)))) == sample
    assert options[LETTERS.index(sample.letter)] == answer
