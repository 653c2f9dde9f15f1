"""Public formats that the reader of one's own questions takes, each with a small file built as it is published."""

import base64
import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medvlm_r1.data.importing.draft import Reading
from medvlm_r1.errors import UserError

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture
def parquet(put):
    """Writes a parquet file; columns are texts unless `types` gives another type."""

    def write(name, types, *rows):
        path = put(name, b"")
        schema = pa.schema([(column, types.get(column, pa.string())) for column in dict.fromkeys([*rows[0], *types])])
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
        return path

    return write


@pytest.fixture
def embedded(picture_bytes):
    return lambda value=1: {"bytes": picture_bytes(value), "path": None}


def test_medvlthinker_eval(imported, parquet, embedded):
    types = {"images": pa.list_(IMAGE), "dataset_index": pa.int64(), "image_hash": pa.list_(pa.string())}
    row = {"question": "What is seen?", "options": '{"A": "Cyst", "B": "Mass", "C": "Edema", "D": "None of the above"}'}
    row |= {"answer_label": "B", "answer": "Mass", "dataset_name": "pmc_vqa", "image_hash": ["0f"]}
    rows = [{**row, "images": [embedded(value)], "dataset_index": value} for value in (1, 2)]
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
    row = {"id": "MM-26", "options": {"A": "Cyst", "B": "Mass", "C": "Edema", "D": "Bleed", "E": "Scar"}, "label": "E"}
    row |= {"question": "A man coughs. What is it?\nAnswer Choices: (A) Cyst (B) Mass (C) Edema (D) Bleed (E) Scar"}
    row |= {"images": ["MM-26-a.jpeg", "MM-26-b.jpeg"], "medical_task": "Diagnosis", "question_type": "Reasoning"}
    source = put("MM/test.jsonl", json.dumps(row) + "\n")
    chosen = Reading(columns=(("answer", "label"),))
    [sample] = imported("jsonl", source, images=put.root / "images", reading=chosen).samples
    assert (sample.id, sample.question, sample.letter) == ("MM-26", "A man coughs. What is it?", "E")
    assert sample.images == ("images/MM-26-a.jpeg", "images/MM-26-b.jpeg")
    assert (sample.question_type, sample.missing) == ("Reasoning", False)
    assert sample.record == {"medical_task": "Diagnosis"}


def test_vlmevalkit(imported, put, picture_bytes):
    first, second = (base64.b64encode(picture_bytes(value)).decode() for value in (1, 2))
    rows = [
        ["index", "image", "question", "A", "B", "C", "D", "answer", "category", "split"],
        ["0", first, '"Which ""organ"", please?"', "Liver", "Lung", "Heart", "Brain", "B", "anatomy", "test"],
        # The image of another row, and two options only.
        ["1", "0", "Is it normal?", "Yes", "No", "", "", "A", "disease", "test"],
        ["2", f"['{first}', '{second}']", "Compare?", "Same", "Different", "", "", "B", "disease", "test"],
    ]
    source = put("PathMMU.tsv", "".join("\t".join(cells) + "\n" for cells in rows))
    own, shared, several = imported("tsv", source).samples
    assert (own.question, own.letter, own.split) == ('Which "organ", please?', "B", "test")
    assert own.options == ("Liver", "Lung", "Heart", "Brain")
    assert (shared.images, shared.options, shared.missing) == (own.images, ("Yes", "No"), False)
    assert (len(several.images), several.images[0], several.letter) == (2, own.images[0], "B")
    assert own.record == {"index": "0", "category": "anatomy"}


def test_mmmu(imported, parquet, embedded):
    types = {f"image_{number}": IMAGE for number in range(1, 8)}
    common = {"img_type": "['CT scan']", "subfield": "Radiology", "explanation": "", "image_1": embedded(1)}
    closed = {"id": "validation_Clinical_Medicine_1", "answer": "B", "question_type": "multiple-choice", **common}
    closed |= {"question": "What does <image 1> show, compared with <image 2>?", "image_2": embedded(2)}
    closed |= {"options": "['Fat', \"Graves' disease\", 'Muscle']"}
    opened = {"id": "validation_Clinical_Medicine_2", "question": "How many lesions?", "options": "[]", "answer": "3"}
    opened |= {"question_type": "open", **common}
    first, second = imported("parquet", parquet("validation-00000-of-00001.parquet", types, closed, opened)).samples
    assert (first.options, first.letter) == (("Fat", "Graves' disease", "Muscle"), "B")
    assert (len(first.images), first.question) == (2, closed["question"])
    assert (second.options, second.answer, len(second.images)) == ((), "3", 1)
    assert (first.split, first.question_type) == ("validation", "multiple-choice")
    with pytest.raises(UserError, match="row 1: an option is an image"):
        imported("parquet", parquet("pictured.parquet", types, closed | {"options": "['<image 1>', '<image 2>']"}))


def test_omnimedvqa_on_the_hub(imported, parquet, embedded):
    row = {"image": embedded(), "dataset": "Chest CT Scan", "question_type": "Modality Recognition", "label": "B"}
    row |= {"question": "What modality?", "gt_answer": "CT", "modality_type": "CT(Computed Tomography)"}
    row |= {"option_A": "MRI", "option_B": "CT", "option_C": None, "option_D": None}
    path = parquet("test.parquet", {"image": IMAGE}, row)
    for answer in ("gt_answer", "label"):
        chosen = Reading(columns=(("answer", answer), ("modality", "modality_type")))
        [sample] = imported("parquet", path, reading=chosen).samples
        assert (sample.options, sample.letter, sample.modality) == (("MRI", "CT"), "B", "CT")
        assert sample.question_type == "Modality Recognition"


def test_r1_style(imported, parquet, embedded):
    answers = {"<image>What is seen?\nA) Cyst\nB) Mass": "B ", "<image>Name the organ.": "the liver"}
    rows = [{"image": embedded(), "problem": p, "solution": f"<answer>{a}</answer>"} for p, a in answers.items()]
    path = parquet("train-00000-of-00001.parquet", {"image": IMAGE}, *rows)
    chosen = Reading(columns=(("question", "problem"), ("answer", "solution")))
    closed, opened = imported("parquet", path, reading=chosen).samples
    assert (closed.question, closed.options, closed.letter) == ("What is seen?", ("Cyst", "Mass"), "B")
    assert (opened.question, opened.options, opened.answer) == ("Name the organ.", (), "the liver")
    with pytest.raises(UserError, match=r"--map question=problem .*\n.*--map answer=solution"):
        imported("parquet", path)


def test_a_parquet_file_as_pandas_leaves_it(imported, parquet, picture):
    picture("a.png")
    types = {"options": pa.list_(pa.string()), "modality": pa.float64(), "taken": pa.date32(), "mask": pa.binary()}
    row = {"image": "a.png", "question": "q?", "options": ["x", "y"], "answer": "B", "modality": float("nan")}
    row |= {"taken": datetime.date(2020, 1, 2), "mask": b"\0"}
    [sample] = imported("parquet", parquet("x.parquet", types, row)).samples
    # What JSON cannot hold is left out of the record.
    assert (sample.letter, sample.modality, sample.record) == ("B", "Unknown", {"taken": "2020-01-02"})
