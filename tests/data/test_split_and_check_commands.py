"""`data split` and `data check` as a user meets them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import make_folder, picture, sample

from medvlm_r1.data.folder import read_folder
from medvlm_r1.errors import RESEARCH_USE

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(command: Command) -> Command:
    return lambda *arguments: command("data", *arguments)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten MRI questions of nine subjects."""
    samples = [sample(f"s{i}", subject=f"p{max(i, 1)}", question_type="anatomy") for i in range(10)]
    return make_folder(tmp_path / "source", samples)


def test_split_then_check(command: Command, source: Path, tmp_path: Path) -> None:
    parts = ("--part", "train=0.6", "--part", "test=rest")
    code, out, _ = command("split", source, "--out", tmp_path, *parts, "--seed", 1)
    assert code == 0
    assert "train: 6 samples, 0 without images" in out
    assert "  MRI, anatomy: 6" in out
    assert "samples in the largest group: 2" in out
    code, out, _ = command("check", tmp_path / "train", tmp_path / "test", "--json")
    assert code == 0
    assert json.loads(out)["ok"] is True
    code, _, err = command("split", source, "--out", tmp_path, "--part", "train=2")
    assert code == 1
    assert "holds a data set already" in err


def test_a_wrong_split_is_one_message(command: Command, source: Path, tmp_path: Path) -> None:
    for arguments, code, reason in (
        (["--part", "train=3", "--by", "modalty"], 2, "did you mean 'modality'?"),
        (["--part", "train=3", "--modality", "CT"], 1, "no sample has the modality 'CT'"),
    ):
        seen, _, err = command("split", source, "--out", tmp_path / "o", *arguments)
        assert (seen, reason in err, "Traceback" in err) == (code, True, False)
    assert not (tmp_path / "o").exists()


def test_a_split_keeps_what_misses_an_image_its_source_does_not_name(command: Command, tmp_path: Path) -> None:
    samples = [sample(f"s{i}", images=(), missing=i < 2, subject=f"p{i // 2}") for i in range(4)]
    source = make_folder(tmp_path / "source", samples)
    code, out, _ = command("split", source, "--out", tmp_path / "o", "--part", "train=1", "--by", "none")
    assert "(wanted 1; groups are never divided)" in out
    code, out, _ = command("split", source, "--out", tmp_path, "--part", "all=4")
    assert code == 0
    assert "all: 4 samples, 2 without images" in out
    assert [s.missing for s in read_folder(tmp_path / "all")] == [True, True, False, False]


def test_check_fails_on_a_leak_and_shows_it(command: Command, source: Path, tmp_path: Path) -> None:
    near = picture(4).point(lambda value: min(255, value + 12))
    train = make_folder(tmp_path / "train", [sample("a"), sample("b")], a=picture(4))
    test = make_folder(tmp_path / "test", [sample("c"), sample("d")], c=near)
    code, out, err = command("check", train, test, "--out", tmp_path / "report")
    assert code == 1
    assert "  train a and test c differ in" in out
    assert "No certain fault in 4 samples and 4 images, but 1 pair" in out
    assert RESEARCH_USE in out
    assert "Traceback" not in err
    page = (tmp_path / "report" / "check.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert command("check", train, test, "--allow-near")[0] == 0
    assert command("check", train, "--against", test, "--json")[0] == 1
    assert command("check", train, test, "--near", 40)[0] == 2
    code, _, err = command("check", tmp_path / "nothing")
    assert (code, "no such file" in err) == (1, True)
