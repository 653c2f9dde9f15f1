"""What an evaluation shares with the training beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import make_folder, picture, sample
from PIL import Image

from medvlm_r1.data.check.overlap import warn_of_overlap
from medvlm_r1.data.folder import read_folder
from medvlm_r1.errors import UserError


def warning(train: Path, evaluation: Path, only: str = "") -> str | None:
    trained = [one for one in read_folder(train) if not only or one.modality == only]
    return warn_of_overlap(train, trained, evaluation, read_folder(evaluation))


def test_nothing_shared(tmp_path: Path) -> None:
    one = make_folder(tmp_path / "train", [sample("a", subject="p1"), sample("flat")], flat=Image.new("L", (9, 9)))
    two = make_folder(tmp_path / "test", [sample("b", subject="p2"), sample("f2")], f2=Image.new("L", (9, 9)))
    assert warning(one, two) is None


def test_pictures_and_subjects_are_counted_by_question(tmp_path: Path) -> None:
    train = [sample("a"), sample("a2", images=("images/a.png",)), sample("b", subject="p1", modality="CT")]
    test = [sample("c", subject="p1"), sample("d"), sample("d2", images=("images/d.png",)), sample("e")]
    one = make_folder(tmp_path / "train", train, a=picture(1))
    two = make_folder(tmp_path / "test", test, d=picture(1))
    said = warning(one, two)
    assert said is not None
    assert said.startswith(
        "Warning: data.eval shares pictures or subjects with data.train: 3 of 4 questions of data.eval (the same "
        "picture 2, the same subject 1) and 3 of 3 questions of data.train (the same picture 2, the same subject 1). "
    )
    assert f"medvlm-r1 data check {one} {two}" in said
    # Only what is trained on counts.
    mri = warning(one, two, only="MRI")
    assert mri is not None
    assert "2 of 4 questions of data.eval (the same picture 2, the same subject 0) and 2 of 2 questions" in mri


def test_another_format_is_the_same_picture(tmp_path: Path) -> None:
    one = make_folder(tmp_path / "train", [sample("a")], a=picture(1))
    two = make_folder(tmp_path / "test", [sample("b", images=("images/b.bmp",))])
    picture(1).save(two / "images" / "b.bmp")
    assert "1 of 1 questions of data.eval" in str(warning(one, two))


def test_the_training_data_themselves(tmp_path: Path) -> None:
    one = make_folder(tmp_path / "train", [sample("a"), sample("b", images=())])
    assert "1 of 2 questions of data.eval (the same picture 1," in str(warning(one, one))


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    one = make_folder(tmp_path / "train", [sample("a")])
    with pytest.raises(UserError, match=r"samples\.jsonl: no such file"):
        warn_of_overlap(one, read_folder(one), tmp_path / "gone", [])
