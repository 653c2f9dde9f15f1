"""Sets with written answers as they are published: slake, vqa-rad and path-vqa."""

import json

import pytest

from medvlm_r1.errors import UserError

FOLDER = "VQA_RAD Image Folder"
RAD_FILE = "VQA_RAD Dataset Public.json"
YES_NO = ("Yes", "No")


def rad(**changes):
    row = {"qid": "0", "phrase_type": "freeform", "image_name": "synpic54610.jpg", "image_organ": "HEAD"}
    row |= {"evaluation": "not evaluated", "question": "Are regions of the brain infarcted?", "question_type": "PRES"}
    return row | {"answer": "Yes", "answer_type": "CLOSED"} | changes


def slake(**changes):
    row = {"img_id": 102, "img_name": "xmlab102/source.jpg", "question": "Does the picture contain liver?"}
    row |= {"answer": "Yes", "q_lang": "en", "location": "Abdomen", "modality": "MRI", "answer_type": "CLOSED"}
    row |= {"base_type": "vqa", "content_type": "Organ", "triple": ["vhead", "_", "_"], "qid": 11934}
    return row | changes


def test_vqa_rad(imported, put, picture, tmp_path):
    image = picture(f"{FOLDER}/synpic54610.jpg")
    rows = [
        rad(),
        rad(question="Is this an MRI or a CT scan?", answer="CT", answer_type="CLOSED "),
        rad(question="Is this an MRI or a CT?", answer="ct", phrase_type="test_freeform"),
        rad(question="Which lobe?", answer="Left frontal", answer_type="OPEN", phrase_type="test_para"),
        rad(question="How many lesions?", answer=5, answer_type="OPEN", image_name="synpic1.jpg"),
    ]
    file = put(RAD_FILE, rows)
    done = imported("vqa-rad", put.root)
    assert (done.report.by_split, done.report.by_modality) == ({"test": 2, "train": 3}, {"Unknown": 5})
    yes, _, choice, _, count = done.samples
    answers = [(YES_NO, "Yes"), ((), "CT"), (("MRI", "CT"), "CT"), ((), "Left frontal"), ((), "5")]
    assert [(sample.options, sample.answer) for sample in done.samples] == answers
    assert (yes.id, yes.images) == ("vqa-rad-000001", ("images/synpic54610.jpg",))
    fields = {"qid": "0", "image_organ": "HEAD", "question_type": "PRES", "phrase_type": "freeform"}
    assert yes.record == fields | {"answer_type": "CLOSED"}
    assert (choice.record["answer"], count.missing, count.subject) == ("ct", True, "synpic1")
    # The file itself, and images elsewhere.
    assert imported("vqa-rad", file).report.missing == 1
    (tmp_path / "pictures").mkdir()
    image.rename(tmp_path / "pictures/synpic54610.jpg")
    assert imported("vqa-rad", put.root).report.missing == 5
    assert imported("vqa-rad", put.root, images=tmp_path / "pictures").report.missing == 1


def test_slake(imported, put, picture):
    picture("imgs/xmlab102/source.jpg", 1)
    picture("imgs/xmlab0/source.jpg", 2)
    other = {"img_id": 0, "img_name": "xmlab0/source.jpg", "modality": "X-Ray"}
    put("train.json", [slake(), slake(**other, question="Which is bigger, lung or heart?", answer="Lung")])
    put("test.json", [slake(question="Which organ is largest?", answer="Liver", answer_type="OPEN", modality="CT")])
    answers = {"这张图里有肝脏吗？": "没有", "这是肝脏吗？": "不是", "图中有肿瘤吗？": "有"}
    chinese = put("validate.json", [slake(q_lang="zh", question=q, answer=a) for q, a in answers.items()])
    done = imported("slake", put.root)
    assert done.report.by_split == {"test": 1, "train": 2, "validation": 3}
    assert done.report.by_modality == {"CT": 1, "MRI": 4, "X-ray": 1}
    assert (done.report.missing, done.report.open_questions) == (0, 1)
    liver, bigger = (s for s in done.samples if s.split == "train")
    assert (liver.id, liver.options, liver.letter) == ("slake-train-000001", YES_NO, "A")
    assert liver.images == ("images/xmlab102/source.jpg",)
    assert (liver.record["language"], liver.record["qid"], "answer" in liver.record) == ("en", 11934, False)
    assert (bigger.options, bigger.answer, bigger.record["answer"]) == (("lung", "heart"), "lung", "Lung")
    # Every picture is called source.jpg; they are different patients all the same.
    assert (liver.subject, bigger.subject) == ("xmlab102/source", "xmlab0/source")
    samples = imported("slake", chinese).samples
    assert [(sample.options, sample.answer) for sample in samples] == [(("是", "否"), a) for a in ("否", "否", "是")]
    assert [sample.record["answer"] for sample in samples] == list(answers.values())
    assert {(sample.record["language"], sample.split) for sample in samples} == {("zh", "validation")}


def test_closed_rows_that_become_open_are_reported(imported, put, picture, tmp_path):
    picture("imgs/xmlab102/source.jpg")
    answers = ("Left", "Right", "Both")
    put("train.json", [slake(), *(slake(question="Which lung is ill?", answer=answer) for answer in answers)])
    put("test.json", [slake(question="Which lung is ill?", answer="left", qid=1)])
    [(reason, counts)] = imported("slake", put.root).report.closed_kept_open.items()
    assert (reason, sum(counts.values())) == ("the question does not end in two words to choose from", 4)
    done = imported("slake", put.root, out=tmp_path / "choices", closed_choices=True)
    assert (done.report.open_questions, done.report.closed_kept_open) == (0, {})
    test, yes, *train = done.samples
    assert (test.options, test.answer, test.record["answer"]) == (("Both", "Left", "Right"), "Left", "left")
    assert yes.options == YES_NO
    assert [(sample.options, sample.answer) for sample in train] == [(test.options, answer) for answer in answers]


@pytest.mark.parametrize(
    ("name", "file", "row", "changes", "message"),
    [
        ("vqa-rad", RAD_FILE, rad, {"answer_type": "closd"}, "'answer_type' holds 'closd'; wanted one of OPEN, CLOSED"),
        ("vqa-rad", RAD_FILE, rad, {"answer": ""}, "answer holds an empty text"),
        ("vqa-rad", RAD_FILE, rad, {"image_name": "/etc/passwd"}, "leaves the image folder"),
        ("slake", "test.json", slake, {"modality": "Xray MRI"}, "unknown modality 'Xray MRI' in 'modality'"),
        ("slake", "test.json", slake, {"q_lang": "de"}, "field 'q_lang' holds 'de'; wanted one of EN, ZH"),
    ],
)
def test_bad_rows(imported, put, name, file, row, changes, message):
    put(file, [row(), row(**changes)])
    with pytest.raises(UserError, match=rf"{file}, row 2: .*{message}"):
        imported(name, put.root)


@pytest.mark.parametrize(("name", "license"), [("vqa-rad", "CC0-1.0"), ("path-vqa", "as published")])
def test_tables_of_the_hub(imported, put, hub, picture_bytes, name, license):
    images = [picture_bytes(value) for value in (1, 2)]
    # Only yes and no are closed in these tables.
    rows = [("are regions of the brain infarcted?", "yes"), ("is this acute or chronic?", "chronic")]
    rows = [{"image": images[0], "question": question, "answer": answer} for question, answer in rows]
    hub("data/train-00000-of-00001-eb88.parquet", *rows)
    hub("data/validation-00000-of-00001.parquet", {"image": images[1], "question": "is this normal?", "answer": "no"})
    done = imported(name, put.root)
    assert (done.report.by_split, done.report.by_modality) == ({"train": 2, "validation": 1}, {"Unknown": 3})
    infarct, acute, normal = done.samples
    assert (normal.options, normal.letter, normal.split, normal.record) == (YES_NO, "B", "validation", {"answer": "no"})
    assert (infarct.letter, infarct.id) == ("A", f"{name}-data-train-00000-of-00001-eb88-000001")
    assert acute.options == ()
    # One picture, one file, one subject.
    assert (infarct.images, infarct.subject) == (acute.images, acute.subject)
    assert (infarct.images != normal.images, infarct.subject != normal.subject) == (True, True)
    assert (done.folder / infarct.images[0]).read_bytes() == images[0]
    assert len(list((done.folder / "images").iterdir())) == 2
    assert json.loads((done.folder / "info.json").read_text())["license"] == license


def test_damaged_tables(imported, hub, picture_bytes):
    file = hub("train.parquet", {"image": picture_bytes(), "question": "q?", "answer": "yes"})
    assert imported("vqa-rad", file).samples[0].split == "train"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"train.parquet: cannot be read as parquet after row 0"):
        imported("vqa-rad", file)
    reasons = {b"GIF89a": "the image in the row is not a PNG", None: "field 'image' must be the name of a file or its"}
    for content, reason in reasons.items():
        hub("train.parquet", {"image": content, "question": "q?", "answer": "yes"})
        with pytest.raises(UserError, match=rf"train.parquet, row 1: {reason}"):
            imported("vqa-rad", file)
