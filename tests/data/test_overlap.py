"""What parts share: mirrored twins, questions touched, and an evaluation beside its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pictures import as_jpeg, brighter, counts, make_folder, picture, sample
from PIL import Image

from medvlm_r1.data.check import check_folders, warn_of_overlap
from medvlm_r1.data.check.findings import Touched, check_lines
from medvlm_r1.data.check.pictures import FLIPS
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.sample import Sample


def warning(train: Path, evaluation: Path, only: str = "") -> str | None:
    trained = [train for train in read_folder(train) if not only or train.modality == only]
    return warn_of_overlap(train, trained, evaluation, read_folder(evaluation))


def test_nothing_shared(tmp_path: Path) -> None:
    train = make_folder(tmp_path / "train", [sample("a", subject="p1"), sample("flat")], flat=Image.new("L", (9, 9)))
    two = make_folder(tmp_path / "test", [sample("b", subject="p2"), sample("f2")], f2=Image.new("L", (9, 9)))
    assert warning(train, two) is None


def test_pictures_and_subjects_are_counted_by_question(tmp_path: Path) -> None:
    train = [sample("a"), sample("a2", images=("images/a.png",)), sample("b", subject="p1", modality="CT")]
    test = [sample("c", subject="p1"), sample("d"), sample("d2", images=("images/d.png",)), sample("e")]
    train = make_folder(tmp_path / "train", train, a=picture(1))
    two = make_folder(tmp_path / "test", test, d=picture(1))
    message = warning(train, two)
    assert message is not None
    assert message.startswith(
        "Warning: data.eval shares images or subjects with data.train: 3 of 4 questions of data.eval (the same "
        "image 2, the same subject 1) and 3 of 3 questions of data.train (the same image 2, the same subject 1). "
    )
    assert f"medvlm-r1 data check {train} {two}" in message
    assert "3 of 3 questions of data.eval (the same image 3," in str(warning(train, train))
    # Only what is trained on counts.
    mri = warning(train, two, only="MRI")
    assert mri is not None
    assert "2 of 4 questions of data.eval (the same image 2, the same subject 0) and 2 of 2 questions" in mri


@pytest.mark.parametrize("flip", FLIPS)
def test_a_mirrored_copy_in_another_part(tmp_path: Path, flip: str) -> None:
    original = picture(2)
    twin = as_jpeg(original.transpose(FLIPS[flip]))
    train = make_folder(
        tmp_path / "train", [sample("a"), sample("b"), sample("b2", images=("images/b.png",))], b=original
    )
    two = make_folder(tmp_path / "test", [sample("c"), sample("d")], d=twin)
    check = check_folders([train, two])
    assert counts(check) == {"near_between": 1}
    [pair] = check.sharing.near_between.items
    assert (pair.a.sample, pair.b.sample, pair.flip) == ("b", "d", flip)
    assert pair.distance <= 4
    assert f"  train b and test d differ in {pair.distance} of 64 bits, the second {flip}" in check_lines(check)
    assert check.touched == (
        Touched(part="train", samples=3, any=2, picture=0, near=2, subject=0),
        Touched(part="test", samples=2, any=1, picture=0, near=1, subject=0),
    )


def test_a_symmetric_picture_is_not_its_own_twin(tmp_path: Path) -> None:
    half = picture(4)
    both = Image.new("L", (320, 160))
    both.paste(half)
    both.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (160, 0))
    assert counts(check_folders([make_folder(tmp_path / "one", [sample("a")], a=both)])) == {}
    # A copy is near as it is, and not counted once more for its mirror image.
    folders = [
        make_folder(tmp_path / name, [sample(name)], **{name: copy})
        for name, copy in (("x", both), ("y", brighter(both)))
    ]
    assert counts(check_folders(folders)) == {"near_between": 1}


def test_questions_touched_are_counted(tmp_path: Path) -> None:
    def about(id: str, image: str, **changes: Any) -> Sample:
        return sample(id, images=(f"images/{image}.png",), **changes)

    train = [about("a", "a", subject="p1"), about("a2", "a"), about("b", "b"), about("t", "t", subject="p1")]
    test = [about("c", "c"), about("c2", "c"), about("d", "d", subject="p1"), about("e", "e"), about("f", "f")]
    train = make_folder(tmp_path / "train", train, a=picture(1), b=picture(2))
    two = make_folder(tmp_path / "test", test, c=picture(1), e=brighter(picture(2)))
    check = check_folders([train, two])
    assert check.touched == (
        Touched(part="train", samples=4, any=4, picture=2, near=1, subject=2),
        Touched(part="test", samples=5, any=4, picture=2, near=1, subject=1),
    )
    lines = check_lines(check)
    at = lines.index("Questions that share something with another part:")
    assert lines[at + 2] == "  test: 4 of 5 (the same image 2, a near-duplicate 1, the same subject 1)"
