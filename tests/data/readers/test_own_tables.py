"""Tables as people have them: what each becomes, or why it is refused. Never a question that reads wrongly."""

import base64
import json

import pytest

from medvlm_r1.data.importing.draft import Reading
from medvlm_r1.errors import UserError

ROW = {"image": "a.png", "question": "Which?", "options": ["x", "y", "z"], "answer": "B"}
HEAD = "image,question,A,B,C,answer\n"


@pytest.fixture
def tables(put, picture, imported):
    """Imports a file of this content; options, letter or answer, and modality of its only question."""
    picture("a.png")

    def read(name, content, **arguments):
        [sample] = imported("csv", put(name, content), **arguments).samples
        return sample

    return read


def row(**changes):
    return json.dumps({name: value for name, value in {**ROW, **changes}.items() if value is not ...})


def test_all_fields(put, picture, imported, tmp_path):
    picture("a.png", 1)
    picture("images/b.png", 2)
    full = {"modality": "mr", "question_type": "Grading", "subject": "p1", "split": "train", "id": "mine", "site": "X"}
    several = row(image=["a.png", "images/b.png", "absent.png"], options=None, answer="a cyst", grade=3)
    done = imported("jsonl", put("mine.jsonl", "\n".join([row(), row(**full), several, row(image=None)])))
    first, second, third, fourth = done.samples
    assert (first.id, first.letter, first.modality, first.subject) == ("jsonl-000001", "B", "Unknown", "a")
    assert (second.id, second.modality, second.question_type) == ("mine", "MRI", "Grading")
    assert (second.subject, second.split, second.record) == ("p1", "train", {"site": "X"})
    assert third.images == ("images/a.png", "images/b.png", "images/absent.png")
    assert (third.options, third.answer, third.missing, third.record) == ((), "a cyst", True, {"grade": 3})
    assert (fourth.images, fourth.missing) == ((), False)
    assert done.report.by_split == {"": 3, "train": 1}
    twice = put("twice.jsonl", "\n".join([row(id="x"), row(), row(id="x")]))
    with pytest.raises(UserError, match=r"twice.jsonl, row 3: the id 'x' is used in row 1 already"):
        imported("jsonl", twice)
    assert [sample.id for sample in imported("jsonl", twice, skip_bad=True).samples] == ["x", "jsonl-000002"]
    with pytest.raises(UserError, match="a folder without parquet files; give the file that holds the questions"):
        imported("jsonl", tmp_path)
    with pytest.raises(UserError, match=r"absent.csv: no such file; give the file"):
        imported("csv", tmp_path / "absent.csv")


COLUMNS = [
    *("A,B", "a,b", "option_a,option_b", "Option A,Option B", "Option_A,Option_B", "optionA,optionB", "opa,opb"),
    *("choice_a,choice_b", "Choice A,Choice B", "option1,option2", "opt1,opt2", "option_0,option_1", "1,2"),
    *("answer_a,answer_b", "option-a,option-b", "(A),(B)", "OPTION 1,OPTION 2", "candidate a,candidate b"),
]
ANSWERS = [
    *("B", "b", " b ", "(b)", "(B)", "B.", "[B]", "**B**", "Option B", "option_b", "\uff22", "B) y", "Y", "y"),
    *("<answer> B </answer>", "<think>It is A.</think><answer>B</answer>"),
]
LETTERED = [
    *({"A": "x", "B": "y"}, {"A": "x", "B": "y", "C": None}, {"0": "x", "1": "y"}),
    *("x|y", '["x", "y"]', '{"A": "x", "B": "y"}', "['x', 'y']", "A. x\nB. y", "A) x B) y"),
    *(["A. x", "B. y"], ["x", "y", None]),
]
LINE = "a.png,Which?,x,y,z,B\n"
# The same question with the options x and y, or x, y and z, and the answer y.
FILES = [
    *(("t.csv", f"image,question,{columns},answer\na.png,Which?,x,y,{a}\n") for columns in COLUMNS for a in ("B", "y")),
    *(("t.csv", f"{HEAD}a.png,Which?,x,y,z,{answer}\n") for answer in ANSWERS),
    *(("t.jsonl", row(options=options, answer=["B"])) for options in LETTERED),
    ("t.jsonl", row(options={"1": "x", "2": "y"}, answer="2")),
    ("utf16.csv", (HEAD + LINE).encode("utf-16")),
    ("bom.csv", f"\ufeff{HEAD}{LINE}"),
    ("semicolon.csv", (HEAD + LINE).replace(",", ";")),
    ("tab.tsv", (HEAD + LINE).replace(",", "\t")),
    ("quoted.csv", HEAD + '\n"a.png","Which?",x,y,"z",b\n'),
    ("trailing.csv", "image,question,A,B,C,answer,,\na.png,Which?,x,y,z,B,,\n"),
    ("cells.csv", HEAD + "a.png,Which?,x,y,z,B,,,\n"),
    ("caps.csv", f"Image , Question , Choice A,Choice B,Choice C,ANSWER\n{LINE}"),
    *((name, f"[{row()}]") for name in ("array.json", "array.jsonl")),
    *((name, row()) for name in ("lines.json", "lines.csv")),
    ("table.jsonl", HEAD + LINE),
    ("images.jsonl", row(image=..., images=["a.png"])),
    ("placeholder.jsonl", row(question="<image>\nWhich?")),
    ("inside.jsonl", row(question="Which? A) x B) y C) z", options=...)),
    ("inside_text.jsonl", row(question="Which? A) x B) y C) z", options=..., answer="y")),
    ("repeated.jsonl", row(question="Which?\nAnswer Choices: (A) x (B) y (C) z")),
]


@pytest.mark.parametrize(("name", "content"), FILES)
def test_files_of_one_question(tables, name, content):
    sample = tables(name, content)
    assert (sample.question, sample.options[:2], sample.options[2:] in ((), ("z",))) == ("Which?", ("x", "y"), True)
    assert (sample.letter, sample.images, sample.missing, sample.record) == ("B", ("images/a.png",), False, {})


def test_modalities_and_images(tables, put, picture_bytes):
    spellings = {"MRI brain": "MRI", "Chest X ray": "X-ray", "T2 mr": "MRI", "CT, axial": "CT"}
    for spelling, modality in spellings.items():
        assert tables("t.jsonl", row(modality=spelling)).modality == modality
    encoded = base64.b64encode(picture_bytes(9)).decode()
    uri = tables("t.jsonl", row(image=f"data:image/png;base64,{encoded}"))
    assert uri.images == tables("t.jsonl", row(image=encoded)).images != ("images/a.png",)
    assert not uri.missing
    assert tables("t.jsonl", row(image=str(put.root / "a.png"))).images == ("images/a.png",)


def test_options_of_the_user(tables):
    for first, letter in ((0, "B"), (1, "A")):
        assert tables("t.jsonl", row(answer=1), reading=Reading(first_option=first)).letter == letter
    with pytest.raises(UserError, match="answer '3' is not a number from 0 to 2"):
        tables("t.jsonl", row(answer=3), reading=Reading(first_option=0))
    content = row(image=..., img="a.png", answer="z", label="B", options=..., choices=["x", "y"])
    chosen = (("image", "img"), ("answer", "label"), ("options", "choices"))
    sample = tables("t.jsonl", content, reading=Reading(columns=chosen, modality_for_missing="MRI"))
    assert (sample.options, sample.letter, sample.modality) == (("x", "y"), "B", "MRI")
    assert sample.record == {"answer": "z"}
    assert tables("t.jsonl", row(modality="CT"), reading=Reading(modality_for_missing="MRI")).modality == "CT"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        # Options.
        (row(options="brain; liver; knee"), r"holds one option, 'brain; liver; knee'.*'\|'"),
        ("image,question,option_A,answer\na.png,q?,x,A\n", "one option"),
        (row(options={"A": "x", "C": "y"}), r"the keys \['A', 'C'\]; expected A, B"),
        (row(options="['x' 'y']"), "neither a JSON list nor a Python list"),
        (row(options="[__import__('os').getcwd(), 'x']"), "neither a JSON list nor a Python list"),
        (row(options=["x", None, "z"]), r"'options\[1\]' must be text"),
        ("image,question,A,B,C,D,answer\na.png,q?,x,y,nan,nan,B\n", "option C holds 'nan'"),
        ("image,question,A,a,B,b,answer\na.png,q?,x,w,y,v,A\n", "columns 'A' and 'a' are the same option"),
        ("image,question,A,B,option1,option2,answer\na.png,q?,x,y,x,y,A\n", "two sets of option columns"),
        ("image,question,A,B,D,answer\na.png,q?,x,y,z,A\n", "do not follow one another"),
        (row(options=..., choices=["x", "y"], answer="x"), "'choices' seems to hold options.*--map options=choices"),
        ("image,question,answer,distractor1\na.png,q?,x,y\n", "'distractor1' seems to hold options"),
        # Answers.
        ("image,question,answer\na.png,q?,A\n", "answer 'A' is a letter, but the row has no options"),
        (row(options=["B", "A", "O"]), "answer 'B' is the text of option A and the letter of another"),
        (row(question="Which? A) y B) x C) z"), "the question lists the options in another order"),
        (row(answer="B) x"), "neither"),
        (row(answer=["A", "B"]), "must be text"),
        (row(answer="2"), "--first-option 0 or --first-option 1"),
        (row(answer=1.0), "--first-option 0 or --first-option 1"),
        (row(answer=None), "'answer' is empty"),
        # Columns.
        (row(question=...), "field 'question' is missing .the file has no other columns.; choose one"),
        (row(options=..., optoins=["x", "y"]), "unknown column 'optoins'; did you mean 'options'"),
        (row(modalty="CT"), "unknown column 'modalty'; did you mean 'modality'"),
        (row(frame="x"), "column 'frame' must be a whole number from 0, saw 'x'"),
        (row(slice=-1), "column 'slice' must be a whole number from 0, saw -1"),
        (row(plane="oblique"), "plane 'oblique'; wanted one of axial"),
        (row(image=..., image_path="a.png"), "did you mean 'image_path', which the file has. Add --map image=image_p"),
        (row(answer=..., label="B"), "--map answer=label"),
        (row(A="x", B="y"), "options are given twice, in 'options' and in 'A'.*--map options=options"),
        ("image|question|answer\na.png|q?|x\n", "fields 'image', 'question', 'answer' are missing"),
        ("image,Image,question,answer\na.png,a.png,q?,x\n", "columns 'image' and 'Image' both name the image"),
        # Images and the rest.
        (row(image="https://example.org/a.png"), "is a URL, and nothing is downloaded"),
        (row(image="folder"), "'folder' is a folder"),
        (row(image="circle.png"), "circle.png: links that lead in a circle"),
        (row(image="/etc/passwd"), "leaves the image folder .*--images"),
        (row(image="data:image/png;base64,%%%"), "damaged base64"),
        (row(image=[[[1, 2], [3, 4]]]), "must be the name of a file or its bytes"),
        (row(modality="PET/CT"), "'PET/CT'.*names several modalities"),
        # Files.
        ((HEAD + "a.png,q?,x,y,z,B\n").encode("utf-16-le"), "holds zero bytes"),
        ((HEAD + "a.png,Gr\xf6\xdfe?,x,y,z,B\n").encode("latin-1"), "not UTF-8.*CSV UTF-8"),
        (b"PK\x03\x04" + bytes(40), "an Excel workbook"),
        (b"\x1f\x8b" + bytes(40), "a compressed file"),
        (row().encode("utf-16"), "JSON in UTF-16"),
        (json.dumps(ROW, indent=1), "one JSON object over several lines"),
        (f"{row()},\n", "write one object a line, without commas"),
        (row().replace('"answer"', '"answer": "A", "answer"'), "key 'answer' is given twice"),
        ("", "the file is empty"),
        (HEAD, "there are no rows"),
        ("[]", "there are no rows"),
    ],
)
def test_refused_with_the_reason(tables, put, content, reason):
    put("folder/x.txt", "x")
    (put.root / "circle.png").symlink_to("circle.png")
    with pytest.raises(UserError, match=reason):
        tables("t.csv", content)


def test_all_problems_of_a_file_are_in_one_short_message(tables):
    first = row(image="https://example.org/a.png", modality="brain", answer=3, options=["x", "x"])
    with pytest.raises(UserError) as refused:
        tables("t.jsonl", "\n".join([first, "{bad", row(question=""), row(), *[row(modality="knee")] * 7]))
    for reason in (
        *("10 rows cannot be used", "row 1: unknown modality 'brain'", "row 1: answer '3' is a number"),
        *("row 1: option A and option B are the same", "row 2: malformed JSON", "row 3: question holds an empty text"),
        *("(6 more such rows)", "Nothing was written"),
    ):
        assert reason in str(refused.value)
    with pytest.raises(UserError, match="and 480 more faults") as refused:
        tables("t.jsonl", "\n".join(row(answer=f"answer {number}") for number in range(500)))
    assert len(str(refused.value).splitlines()) < 30
