"""`data import` as a user meets it."""

import json

import pytest
from PIL import Image

from medvlm_r1.data.folder import read_folder


@pytest.fixture
def source(tmp_path):
    """A function that writes a table of one to three questions; the third is unusable."""
    Image.new("L", (5, 4), 1).save(tmp_path / "a.png")
    rows = ["a.png,q?,x|y,x,CT,train", "absent.png,q?,,a cyst,MR,test", "a.png,q?,x|y,z,CT,train"]
    file = tmp_path / "mine.csv"

    def write(count):
        file.write_text("\n".join(["image,question,options,answer,modality,split", *rows[:count]]) + "\n")
        return file

    return write


@pytest.fixture
def run(command, tmp_path):
    """A function that calls the command; its exit code, output and errors."""
    return lambda *arguments: command("data", "import", *arguments, "--out", tmp_path / "out")


def test_the_report(source, tmp_path, run):
    code, out, err = run("csv", source(2))
    assert (code, "2 of 2" in err) == (0, True)
    assert out.splitlines() == [
        f"{tmp_path / 'out'}: 2 questions written, 1 of them without images.",
        "  subjects: 2, from file names",
        "    A file name is not a patient: images of one patient count as different subjects. If you know the "
        "patients, import with a column 'patient_id'.",
        "  rows read: 2; open questions written: 1",
        "  CT: 1",
        "  MRI: 1",
        "  split test: 1",
        "  split train: 1",
    ]
    report = json.loads(run("csv", source(3), "--skip-bad", "--json")[1])
    [reason] = report.pop("reasons")
    assert "mine.csv, row 3: answer 'z' is neither" in reason
    counts = {"rows": 3, "written": 2, "missing": 1, "open_questions": 1, "subjects": 2, "bad_rows": 1}
    counts |= {"converted": 0, "stripped": 0, "may_show_text": 0, "subject_warning": "", "closed_kept_open": {}}
    assert report == counts | {
        "by_modality": {"CT": 1, "MRI": 1},
        "by_split": {"test": 1, "train": 1},
        "subjects_from": {"file names": 2},
    }
    lines = run("csv", source(3), "--skip-bad")[1].splitlines()
    assert (lines[-2], "row 3: answer 'z'" in lines[-1]) == ("  skipped, not readable: 1 rows", True)
    assert "  skipped, other or no modality: 2 rows" in run("csv", source(3), "--skip-bad", "--modality", "MRI")[1]


def test_columns_numbers_and_missing_modalities_are_chosen(tmp_path, run):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"img": null, "problem": "Which?", "choices": ["x", "y"], "label": 1}\n')
    named = [f"--map={pair}" for pair in ("image=img", "question=problem", "options=choices", "answer=label")]
    _, out, _ = run("jsonl", file, *named, "--first-option", 0, "--modality-for-missing", "mr")
    assert "  MRI: 1" in out.splitlines()
    [sample] = read_folder(tmp_path / "out")
    assert (sample.question, sample.options, sample.answer) == ("Which?", ("x", "y"), "y")


WRONG = {
    ("csv", "--map", "imgae=x"): "there is no field 'imgae'; did you mean 'image'",
    ("csv", "--map", "image"): "wanted FIELD=COLUMN",
    ("csv", "--map", "image=a", "--map", "image=b"): "two columns for 'image'",
    ("csv", "--modality-for-missing", "MRT"): "unknown modality 'MRT'",
    ("slake", "--map", "image=a"): "--map and --first-option are for your own questions",
    ("csv", "--split", "train"): "--split: for phantom only",
    ("csv", "--n", 5): "--n: for phantom only",
    ("csv", "--seed", 0): "--seed: for phantom only",
    ("csv", "--giveaway"): "--giveaway: for phantom only",
    ("phantom", "--skip-bad"): "phantom creates its own rows and images",
}


@pytest.mark.parametrize("options", WRONG)
def test_wrong_options_are_refused(source, tmp_path, run, options):
    format, *rest = options
    code, _, err = run(format, *([] if format == "phantom" else [source(1)]), *rest)
    assert (code, WRONG[options] in " ".join(err.split())) == (2, True)
    assert not (tmp_path / "out").exists()
