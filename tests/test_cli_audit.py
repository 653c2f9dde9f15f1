"""The audit commands as a user meets them."""

import json
from pathlib import Path

import pytest

from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE


@pytest.fixture
def command(command, monkeypatch, tmp_path):
    """The shared runner, in an empty folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return command


@pytest.fixture
def folder(tmp_path):
    samples = [
        Sample(
            id=f"q{n}",
            images=(f"images/{n}.png",),
            question="What is seen?",
            options=("cyst", "mass") if n % 2 else ("mass", "cyst"),
            answer="cyst" if n < 10 else "mass",
            modality="MRI" if n < 10 else "CT",
        )
        for n in range(11)
    ]
    write_folder(tmp_path / "data", samples, info={})
    return tmp_path / "data"


def test_a_page_and_a_verdict(command, folder):
    code, out, _ = command("audit", "data", folder)
    assert code == 0
    assert "FAIL    100 % of the MRI questions can be answered without the image" in out
    assert "NOT RUN One CT question is too few for a verdict" in out
    assert "'cyst' was correct 10 of 10 times it was offered" in out
    assert RESEARCH_USE in out
    assert [path.name for path in Path().iterdir()] == ["audit_data.html"]


def test_json_alone_writes_no_file(command, folder):
    code, out, _ = command("audit", "data", folder, "--json", "--fit-on", "MRI")
    assert code == 0
    record = json.loads(out)
    assert record["baselines"]["option_prior_fit"]["CT"]["percent"] == 0
    assert record["baselines"]["option_prior_loo"]["MRI"]["percent"] == 100
    assert (record["data"], record["clean"], record["notice"]) == (str(folder), None, RESEARCH_USE)
    assert list(Path().iterdir()) == []


def test_a_folder_gets_page_and_figures_and_a_file_the_page(command, folder, tmp_path):
    code, out, _ = command("audit", "data", folder, "--out", tmp_path / "audit", "--json")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == ["audit_data.html", "audit_data.json"]
    assert json.loads((tmp_path / "audit/audit_data.json").read_text()) == json.loads(out)
    assert command("audit", "data", folder, "--out", tmp_path / "page.html")[0] == 0
    assert RESEARCH_USE in (tmp_path / "page.html").read_text()


def test_a_clean_set(command, folder, tmp_path):
    arguments = ("audit", "data", folder, "--write-clean", tmp_path / "clean", "--clean-of", "option_prior_loo")
    code, out, _ = command(*arguments)
    assert code == 0
    assert "Clean set" in out
    assert [sample.id for sample in read_folder(tmp_path / "clean")] == ["q10"]
    code, _, err = command(*arguments)
    assert code == 1
    assert "there is something already" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fit-on", "nowhere"], "neither a data folder nor a modality"),
        (["--clean-of", "longest"], "--write-clean"),
        (["--write-clean", "x", "--clean-of", "longst"], "did you mean 'longest'"),
    ],
)
def test_wrong_usage_is_one_message(command, folder, arguments, words):
    code, out, err = command("audit", "data", folder, *arguments)
    assert (code, out, words in err, "Traceback" in err) == (2, "", True, False)


def test_a_giveaway_is_planted_from_the_command_line(command, tmp_path):
    arguments = ("data", "import", "phantom", "--n", 2, "--modality", "CT")
    for name, flags in (("planted", ["--giveaway"]), ("plain", [])):
        code, out, _ = command(*arguments, *flags, "--out", tmp_path / name, "--json")
        assert (code, json.loads(out)["written"]) == (0, 2)
        assert json.loads((tmp_path / name / "info.json").read_text()).get("giveaway", False) == bool(flags)
    code, _, err = command("data", "import", "slake", tmp_path, "--giveaway", "--out", tmp_path / "d")
    assert code == 2
    assert "--giveaway: for phantom only" in err
