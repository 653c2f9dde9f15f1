import json

import pytest

from medvlm_r1.errors import UserError

FOLDER = "VQA_RAD Image Folder"


def row(**changes):
    values = {
        "qid": "0",
        "phrase_type": "freeform",
        "qid_linked_id": "03f451ca-de62-4617-9679-e836026a7642",
        "image_case_url": "https://medpix.example/case",
        "image_name": "synpic54610.jpg",
        "image_organ": "HEAD",
        "evaluation": "not evaluated",
        "question": "Are regions of the brain infarcted?",
        "question_rephrase": "NULL",
        "question_relation": "NULL",
        "question_frame": "NULL",
        "question_type": "PRES",
        "answer": "Yes",
        "answer_type": "CLOSED",
    }
    return {**values, **changes}


@pytest.fixture
def source(put, picture):
    picture(f"{FOLDER}/synpic54610.jpg")

    def write(*rows):
        put("VQA_RAD Dataset Public.json", list(rows))
        return put.root

    return write


def test_original(imported, source):
    rows = [
        row(),
        row(question="Is this an MRI or a CT scan?", answer="CT", answer_type="CLOSED "),
        row(question="Is this an MRI or a CT?", answer="ct", phrase_type="test_freeform"),
        row(question="Which lobe?", answer="Left frontal", answer_type="OPEN", phrase_type="test_para"),
        row(question="How many lesions?", answer=5, answer_type="OPEN", image_name="synpic1.jpg"),
    ]
    done = imported("vqa-rad", source(*rows))
    assert done.report.by_split == {"test": 2, "train": 3}
    assert done.report.by_modality == {"Unknown": 5}
    yes, scan, choice, lobe, count = done.samples
    assert (yes.options, yes.letter, yes.id) == (("Yes", "No"), "A", "vqa-rad-000001")
    assert yes.images == ("images/synpic54610.jpg",)
    assert yes.record == {
        "qid": "0",
        "image_organ": "HEAD",
        "question_type": "PRES",
        "phrase_type": "freeform",
        "answer_type": "CLOSED",
    }
    # "CT scan?" has two words, so what the second choice is cannot be read for sure.
    assert (scan.options, scan.answer) == ((), "CT")
    assert (choice.options, choice.letter, choice.record["answer"]) == (("MRI", "CT"), "B", "ct")
    assert (lobe.options, lobe.answer) == ((), "Left frontal")
    assert (count.answer, count.missing, count.subject) == ("5", True, "synpic1")


def test_the_file_itself_and_images_elsewhere(imported, source, tmp_path):
    folder = source(row())
    assert imported("vqa-rad", folder / "VQA_RAD Dataset Public.json").report.missing == 0
    (tmp_path / "pictures").mkdir()
    (folder / FOLDER / "synpic54610.jpg").rename(tmp_path / "pictures/synpic54610.jpg")
    assert imported("vqa-rad", folder).report.missing == 1
    assert imported("vqa-rad", folder, images=tmp_path / "pictures").report.missing == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer_type": "closd"}, "field 'answer_type' holds 'closd'; wanted one of OPEN, CLOSED"),
        ({"answer": ""}, "answer holds an empty text"),
        ({"answer": None}, "field 'answer' must be text, saw None"),
        ({"image_name": "/etc/passwd"}, "leaves the folder of images"),
    ],
)
def test_bad_rows(imported, source, changes, said):
    with pytest.raises(UserError, match=rf"VQA_RAD Dataset Public.json, row 2: .*{said}"):
        imported("vqa-rad", source(row(), row(**changes)))


def test_hub_layout(imported, put, hub, picture_bytes):
    one, two = picture_bytes(1), picture_bytes(2)
    hub(
        "data/train-00000-of-00001-eb8844602202be60.parquet",
        {"image": one, "question": "are regions of the brain infarcted?", "answer": "yes"},
        {"image": one, "question": "which lobe?", "answer": "left frontal"},
    )
    hub("data/test-00000-of-00001.parquet", {"image": two, "question": "is this normal?", "answer": "no"})
    done = imported("vqa-rad", put.root)
    assert done.report.by_split == {"test": 1, "train": 2}
    normal, infarct, lobe = done.samples
    assert (normal.options, normal.letter, normal.split) == (("Yes", "No"), "B", "test")
    assert normal.record == {"answer": "no"}
    assert (infarct.letter, infarct.split) == ("A", "train")
    assert infarct.id == "vqa-rad-data-train-00000-of-00001-eb8844602202be60-000001"
    assert lobe.options == ()
    # One picture, one file, one subject.
    assert infarct.images == lobe.images != normal.images
    assert infarct.subject == lobe.subject != normal.subject
    assert (done.folder / infarct.images[0]).read_bytes() == one
    assert len(list((done.folder / "images").iterdir())) == 2
    assert json.loads((done.folder / "info.json").read_text())["license"] == "CC0-1.0"


def test_hub_file_saved_by_datasets(imported, put, picture_bytes):
    from datasets import Dataset, DatasetDict, Features, Image, Value

    columns = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    rows = [{"image": {"bytes": picture_bytes(), "path": None}, "question": "Is it normal?", "answer": "yes"}] * 40
    table = Dataset.from_list(rows, features=columns)
    DatasetDict(train=table).save_to_disk(put.root)
    done = imported("vqa-rad", put.root)
    assert done.report.by_split == {"train": 40}
    assert done.samples[39].id == "vqa-rad-train-data-00000-of-00001-000040"


def test_damaged_tables(imported, hub, picture_bytes):
    file = hub("train.parquet", {"image": picture_bytes(), "question": "q?", "answer": "yes"})
    assert imported("vqa-rad", file).samples[0].split == "train"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"train.parquet: cannot be read as parquet after row 0"):
        imported("vqa-rad", file)
    hub("train.parquet", {"image": b"GIF89a", "question": "q?", "answer": "yes"})
    with pytest.raises(UserError, match=r"train.parquet, row 1: the image in the row is not a PNG"):
        imported("vqa-rad", file)
    hub("train.parquet", {"image": None, "question": "q?", "answer": "yes"})
    with pytest.raises(UserError, match=r"train.parquet, row 1: field 'image' must be the name of a file or its bytes"):
        imported("vqa-rad", file)
