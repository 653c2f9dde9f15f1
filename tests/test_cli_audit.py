"""The audit commands as a user meets them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE


@pytest.fixture
def command(command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The shared runner, in an empty folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
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


def test_a_page_and_a_verdict(command: Any, folder: Path) -> None:
    code, out, _ = command("audit", "data", folder)
    assert code == 0
    assert "FAIL    100 % of the MRI questions can be answered without the image" in out
    assert "NOT RUN One CT question is too few for a verdict" in out
    assert "'cyst' was correct 10 of 10 times it was offered" in out
    assert RESEARCH_USE in out
    assert [path.name for path in Path().iterdir()] == ["audit_data.html"]


def test_json_alone_writes_no_file(command: Any, folder: Path) -> None:
    code, out, _ = command("audit", "data", folder, "--json", "--fit-on", "MRI")
    assert code == 0
    record = json.loads(out)
    assert record["baselines"]["option_prior_fit"]["CT"]["percent"] == 0
    assert record["baselines"]["option_prior_loo"]["MRI"]["percent"] == 100
    assert (record["data"], record["clean"], record["notice"]) == (str(folder), None, RESEARCH_USE)
    assert list(Path().iterdir()) == []


def test_a_folder_gets_page_and_figures(command: Any, folder: Path, tmp_path: Path) -> None:
    code, out, _ = command("audit", "data", folder, "--out", tmp_path / "audit", "--json")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == ["audit_data.html", "audit_data.json"]
    assert json.loads((tmp_path / "audit/audit_data.json").read_text()) == json.loads(out)


def test_a_file_gets_the_page(command: Any, folder: Path, tmp_path: Path) -> None:
    assert command("audit", "data", folder, "--out", tmp_path / "audit_data.html")[0] == 0
    assert RESEARCH_USE in (tmp_path / "audit_data.html").read_text()
    assert not (tmp_path / "audit_data.json").exists()


def test_a_clean_set(command: Any, folder: Path, tmp_path: Path) -> None:
    arguments = ("audit", "data", folder, "--write-clean", tmp_path / "clean", "--clean-of", "option_prior_loo")
    code, out, _ = command(*arguments)
    assert code == 0
    assert "Clean set" in out
    assert [sample.id for sample in read_folder(tmp_path / "clean")] == ["q10"]
    code, _, err = command(*arguments)
    assert code == 1
    assert "there is something already" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--fit-on", "nowhere"], 2, "neither a data folder nor a modality"),
        (["--clean-of", "longest"], 2, "--write-clean"),
        (["--write-clean", "x", "--clean-of", "longst"], 2, "did you mean 'longest'"),
        (["--write-clean", "x", "--clean-of", "option_prior_fit"], 2, "--fit-on"),
    ],
)
def test_wrong_usage_is_one_message(command: Any, folder: Path, arguments: list[str], code: int, words: str) -> None:
    found, out, err = command("audit", "data", folder, *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


def test_no_data_folder(command: Any, tmp_path: Path) -> None:
    code, _, err = command("audit", "data", tmp_path / "absent")
    assert code == 1
    assert "samples.jsonl" in err


def test_no_torch_and_no_slow_library_on_the_way(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['medvlm-r1', 'audit', 'data', {str(folder)!r}, '--out', {str(tmp_path / 'page.html')!r}]\n"
        "from medvlm_r1.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "slow = {'torch', 'transformers', 'matplotlib', 'scipy.stats', 'datasets', 'pandas'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "page.html").is_file()


def test_a_shortcut_is_planted_from_the_command_line(command: Any, tmp_path: Path) -> None:
    arguments = ("data", "import", "phantom", "--n", 2, "--modality", "CT")
    assert command(*arguments, "--shortcut", "--out", tmp_path / "planted", "--json")[0] == 0
    assert command(*arguments, "--out", tmp_path / "plain", "--json")[0] == 0
    planted, plain = (json.loads((tmp_path / name / "info.json").read_text()) for name in ("planted", "plain"))
    assert planted["shortcut"] is True
    assert "shortcut" not in plain
    code, _, err = command("data", "import", "slake", tmp_path, "--shortcut", "--out", tmp_path / "d")
    assert code == 2
    assert "--shortcut: for phantom only" in err
