"""The rules for a usable question, and that every way into the package keeps them."""

import json

import pytest

from medvlm_r1.data.check import check_folders
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.question import control_token, question_faults
from medvlm_r1.data.rows import RowFaults
from medvlm_r1.data.sample import Sample, sample_from_row
from medvlm_r1.errors import UserError

GOOD = {"id": "s", "images": [], "question": "Which?", "options": ["x", "y"], "answer": "x", "modality": "CT"}
BAD = [
    ({"options": ["x"]}, "one option ('x'); a question needs at least two"),
    ({"options": ["x", "y", "x"]}, "option A and option C are the same"),
    ({"options": ["x", "X"]}, "option A and option B are the same ('x' and 'X')"),
    ({"options": ["x", " x."]}, "option A and option B are the same"),
    ({"options": ["x", *"bcdefghijk"]}, "11 options; at most 10"),
    ({"options": ["x", ""]}, "option B holds an empty text"),
    ({"options": ["x", "\u200b\ufeff"]}, "option B holds an empty text"),
    ({"options": ["x", "nan"]}, "option B holds 'nan', a missing value"),
    ({"options": ["x", "NaN"]}, "option B holds 'NaN', a missing value"),
    ({"options": ["x", "<image>"]}, "option B holds the control token '<image>'"),
    ({"options": ["x", "<image 2>"]}, "an option is a picture"),
    ({"question": "\u200b"}, "question holds an empty text"),
    ({"question": "nan"}, "question holds 'nan'"),
    ({"question": "What is <|image_pad|> here?"}, "question holds the control token '<|image_pad|>'"),
    ({"question": "What is <start_of_image> here?"}, "question holds the control token '<start_of_image>'"),
    ({"question": "Which [IMG]?"}, "question holds the control token '[IMG]'"),
    ({"subject": "nan"}, "subject holds 'nan'"),
    ({"answer": "z"}, "answer 'z' is not among the options"),
]


@pytest.mark.parametrize(("changes", "said"), BAD)
def test_a_bad_question_is_refused_by_sample_check_and_every_reader_of_a_folder(tmp_path, changes, said):
    row = {**GOOD, **changes}
    with pytest.raises(RowFaults) as refused:
        sample_from_row(row)
    assert said in str(refused.value)
    write_folder(tmp_path, [sample_from_row(GOOD)], info={"name": "t", "source": "t", "license": "t"})
    with (tmp_path / "samples.jsonl").open("a") as stream:
        stream.write(json.dumps({**row, "id": "bad"}) + "\n")
    # What `data check` reports, and what training, evaluation and audit read.
    [bad] = check_folders([tmp_path]).bad_rows.items
    assert (bad.row, said in bad.reason) == (2, True)
    with pytest.raises(UserError, match=r"samples.jsonl, row 2: "):
        read_folder(tmp_path)


def test_a_reader_of_a_folder_names_every_bad_row(tmp_path):
    lines = [json.dumps({**GOOD, "id": f"s{number}", **changes}) for number, (changes, _) in enumerate(BAD)]
    (tmp_path / "samples.jsonl").write_text("\n".join([*lines, "{bad"]))
    with pytest.raises(UserError, match=f"{len(BAD) + 1} rows cannot be used") as refused:
        read_folder(tmp_path)
    assert [said for _, said in BAD[:10] if said not in str(refused.value)] == []


def test_all_faults_are_named_at_once():
    with pytest.raises(RowFaults) as refused:
        sample_from_row({**GOOD, "options": ["x", "X", "nan"], "question": " ", "subject": 3})
    assert [part in str(refused.value) for part in ("subject", "question", "option C", "are the same")] == [True] * 4


@pytest.mark.parametrize(
    "text", ["p < |t| > 2", "<b>bold</b>", "[1] and (A)", "a <unknown> word", "Is <image 1> normal?"]
)
def test_what_is_no_control_token(text):
    assert control_token(text) is None
    assert question_faults(text, ("x", "y")) == []


def test_options_that_differ_in_more_than_case_are_different():
    Sample(id="s", images=(), question="q", options=("T1", "T2", "1.5", "15"), answer="15", modality="MRI")
