import json

import pytest

from medvlm_r1.errors import UserError


def row(**changes):
    values = {"image": "a.png", "question": "What is seen?", "options": ["Cyst", "Mass"], "answer": "Mass"}
    return {name: value for name, value in {**values, **changes}.items() if value is not ...}


@pytest.fixture
def lines(put, picture):
    picture("a.png", 1)
    picture("images/b.png", 2)

    def write(*rows):
        return put("mine.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    return write


def test_jsonl(imported, lines):
    rows = [
        row(),
        row(answer="A", modality="mr", question_type="Grading", subject="p1", split="train", id="mine", site="X"),
        row(image=["a.png", "images/b.png", "absent.png"], options=None, answer="a cyst", grade=3),
        row(image=None),
    ]
    done = imported("jsonl", lines(*rows))
    first, full, several, none = done.samples
    assert (first.id, first.letter, first.modality, first.subject) == ("jsonl-000001", "B", "Unknown", "a")
    assert (full.id, full.answer, full.modality) == ("mine", "Cyst", "MRI")
    assert (full.question_type, full.subject, full.split, full.record) == ("Grading", "p1", "train", {"site": "X"})
    assert several.images == ("images/a.png", "images/b.png", "images/absent.png")
    assert (several.options, several.answer, several.missing, several.record) == ((), "a cyst", True, {"grade": 3})
    assert (none.images, none.missing) == ((), False)
    assert done.report.by_split == {"": 3, "train": 1}


def test_csv(imported, put, picture):
    picture("a.png")
    text = (
        "image,question,option_A,option_B,option_C,answer,modality,site\n"
        'a.png,"Which, of these?",Cyst,Mass,,b,X-ray,Leeds\n'
        "\n"
        "a.png|absent.png,Which?,,,,a cyst,,\n"
    )
    closed, opened = imported("csv", put("mine.csv", "\ufeff" + text)).samples
    assert (closed.id, closed.question, closed.letter) == ("csv-000001", "Which, of these?", "B")
    assert closed.options == ("Cyst", "Mass")
    assert (closed.modality, closed.record) == ("X-ray", {"site": "Leeds"})
    assert (opened.images, opened.options, opened.modality) == (("images/a.png", "images/absent.png"), (), "Unknown")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(question=...), "field 'question' is missing .the file has no other columns.; choose one"),
        (row(options=..., optoins=["Cyst", "Mass"]), "unknown column 'optoins'; did you mean 'options'"),
        (row(modalty="CT"), "unknown column 'modalty'; did you mean 'modality'"),
        (row(options=["b", "a"], answer="B"), "answer 'B' names several of the options"),
        (row(options=[True, None, "x"]), r"field 'options\[0\]' must be text, saw True"),
        (row(image="../a.png"), "leaves the image folder"),
        (row(frame="x"), "column 'frame' must be a whole number from 0, saw 'x'"),
        (row(plane="oblique"), "plane 'oblique'; wanted one of axial"),
        (row(slice=-1), "column 'slice' must be a whole number from 0, saw -1"),
    ],
)
def test_bad_rows(imported, lines, bad, message):
    with pytest.raises(UserError, match=rf"mine.jsonl, row 2: .*{message}"):
        imported("jsonl", lines(row(), bad))


def test_an_id_used_twice(imported, lines, tmp_path):
    with pytest.raises(UserError, match=r"mine.jsonl, row 3: the id 'x' is used in row 1 already"):
        imported("jsonl", lines(row(id="x"), row(), row(id="x")))
    assert not (tmp_path / "imported").exists()


def test_no_such_file(imported, tmp_path):
    with pytest.raises(UserError, match="a folder without parquet files; give the file that holds the questions"):
        imported("jsonl", tmp_path)
    with pytest.raises(UserError, match=r"absent.csv: no such file; give the file"):
        imported("csv", tmp_path / "absent.csv")
