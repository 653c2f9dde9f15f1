"""`data split` and `data check` as a user meets them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import brighter, make_folder, picture, sample

from medvlm_r1.data.folder import read_folder
from medvlm_r1.errors import RESEARCH_USE

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten MRI questions of nine subjects."""
    samples = [sample(f"s{i}", subject=f"p{max(i, 1)}", question_type="anatomy") for i in range(10)]
    return make_folder(tmp_path / "source", samples)


def test_split_then_check(command: Command, source: Path, tmp_path: Path) -> None:
    split = ("data", "split", source, "--out", tmp_path)
    code, out, _ = command(*split, "--part", "train=0.6", "--part", "test=rest", "--seed", 1)
    assert code == 0
    for line in ("train: 6 samples, 0 without images", "  MRI, anatomy: 6", "samples in the largest group: 2"):
        assert line in out
    code, out, _ = command("data", "check", tmp_path / "train", tmp_path / "test", "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)
    for arguments, code, reason in (
        (["--part", "train=2"], 1, "holds a data set already"),
        (["--part", "x=3", "--by", "modalty"], 2, "did you mean 'modality'?"),
        (["--part", "x=3", "--modality", "CT"], 1, "no sample has the modality 'CT'"),
    ):
        seen, _, err = command(*split, *arguments)
        assert (seen, reason in err, "Traceback" in err) == (code, True, False)
    assert not (tmp_path / "x").exists()


def test_a_split_keeps_samples_whose_image_the_source_does_not_name(command: Command, tmp_path: Path) -> None:
    samples = [sample(f"s{i}", images=(), missing=i < 2, subject=f"p{i // 2}") for i in range(4)]
    source = make_folder(tmp_path / "source", samples)
    _, out, _ = command("data", "split", source, "--out", tmp_path / "o", "--part", "train=1", "--by", "none")
    assert "(wanted 1; groups are never divided)" in out
    code, out, _ = command("data", "split", source, "--out", tmp_path, "--part", "all=4")
    assert (code, "all: 4 samples, 2 without images" in out) == (0, True)
    assert [s.missing for s in read_folder(tmp_path / "all")] == [True, True, False, False]


def test_check_fails_on_a_leak_and_shows_it(command: Command, tmp_path: Path) -> None:
    train = make_folder(tmp_path / "train", [sample("a"), sample("b")], a=picture(4))
    test = make_folder(tmp_path / "test", [sample("c"), sample("d")], c=brighter(picture(4)))
    code, out, err = command("data", "check", train, test, "--out", tmp_path / "report")
    assert (code, RESEARCH_USE in out, "Traceback" in err) == (1, True, False)
    assert "  train a and test c differ in" in out
    assert "No certain fault in 4 samples and 4 images, but 1 pair" in out
    assert (tmp_path / "report" / "check.html").read_text().count("data:image/png;base64,") == 2
    codes = {("--allow-near",): 0, ("--against", test, "--json"): 1, ("--near", 40): 2}
    for options, expected in codes.items():
        folders = [train] if options[0] == "--against" else [train, test]
        assert command("data", "check", *folders, *options)[0] == expected
    code, _, err = command("data", "check", tmp_path / "nothing")
    assert (code, "no such file" in err) == (1, True)
