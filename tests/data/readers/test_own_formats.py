"""Public formats that the reader of one's own questions takes, each with a small file built as it is published."""

import base64

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medvlm_r1.data.importing.draft import Reading
from medvlm_r1.errors import UserError

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture
def parquet(put):
    """Writes a parquet file with these columns and types."""

    def write(name, types, *rows):
        path = put(name, b"")
        schema = pa.schema(list(types.items()))
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
        return path

    return write


def test_medvlthinker_eval(imported, parquet, picture_bytes):
    types = {"images": pa.list_(IMAGE), "question": pa.string(), "options": pa.string(), "answer_label": pa.string()}
    types |= {"answer": pa.string(), "dataset_name": pa.string(), "dataset_index": pa.int64()}
    types |= {"image_hash": pa.list_(pa.string())}
    rows = [
        {
            "images": [{"bytes": picture_bytes(value), "path": None}],
            "question": "What is seen?",
            "options": '{"A": "Cyst", "B": "Mass", "C": "Edema", "D": "None of the above"}',
            "answer_label": "B",
            "answer": "Mass",
            "dataset_name": "pmc_vqa",
            "dataset_index": value,
            "image_hash": ["0f"],
        }
        for value in (1, 2)
    ]
    path = parquet("data/test-00000-of-00001.parquet", types, *rows)
    for source in (path, path.parent):
        chosen = Reading(columns=(("answer", "answer_label"),), modality_for_missing="X-ray")
        first, second = imported("parquet", source, reading=chosen).samples
        assert (first.options, first.letter) == (("Cyst", "Mass", "Edema", "None of the above"), "B")
        assert (first.modality, first.split, first.missing) == ("X-ray", "test", False)
        assert first.record == {"answer": "Mass", "dataset_name": "pmc_vqa", "dataset_index": 1, "image_hash": ["0f"]}
        assert first.images != second.images


def test_medxpertqa_mm(imported, put, picture):
    picture("images/MM-26-a.jpeg")
    picture("images/MM-26-b.jpeg")
    row = {
        "id": "MM-26",
        "question": "A man has a cough. What is it?\nAnswer Choices: (A) Cyst (B) Mass (C) Edema (D) Bleed (E) Scar",
        "options": {"A": "Cyst", "B": "Mass", "C": "Edema", "D": "Bleed", "E": "Scar"},
        "label": "E",
        "images": ["MM-26-a.jpeg", "MM-26-b.jpeg"],
        "medical_task": "Diagnosis",
        "body_system": "Respiratory",
        "question_type": "Reasoning",
    }
    import json

    source = put("MM/test.jsonl", json.dumps(row) + "\n")
    chosen = Reading(columns=(("answer", "label"),))
    [sample] = imported("jsonl", source, images=put.root / "images", reading=chosen).samples
    assert (sample.id, sample.question, sample.letter) == ("MM-26", "A man has a cough. What is it?", "E")
    assert sample.images == ("images/MM-26-a.jpeg", "images/MM-26-b.jpeg")
    assert (sample.question_type, sample.missing) == ("Reasoning", False)
    assert sample.record == {"medical_task": "Diagnosis", "body_system": "Respiratory"}


def test_vlmevalkit(imported, put, picture_bytes):
    first, second = (base64.b64encode(picture_bytes(value)).decode() for value in (1, 2))
    heading = ["index", "image", "question", "A", "B", "C", "D", "answer", "category", "split"]
    rows = [
        ["0", first, 'Which "organ", please?', "Liver", "Lung", "Heart", "Brain", "B", "anatomy", "test"],
        # The image of another row, and two options only.
        ["1", "0", "Is it normal?", "Yes", "No", "", "", "A", "disease", "test"],
        ["2", f"['{first}', '{second}']", "Compare?", "Same", "Different", "", "", "B", "disease", "test"],
    ]
    quoted = [["", *('"' + cell.replace('"', '""') + '"' for cell in row)][1:] for row in rows]
    source = put("PathMMU.tsv", "\n".join("\t".join(cells) for cells in [heading, *quoted]) + "\n")
    own, shared, several = imported("tsv", source).samples
    assert (own.question, own.letter, own.split) == ('Which "organ", please?', "B", "test")
    assert own.options == ("Liver", "Lung", "Heart", "Brain")
    assert (shared.images, shared.options, shared.missing) == (own.images, ("Yes", "No"), False)
    assert (len(several.images), several.images[0], several.letter) == (2, own.images[0], "B")
    assert own.record == {"index": "0", "category": "anatomy"}


def test_mmmu(imported, parquet, picture_bytes):
    types = dict.fromkeys(["id", "question", "options", "explanation"], pa.string())
    types |= {f"image_{number}": IMAGE for number in range(1, 8)}
    types |= dict.fromkeys(["img_type", "answer", "topic_difficulty", "question_type", "subfield"], pa.string())
    common = {"img_type": "['CT scan']", "topic_difficulty": "Easy", "subfield": "Radiology", "explanation": ""}
    images = {f"image_{n}": {"bytes": picture_bytes(n), "path": f"{n}.png"} for n in (1, 2)}
    rows = [
        {
            "id": "validation_Clinical_Medicine_1",
            "question": "What does <image 1> show, compared with <image 2>?",
            "options": "['Fat', \"Graves' disease\", 'Muscle']",
            "answer": "B",
            "question_type": "multiple-choice",
            **common,
            **images,
        },
        {
            "id": "validation_Clinical_Medicine_2",
            "question": "How many lesions?",
            "options": "[]",
            "answer": "3",
            "question_type": "open",
            **common,
            "image_1": images["image_1"],
        },
    ]
    closed, opened = imported("parquet", parquet("validation-00000-of-00001.parquet", types, *rows)).samples
    assert (closed.options, closed.letter) == (("Fat", "Graves' disease", "Muscle"), "B")
    assert (len(closed.images), closed.question) == (2, rows[0]["question"])
    assert (opened.options, opened.answer, len(opened.images)) == ((), "3", 1)
    assert (closed.split, closed.question_type) == ("validation", "multiple-choice")
    pictured = {**rows[0], "options": "['<image 1>', '<image 2>']"}
    with pytest.raises(UserError, match="row 1: an option is an image"):
        imported("parquet", parquet("pictured.parquet", types, pictured))


def test_omnimedvqa_on_the_hub(imported, parquet, picture_bytes):
    types = {"image": IMAGE, **dict.fromkeys(["dataset", "question_id", "question_type", "question"], pa.string())}
    types |= dict.fromkeys(["gt_answer", *(f"option_{x}" for x in "ABCD"), "modality_type", "label"], pa.string())
    row = {
        "image": {"bytes": picture_bytes(), "path": "x.png"},
        "dataset": "Chest CT Scan",
        "question_id": "Chest CT Scan_0001",
        "question_type": "Modality Recognition",
        "question": "What modality?",
        "gt_answer": "CT",
        "option_A": "MRI",
        "option_B": "CT",
        "option_C": None,
        "option_D": None,
        "modality_type": "CT(Computed Tomography)",
        "label": "B",
    }
    path = parquet("test.parquet", types, row)
    for answer in ("gt_answer", "label"):
        chosen = Reading(columns=(("answer", answer), ("modality", "modality_type")))
        [sample] = imported("parquet", path, reading=chosen).samples
        assert (sample.options, sample.letter, sample.modality) == (("MRI", "CT"), "B", "CT")
        assert sample.question_type == "Modality Recognition"


def test_r1_style(imported, parquet, picture_bytes):
    types = {"image": IMAGE, "problem": pa.string(), "solution": pa.string()}
    rows = [
        {
            "image": {"bytes": picture_bytes(), "path": None},
            "problem": "<image>What is seen?\nA) Cyst\nB) Mass",
            "solution": "<answer> B </answer>",
        },
        {
            "image": {"bytes": picture_bytes(), "path": None},
            "problem": "<image>Name the organ.",
            "solution": "<answer>the liver</answer>",
        },
    ]
    path = parquet("train-00000-of-00001.parquet", types, *rows)
    chosen = Reading(columns=(("question", "problem"), ("answer", "solution")))
    closed, opened = imported("parquet", path, reading=chosen).samples
    assert (closed.question, closed.options, closed.letter) == ("What is seen?", ("Cyst", "Mass"), "B")
    assert (opened.question, opened.options, opened.answer) == ("Name the organ.", (), "the liver")
    with pytest.raises(UserError, match=r"--map question=problem .*\n.*--map answer=solution"):
        imported("parquet", path)


def test_a_parquet_file_as_pandas_leaves_it(imported, parquet, picture):
    import datetime

    picture("a.png")
    types = {"image": pa.string(), "question": pa.string(), "options": pa.list_(pa.string()), "answer": pa.string()}
    types |= {"modality": pa.float64(), "taken": pa.date32(), "mask": pa.binary(), "box": pa.list_(pa.float64())}
    row = {"image": "a.png", "question": "q?", "options": ["x", "y"], "answer": "B", "modality": float("nan")}
    row |= {"taken": datetime.date(2020, 1, 2), "mask": b"\0", "box": [0.5, float("nan")]}
    [sample] = imported("parquet", parquet("x.parquet", types, row)).samples
    # What JSON cannot hold is left out of the record.
    assert (sample.letter, sample.modality, sample.record) == ("B", "Unknown", {"taken": "2020-01-02"})
