import pytest

from medvlm_r1.errors import UserError


def row(**changes):
    values = {
        "img_id": 102,
        "img_name": "xmlab102/source.jpg",
        "question": "Does the picture contain liver?",
        "answer": "Yes",
        "q_lang": "en",
        "location": "Abdomen",
        "modality": "MRI",
        "answer_type": "CLOSED",
        "base_type": "vqa",
        "content_type": "Organ",
        "triple": ["vhead", "_", "_"],
        "qid": 11934,
    }
    return {**values, **changes}


@pytest.fixture
def source(put, picture):
    picture("imgs/xmlab102/source.jpg", 1)
    picture("imgs/xmlab0/source.jpg", 2)
    other = {"img_id": 0, "img_name": "xmlab0/source.jpg", "modality": "X-Ray"}
    put("train.json", [row(), row(**other, question="Which is bigger, lung or heart?", answer="Lung")])
    put(
        "validate.json",
        [
            row(q_lang="zh", question="这张图里有肝脏吗？", answer="没有"),
            row(q_lang="zh", question="这是肝脏吗？", answer="不是"),
            row(q_lang="zh", question="图中有肿瘤吗？", answer="有"),
        ],
    )
    put("test.json", [row(question="Which organ is largest?", answer="Liver", answer_type="OPEN", modality="CT")])
    return put.root


def test_folder_as_distributed(imported, source):
    done = imported("slake", source)
    assert done.report.by_split == {"test": 1, "train": 2, "validation": 3}
    assert done.report.by_modality == {"CT": 1, "MRI": 4, "X-ray": 1}
    assert (done.report.missing, done.report.open_questions) == (0, 1)
    by_id = {sample.id: sample for sample in done.samples}
    liver, bigger = by_id["slake-train-000001"], by_id["slake-train-000002"]
    assert (liver.options, liver.letter) == (("Yes", "No"), "A")
    assert liver.record["language"] == "en"
    assert liver.record["qid"] == 11934
    assert "answer" not in liver.record
    assert (bigger.options, bigger.answer, bigger.record["answer"]) == (("lung", "heart"), "lung", "Lung")
    # Every picture is called source.jpg; they are different patients all the same.
    assert (liver.subject, bigger.subject) == ("xmlab102/source", "xmlab0/source")
    assert liver.images == ("images/xmlab102/source.jpg",)
    assert by_id["slake-test-000001"].options == ()


def test_chinese_answers_share_one_pair_of_options(imported, source):
    chinese = imported("slake", source / "validate.json").samples
    assert [sample.options for sample in chinese] == [("是", "否")] * 3
    assert [sample.answer for sample in chinese] == ["否", "否", "是"]
    assert [sample.record["answer"] for sample in chinese] == ["没有", "不是", "有"]
    assert {sample.record["language"] for sample in chinese} == {"zh"}
    assert {sample.split for sample in chinese} == {"validation"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modality": "Xray MRI"}, "unknown modality 'Xray MRI' in 'modality'"),
        ({"q_lang": "de"}, "field 'q_lang' holds 'de'; wanted one of EN, ZH"),
        ({"img_name": "xmlab1/../../x.jpg"}, "leaves the folder of images"),
    ],
)
def test_bad_rows(imported, source, put, changes, said):
    put("test.json", [row(), row(**changes)])
    with pytest.raises(UserError, match=rf"test.json, row 2: .*{said}"):
        imported("slake", source)


def test_another_folder(imported, put):
    put("x.json", [])
    with pytest.raises(UserError, match=r"holds none of train.json, validation.json, validate.json, test.json"):
        imported("slake", put.root)


def test_closed_rows_that_become_open_are_reported(imported, put, picture, tmp_path):
    picture("imgs/xmlab102/source.jpg")
    golds = ("Left", "Right", "Both")
    put("train.json", [row(), *(row(question="Which lung is ill?", answer=gold) for gold in golds)])
    put("test.json", [row(question="Which lung is ill?", answer="left", qid=1)])
    report = imported("slake", put.root).report
    assert (report.open_questions, report.closed_kept_open) == (
        4,
        {"the question does not end in two words to choose from": {"Left": 1, "Right": 1, "Both": 1, "left": 1}},
    )
    done = imported("slake", put.root, out=tmp_path / "choices", closed_choices=True)
    assert (done.report.open_questions, done.report.closed_kept_open) == (0, {})
    test, yes, *train = done.samples
    assert (test.options, test.answer, test.record["answer"]) == (("Both", "Left", "Right"), "Left", "left")
    assert yes.options == ("Yes", "No")
    assert [(one.options, one.answer) for one in train] == [(test.options, gold) for gold in golds]
