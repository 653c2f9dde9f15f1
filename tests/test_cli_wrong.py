"""Commands used wrongly: one message that says what was seen and what to do, an exit code, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from medvlm_r1.cli.errors import run_command
from medvlm_r1.cli.options import expand_home, find_recipe


@pytest.fixture
def here(tmp_path, monkeypatch, data_dir):
    """The folder commands run in: a file, an empty folder, and a data folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.html").mkdir()
    (tmp_path / "d").symlink_to(data_dir)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evl", ["No such command 'evl'", "Did you mean 'eval'", "medvlm-r1 --help"]),
        ("train nothing", ["No such command 'nothing'", "Known: grpo, sft", "medvlm-r1 train --help"]),
        ("data imprt", ["Did you mean 'import'"]),
        ("eval phantom-base --dta d", ["no such option '--dta'; did you mean '--data'?", "medvlm-r1 eval --help"]),
        ("eval phantom-base --qqqq d", ["no such option '--qqqq'; known: '--batch-size'"]),
        ("eval phantom-base --data d", ["missing option '--out': Folder to write."]),
        ("report", ["missing argument 'RUN...': Run folders of evaluations"]),
        ("compare", ["missing argument 'RUN_A': Run folder of an evaluation."]),
        ("eval", ["missing argument 'MODEL': Folder of a model or LoRA adapter"]),
        ("eval phantom-base --data d --out", ["Option '--out' requires an argument."]),
        ("eval phantom-base --data d --out r --limit few", ["'--limit' is 'few'; wanted a valid integer."]),
        ("eval phantom-base --data d --out r --limit 0", ["'--limit' is '0'; wanted greater than or equal to 1."]),
        ("eval phantom-base --data d --out r --template x", ["'--template': 'x' is not one of 'medvlm-r1'"]),
        ("eval phantom-base other --data d --out r", ["unexpected extra argument(s) (other)"]),
        ("serve phantom-base --max-new-tokens 0", ["'--max-new-tokens' is '0'"]),
        ("audit model phantom-base --data d --out r --probes ,", ["--probes is ','", "image, options"]),
        (
            "ask x --image i --question q --option a --option b --option a",
            ["option A and option C are the same ('a' and 'a')"],
        ),
        ("train grpo --config phantm.yaml", ["phantm.yaml: no such file", "did you mean 'phantom.yaml'?"]),
        ("train grpo --config elsewhere/phantom.yaml", ["elsewhere/phantom.yaml: no such file"]),
        ("train grpo --config empty", ["empty is a folder; wanted a YAML file"]),
        ("train grpo --config phantom.yaml --memory 8", ["require --dry-run"]),
        ("benchmarks.step --config phantom.yaml traner.beta=1", ["unknown key", "trainer"]),
        ("benchmarks.step --config nowhere.yaml", ["nowhere.yaml: no such file"]),
        (
            "train grpo --config phantom.yaml data.train=d --dry-run --launch file",
            ["file: not a", "no keys with values"],
        ),
        ("export run --out new --public", ["--public requires --push-to-hub"]),
        ("data import phantom --n 0 --out new", ["at least 1"]),
        ("data import phantm --out new", ["phantom"]),
        ("data import huatuo --out new", ["needs SOURCE"]),
        ("data import phantom --modality Ultrasound --out new", ["MRI"]),
    ],
)
def test_wrong_usage_is_exit_code_2(here, command, line, words):
    code, out, err = command(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("medvlm-r1: ")
    for word in words:
        assert word in err


OUT_IS_A_FILE = [
    "demo --out file",
    "data import phantom --n 1 --out file",
    "data import phantom --n 1 --out file/deeper",
    "data split d --part a=1 --out file",
    "data check d --out file/x.html",
    "data check d --out file",
    "audit data d --out file/x.html",
    "audit data d --write-clean file",
    "audit model phantom-base --data d --out file",
    "eval phantom-base --data d --out file",
    "report r --out file/x.html",
    "export r --out file",
]


@pytest.mark.parametrize("line", OUT_IS_A_FILE)
def test_a_file_where_a_folder_is_to_be_written_is_told_before_the_work(here, command, line):
    code, out, err = command(*line.split())
    assert (code, out) == (2, "")
    assert "file is not a folder" in err
    assert sorted(path.name for path in here.iterdir()) == ["d", "empty", "file", "page.html"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyboardInterrupt(), "re-run to resume"),
        (FileExistsError(17, "File exists", "a/b"), "a/b: a file is in the place of a folder"),
        (NotADirectoryError(20, "Not a directory", "a/b"), "a/b: a file is in the place of a folder"),
        (IsADirectoryError(21, "Is a directory", "a/b"), "a/b: a folder is in the place of a file"),
        (FileNotFoundError(2, "No such file", b"a/b"), "a/b: no such file or folder"),
        (OSError(36, "File name too long", "aaa"), "aaa: the name is too long"),
        (OSError(28, "No space left on device"), "no space left on the disk"),
        (PermissionError(13, "Permission denied", "a/b"), "no permission to read or write"),
        (typer.Abort(), "Nothing was done."),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), r"('\udcff'); rename"),
    ],
)
def test_what_a_disk_refuses_is_one_message(error, words, capsys):
    def fails():
        raise error

    assert run_command(fails) == (130 if isinstance(error, KeyboardInterrupt) else 1)
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert output.err.strip().count("\n") == 0


@pytest.mark.parametrize("error", [OSError("of a library"), OSError(5, "Input/output error", "a"), KeyError("x")])
def test_a_fault_of_the_program_keeps_its_traceback(error):
    def fails():
        raise error

    with pytest.raises(type(error)):
        run_command(fails)


def test_a_reader_that_goes_away_ends_a_command_quietly():
    """`medvlm-r1 ... | head`, with more than a pipe holds."""
    code = (
        "import sys\nfrom medvlm_r1.cli.errors import run_command\n"
        "sys.exit(run_command(lambda: print('x' * 1_000_000)))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.read(1)
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() == 1


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_a_narrow_encoding_stops_nothing(encoding, tmp_path, data_dir):
    folder = tmp_path / "Ünï 画"
    folder.mkdir()
    (folder / "d").symlink_to(data_dir)
    plain = {key: value for key, value in os.environ.items() if key not in ("LANG", "LC_ALL", "PYTHONUTF8")}
    narrow = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": f"{encoding}:strict"}
    for arguments, wanted in ((["audit", "data", folder / "d", "--out", folder / "ä"], 0), (["eval", folder / "x"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "medvlm_r1", *map(str, arguments)], env=plain | narrow, capture_output=True
        )
        assert done.returncode == wanted, done.stderr
        assert b"Traceback" not in done.stderr
    assert (folder / "ä" / "audit_data.html").is_file()


def test_no_colors_and_no_frames_without_a_terminal(here, command):
    code, out, err = command("data", "check", "d")
    assert code == 0
    assert "\x1b" not in out + err
    assert command("evl")[2].count("\n") == 1


def test_a_tilde_that_the_shell_left_is_the_home_folder(here, command, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    given = ["~", "~/d", "--out=~/d", "data.train=~/d", "./~/d", "--question", "~5 mm", "is it ~/d?", "a~/b", "-x=~y"]
    home = str(here)
    assert expand_home(given) == [home, f"{home}/d", f"--out={home}/d", f"data.train={home}/d", *given[4:]]
    code, out, _ = command("data", "check", "~/d", "--out=~/check.html", "--json")
    assert code == 0
    assert json.loads(out)["report"] == f"{home}/check.html"
    assert (here / "check.html").is_file()


def test_an_import_into_another_data_set_leaves_it_alone(tmp_path, command, data_dir):
    own, table = tmp_path / "own", tmp_path / "rows.csv"
    own.mkdir()
    rows = (data_dir / "samples.jsonl").read_text()
    (own / "samples.jsonl").write_text(rows)
    table.write_text("id,question,options,answer,modality\na,Which organ?,liver|knee,liver,CT\n")
    replaces, damaged = "would replace; give another folder", "mend or remove it"
    for info, words in ((None, replaces), ("{", damaged), ('{"name": "tiny"}', replaces), ("[]", damaged)):
        if info is not None:
            (own / "info.json").write_text(info)
        for arguments in (("phantom", "--n", 1), ("csv", table)):
            code, _, err = command("data", "import", *arguments, "--out", own)
            assert code == 1
            assert words in err
    assert (own / "samples.jsonl").read_text() == rows
    assert [path.name for path in own.iterdir()] != ["images"]
    for name in ("CT", "MRI"):
        assert command("data", "import", "phantom", "--n", 1, "--modality", name, "--out", tmp_path / "p")[0] == 0


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("data import csv empty --out new", 1, "a folder without parquet files; give the file"),
        ("eval phantom-bse --data d --out r", 1, "nor 'phantom-base'; did you mean 'phantom-base'?\n"),
        ("audit model phantom-bse --data d --out r", 1, "nor 'phantom-base'; did you mean 'phantom-base'?\n"),
        *((f"audit data absent{json}", 1, "samples.jsonl") for json in ("", " --json")),
        ("compare x y --json", 1, "medvlm-r1: "),
        ("eval x --data x --out r --json", 1, "medvlm-r1: "),
        ("data check x --json", 1, "medvlm-r1: "),
        ("report x --out r.html --json", 1, "medvlm-r1: "),
        ("report r --out page.html", 2, "is a folder; give the name of the HTML file"),
        ("report r --out empty", 2, "is a folder; give the name of the HTML file"),
        ("audit data d --out page.html", 2, "is a folder; give the name of the HTML file"),
        ("data import phantom --n 1 --out locked/new", 2, "locked is not writable"),
        *((f"demo --out demo{n}", 1, f"demo{n}") for n in range(5)),
    ],
)
def test_wrong_files_and_folders(here, command, monkeypatch, line, code, words):
    damaged = [*(("demo.json", text) for text in ("{", "[3]", '{"x": 0}', "\x00")), ("seconds.json", '{"data": 1')]
    for n, (name, text) in enumerate(damaged):
        (here / f"demo{n}").mkdir()
        (here / f"demo{n}" / name).write_text(text)
    (here / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("locked"))
    ended, out, err = command(*line.split())
    assert (ended, out) == (code, "")
    assert words in err


def test_recipes_are_found_from_anywhere(here):
    assert find_recipe(Path("recipes/phantom.yaml")) == find_recipe(Path("phantom.yaml"))
    assert find_recipe(Path("recipes/accelerate/zero3.yaml")).is_file()
    (here / "phantom.yaml").write_text("own")
    assert find_recipe(Path("phantom.yaml")) == Path("phantom.yaml")
