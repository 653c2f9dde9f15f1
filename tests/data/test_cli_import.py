"""`data import` as a user meets it."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from medvlm_r1.cli.main import app
from medvlm_r1.data.folder import read_folder
from medvlm_r1.errors import UsageError


@pytest.fixture
def source(tmp_path):
    Image.new("L", (5, 4), 1).save(tmp_path / "a.png")
    rows = ["a.png,q?,x|y,x,CT,train", "absent.png,q?,,a cyst,MR,test", "a.png,q?,x|y,z,CT,train"]
    file = tmp_path / "mine.csv"

    def write(count):
        file.write_text("\n".join(["image,question,options,answer,modality,split", *rows[:count]]) + "\n")
        return file

    return write


def call(*arguments):
    # Wide, so that no name is broken over two lines.
    return CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).invoke(
        app, ["data", "import", *map(str, arguments)]
    )


def test_what_was_read_is_printed(source, tmp_path):
    result = call("csv", source(2), "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
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
    assert "2 of 2" in result.stderr


def test_json(source, tmp_path):
    options = ("csv", source(3), "--out", tmp_path / "out", "--skip-bad")
    report = json.loads(call(*options, "--json").stdout)
    [reason] = report.pop("reasons")
    assert "mine.csv, row 3: answer 'z' is neither" in reason
    counts = {"rows": 3, "written": 2, "missing": 1, "open_questions": 1, "subjects": 2, "bad_rows": 1}
    counts |= {"converted": 0, "stripped": 0, "may_show_text": 0, "subject_warning": "", "closed_kept_open": {}}
    assert report == counts | {
        "by_modality": {"CT": 1, "MRI": 1},
        "by_split": {"test": 1, "train": 1},
        "subjects_from": {"file names": 2},
    }
    lines = call(*options).stdout.splitlines()
    assert lines[-2] == "  skipped, not readable: 1 rows"
    assert "row 3: answer 'z'" in lines[-1]
    assert "  skipped, other or no modality: 2 rows" in call(*options, "--modality", "MRI").stdout.splitlines()


def test_columns_numbers_and_missing_modalities_are_told(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"img": null, "problem": "Which?", "choices": ["x", "y"], "label": 1}\n')
    named = [f"--map={pair}" for pair in ("image=img", "question=problem", "options=choices", "answer=label")]
    more = ("--first-option", 0, "--modality-for-missing", "mr", "--out", tmp_path / "out")
    result = call("jsonl", file, *named, *more)
    assert "  MRI: 1" in result.stdout.splitlines()
    [sample] = read_folder(tmp_path / "out")
    assert (sample.question, sample.options, sample.answer) == ("Which?", ("x", "y"), "y")


WRONG = {
    ("csv", "--map", "imgae=x"): "there is no field 'imgae'; did you mean 'image'",
    ("csv", "--map", "image"): "wanted FIELD=COLUMN",
    ("csv", "--map", "image=a", "--map", "image=b"): "two columns for 'image'",
    ("csv", "--modality-for-missing", "MRT"): "unknown modality 'MRT'",
    ("slake", "--map", "image=a"): "--map and --first-option are for your own questions",
}


@pytest.mark.parametrize("options", WRONG)
def test_wrong_columns_are_refused(source, tmp_path, options):
    result = call(options[0], source(1), "--out", tmp_path / "out", *options[1:])
    assert isinstance(result.exception, UsageError)
    assert WRONG[options] in str(result.exception)


@pytest.mark.parametrize("option", [("--split", "train"), ("--n", 5), ("--seed", 0), ("--giveaway",)])
def test_what_is_for_phantom_alone_is_not_ignored(source, tmp_path, option):
    result = call("csv", source(1), "--out", tmp_path / "out", *option)
    assert isinstance(result.exception, UsageError)
    assert f"{option[0]}: for phantom only" in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert isinstance(call("phantom", "--out", tmp_path / "out", "--skip-bad").exception, UsageError)
