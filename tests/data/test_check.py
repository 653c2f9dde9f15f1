"""Checks of folders made by hand: each fault is reported with its location, and nothing else is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import as_jpeg, brighter, counts, make_folder, picture, sample
from PIL import Image

from medvlm_r1.data.check import check_folders, warn_of_overlap
from medvlm_r1.data.check.findings import Place, Touched, check_lines
from medvlm_r1.data.check.pictures import FLIPS
from medvlm_r1.data.check.run import plain
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UsageError, UserError


def add_line(folder: Path, line: str | bytes) -> None:
    with (folder / "samples.jsonl").open("ab") as stream:
        stream.write((line if isinstance(line, bytes) else line.encode()) + b"\n")


def as_row(**changes: Any) -> str:
    row = {"id": "x", "images": [], "question": "?", "options": ["a", "b"], "answer": "a", "modality": "CT"}
    return json.dumps({**row, **changes})


def about(id: str, image: str, **changes: Any) -> Sample:
    return sample(id, images=(f"images/{image}.png",), **changes)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two sound folders with nothing in common."""
    train = make_folder(tmp_path / "train", [sample("a"), sample("b", options=("x", "mass", "y"))])
    test = make_folder(tmp_path / "test", [sample("c", options=(), answer="a cyst"), sample("d", modality="CT")])
    return train, test


def test_sound_folders(folders: tuple[Path, Path]) -> None:
    check = check_folders(folders)
    assert (counts(check), check.problems, check.notes) == ({}, [], [])
    assert check.verdict == (
        "No problems found: all of 4 samples and 4 images can be used, and the 2 parts share no image, question or "
        "subject."
    )
    record = json.loads(json.dumps(check.as_record()))
    assert (record["ok"], record["sharing"]["near_between"]) == (True, {"count": 0, "items": []})
    train, test = record["parts"]
    assert (train["name"], train["samples"], train["images"], train["options"]) == ("train", 2, 2, {"2": 1, "3": 1})
    assert (test["open_questions"], test["modalities"]) == (1, {"CT": 1, "MRI": 1})


def test_bad_rows_are_listed_and_the_others_used(folders: tuple[Path, Path]) -> None:
    train, _ = folders
    for line in ("{broken", as_row(answer="c"), b'{"id": "\xff"}', "[1]", as_row(id="a"), as_row(id="good")):
        add_line(train, line)
    check = check_folders([train])
    assert [row.row for row in check.bad_rows.items] == [3, 4, 5, 6, 7]
    assert (check.answers_not_options, check.parts[0].samples) == (1, 3)
    assert check.problems == ["1 row with an answer that is not one of its options", "4 rows that cannot be read"]
    assert "  train/samples.jsonl, row 4: answer 'c' is not among the options ['a', 'b']" in check_lines(check)
    for _ in range(250):
        add_line(train, "{}")
    check = check_folders([train])
    assert (check.bad_rows.count, len(check.bad_rows.items)) == (255, 100)
    assert "  ... and 250 more" in check_lines(check)


def test_missing_and_unreadable_images(folders: tuple[Path, Path]) -> None:
    train, test = folders
    (train / "images" / "a.png").unlink()
    (train / "images" / "b.png").write_bytes(b"")
    whole = (test / "images" / "c.png").read_bytes()
    (test / "images" / "c.png").write_bytes(whole[: len(whole) // 2])
    (test / "images" / "d.png").unlink()
    (test / "images" / "d.png").symlink_to(train / "samples.jsonl")
    check = check_folders(folders)
    assert counts(check) == {"missing": 1, "unreadable": 3}
    assert check.missing.items == (Place("train", "a", "images/a.png"),)
    assert check.problems == ["1 image not there", "3 images that cannot be shown"]
    reasons = {bad.place.sample: bad.reason for bad in check.unreadable.items}
    for name, reason in {"b": "0 bytes", "c": "cut short", "d": "leads outside"}.items():
        assert reason in reasons[name]
    # A file may be called after its patient: images are named by their sample, and by their number if it has several.
    assert str(train) not in "".join(reasons.values())
    assert "images/" not in "\n".join(check_lines(check))
    make_folder(train, [sample("a", images=("images/a.png", "images/Doe.jpg")), sample("b", images=(), missing=True)])
    check = check_folders([train])
    assert check.missing.items == (Place("train", "a", "images/Doe.jpg", 2), Place("train", "b"))
    assert "  train a (image 2)" in check_lines(check)


def test_the_same_pixels_under_another_name_and_format(folders: tuple[Path, Path]) -> None:
    train, test = folders
    Image.open(train / "images" / "a.png").save(test / "images" / "other.bmp")
    make_folder(test, [sample("c"), sample("d"), sample("copy", images=("images/other.bmp",))])
    check = check_folders(folders)
    assert counts(check) == {"copies_between": 1}
    [copies] = check.sharing.copies_between.items
    assert copies.places.items == (Place("train", "a", "images/a.png"), Place("test", "copy", "images/other.bmp"))
    assert copies.parts == ("train", "test")
    assert check.problems == ["1 image in several parts"]


@pytest.mark.parametrize("flip", ["", *FLIPS])
def test_a_near_or_mirrored_copy_in_another_part(tmp_path: Path, flip: str) -> None:
    original = picture(2)
    copy = as_jpeg(original.transpose(FLIPS[flip])) if flip else brighter(original)
    train = make_folder(tmp_path / "train", [sample("a"), sample("b"), about("b2", "b")], b=original)
    test = make_folder(tmp_path / "test", [sample("c"), sample("d")], d=copy)
    check = check_folders([train, test])
    assert counts(check) == {"near_between": 1}
    [pair] = check.sharing.near_between.items
    assert (pair.a, pair.b) == (Place("train", "b", "images/b.png"), Place("test", "d", "images/d.png"))
    assert (pair.flip, pair.distance <= 4) == (flip, True)
    mark = f", the second {flip}" if flip else ""
    assert f"  train b and test d differ in {pair.distance} of 64 bits{mark}" in check_lines(check)
    assert check.problems == ["1 pair of near-duplicate images in different parts, for you to review"]
    assert check.verdict.startswith("No certain fault in 5 samples and 4 images, but 1 pair")
    assert [(part.part, part.any, part.near) for part in check.touched] == [("train", 2, 2), ("test", 1, 1)]
    allowed = check_folders([train, test], allow_near=True)
    assert (allowed.problems, len(allowed.notes)) == ([], 1)


def test_a_symmetric_picture_is_not_its_own_twin(tmp_path: Path) -> None:
    half = picture(4)
    both = Image.new("L", (320, 160))
    both.paste(half)
    both.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (160, 0))
    copies = {"x": both, "y": brighter(both)}
    folders = [make_folder(tmp_path / name, [sample(name)], **{name: copy}) for name, copy in copies.items()]
    assert counts(check_folders(folders[:1])) == {}
    # A copy is near as it is, and not counted once more for its mirror image.
    assert counts(check_folders(folders)) == {"near_between": 1}


def test_pairs_within_a_part_are_distinguished_by_subject(tmp_path: Path) -> None:
    pictures = {"a": picture(1), "b": brighter(picture(1)), "c": picture(2), "d": brighter(picture(2))}
    samples = [sample("a", subject="1"), sample("b", subject="2"), sample("c", subject="3"), sample("d", subject="3")]
    check = check_folders([make_folder(tmp_path / "folder", samples, **pictures)])
    assert counts(check) == {"near_subjects": 1, "near_within": 1}
    assert [pair.b.sample for pair in check.sharing.near_subjects.items] == ["b"]
    assert (check.problems, check.notes) == ([], ["2 pairs of near-duplicate images within a part"])


def test_flat_pictures_are_not_a_million_pairs(tmp_path: Path) -> None:
    black = {f"s{i}": Image.new("L", (16, 16)) for i in range(30)}
    faint = {f"f{i}": Image.fromarray(np.eye(16, dtype=np.uint8) * i) for i in (1, 2)}
    train = make_folder(tmp_path / "train", [sample(name) for name in (*black, *faint)], **black, **faint)
    test = make_folder(tmp_path / "test", [sample("other")], other=Image.new("L", (16, 16)))
    check = check_folders([train, test])
    assert (counts(check), check.problems) == ({"blank": 31, "faint": 2}, [])
    assert check.notes == ["31 images of a single color", "2 images with almost no contrast"]


def test_a_subject_or_volume_in_two_parts(tmp_path: Path) -> None:
    train = make_folder(tmp_path / "train", [sample("a", subject="Doe^John"), sample("b", subject="p2")])
    test = make_folder(tmp_path / "test", [sample("c", subject="Doe^John"), sample("d", subject="p3"), sample("e")])
    check = check_folders([train, test])
    assert counts(check) == {"shared_subjects": 1}
    [shared] = check.shared_subjects.items
    assert [(place.part, place.sample) for place in shared.places] == [("train", "a"), ("test", "c")]
    assert "Doe" not in json.dumps(check.as_record()) + "".join(check_lines(check))
    # In another data set the same word names somebody else, but a user's own questions are one set in any format.
    (test / "info.json").write_text('{"name": "another"}')
    assert counts(check_folders([train, test])) == {}
    for folder, name in ((train, "csv"), (test, "jsonl")):
        (folder / "info.json").write_text(json.dumps({"name": name, "source": "your own"}))
    assert counts(check_folders([train, test])) == {"shared_subjects": 1}

    def slices(id: str, subject: str, *volumes: str) -> Sample:
        return sample(id, subject=subject, record={"image_sources": list(volumes)})

    # Slices of a volume are found whatever their subjects.
    train = make_folder(tmp_path / "train", [slices("a", "A", "A", "B"), slices("b", "p2", "C")])
    test = make_folder(tmp_path / "test", [slices("c", "B", "B"), slices("d", "p4", "D"), slices("e", "C", "C")])
    items = check_folders([train, test]).shared_subjects.items
    assert [[place.sample for place in shared.places] for shared in items] == [["a", "c"], ["b", "e"]]


def test_splits_in_one_folder_are_parts(tmp_path: Path) -> None:
    samples = [
        sample("a", split="train", subject="p"),
        sample("b", split="test", subject="p"),
        about("c", "a", split="test"),
        about("d", "a", split="test"),
    ]
    check = check_folders([make_folder(tmp_path / "all", samples)])
    parts = [(part.name, part.split, part.samples) for part in check.parts]
    assert parts == [("all/train", "train", 1), ("all/test", "test", 3)]
    assert (counts(check), check.images) == ({"shared_subjects": 1, "copies_between": 1}, 2)
    assert [place.part for place in check.sharing.copies_between.items[0].places.items] == ["all/train", "all/test"]


def test_contradictory_and_repeated_questions(tmp_path: Path) -> None:
    same = {"images": ("images/a.png",), "question": "What is seen?"}
    samples = [
        sample("a", **same),
        sample("reordered", **{**same, "question": " what is  SEEN"}, options=("mass", "cyst")),
        sample("contradicts", **same, answer="cyst"),
        about("other picture", "b", question="What is seen?", answer="cyst"),
        sample("other options", **same, options=("mass", "cyst", "none")),
        *(about(id, "c", question="Is it?") for id in "ef"),
    ]
    check = check_folders([make_folder(tmp_path / "folder", samples)])
    assert counts(check) == {"contradictory": 1, "repeated_within": 1}
    [question] = check.contradictory.items
    assert [place.sample for place in question.places.items] == ["a", "reordered", "contradicts"]
    assert question.answers == ("mass", "cyst")
    assert check.problems == ["1 question with contradictory answers"]
    assert check.notes == ["1 question asked more than once in a part"]


def test_questions_about_pictures_that_nobody_names_are_not_compared(tmp_path: Path) -> None:
    # A missing file has a name to compare by.
    gone = {"images": ("images/gone.gif",), "question": "What is seen?", "missing": True}
    folders = [make_folder(tmp_path / name, [sample(name, **gone)]) for name in ("x", "y")]
    assert counts(check_folders(folders)) == {"missing": 2, "repeated_between": 1}
    unnamed = {"images": (), "question": "What is seen?", "missing": True}
    train = make_folder(tmp_path / "train", [sample("a", **unnamed), sample("b", **unnamed, answer="cyst")])
    test = make_folder(tmp_path / "test", [sample("c", **unnamed)])
    assert counts(check_folders([train, test])) == {"missing": 3}
    # Without any image, the text is compared.
    make_folder(test, [sample("c", images=()), sample("d", images=(), question="What is seen in c?")])
    assert counts(check_folders([test])) == {"repeated_within": 1}


def test_plain_text_keeps_what_changes_the_meaning() -> None:
    assert plain("  What IS\tseen ?") == plain("what is seen.") == "what is seen"
    assert plain("1.5 cm") != plain("15 cm")
    assert plain("CD4+") != plain("CD4-")
    assert plain("?") == "?"


def test_findings_within_a_reference_are_not_reported(tmp_path: Path) -> None:
    shared = picture(5)
    train = make_folder(tmp_path / "test", [sample("a")], a=shared)
    pictures = {"b": shared, "c": picture(6), "d": picture(6), "e": brighter(picture(6)), "f": brighter(picture(6))}
    samples = [*map(sample, "bcdef"), *(about(id, "c", question="Twice?") for id in "gh")]
    other = make_folder(tmp_path / "train", samples, **pictures)
    add_line(other, "{}")
    check = check_folders([train], against=[other])
    assert counts(check) == {"copies_between": 1, "bad_rows": 1}
    assert [part.reference for part in check.parts] == [False, True]
    both = counts(check_folders([train, other]))
    assert both == {"copies_between": 1, "bad_rows": 1, "copies_within": 2, "near_within": 1, "repeated_within": 1}


def test_wrong_arguments(folders: tuple[Path, Path], tmp_path: Path) -> None:
    # Folders of one name are distinguished by their parents.
    parts = [make_folder(tmp_path / name / "test", [sample(name)]) for name in ("x", "y")]
    assert [part.name for part in check_folders(parts).parts] == ["x/test", "y/test"]
    with pytest.raises(UsageError, match="0 to 16"):
        check_folders(folders, near=17)
    with pytest.raises(UserError, match=r"samples\.jsonl: no such file"):
        check_folders([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="at least one"):
        check_folders([])
    with pytest.raises(UsageError, match="given twice"):
        check_folders([parts[0], tmp_path / "x" / "." / "test"])
    (folders[0] / "samples.jsonl").write_text("")
    assert check_folders(folders[:1]).problems == ["no usable row in train"]


def test_many_images_go_to_processes_and_give_the_same(tmp_path: Path) -> None:
    pictures = {f"s{i:02d}": picture(i, side=40) for i in range(70)}
    pictures["s69"] = picture(3, side=40)
    train = make_folder(tmp_path / "folder", [sample(name) for name in pictures], **pictures)
    (train / "images" / "s50.png").write_bytes(b"\x89PNG")
    calls: list[tuple[str, int, int]] = []
    check = check_folders([train], progress=lambda stage, done, total: calls.append((stage, done, total)))
    assert [done for stage, done, _ in calls if stage == "images"] == list(range(1, 71))
    assert calls[-1] == ("near pairs", 68, 68)
    [copies] = check.sharing.copies_within.items
    assert [place.sample for place in copies.places.items] == ["s03", "s69"]
    [bad] = check.unreadable.items
    assert bad.place == Place("folder", "s50", "images/s50.png")


def test_questions_that_share_something_are_counted(tmp_path: Path) -> None:
    samples = [about("a", "a", subject="p1"), about("a2", "a"), about("b", "b"), about("t", "t", subject="p1")]
    train = make_folder(tmp_path / "train", samples, a=picture(1), b=picture(2))
    samples = [about("c", "c"), about("c2", "c"), about("d", "d", subject="p1"), about("e", "e"), about("f", "f")]
    test = make_folder(tmp_path / "test", samples, c=picture(1), e=brighter(picture(2)))
    check = check_folders([train, test])
    assert check.touched == (
        Touched(part="train", samples=4, any=4, picture=2, near=1, subject=2),
        Touched(part="test", samples=5, any=4, picture=2, near=1, subject=1),
    )
    lines = check_lines(check)
    at = lines.index("Questions that share something with another part:")
    assert lines[at + 2] == "  test: 4 of 5 (the same image 2, a near-duplicate 1, the same subject 1)"


def overlap(train: Path, evaluation: Path, modality: str = "") -> str | None:
    trained = [sample for sample in read_folder(train) if modality in ("", sample.modality)]
    return warn_of_overlap(train, trained, evaluation, read_folder(evaluation))


def test_training_warns_of_shared_images_and_subjects(tmp_path: Path) -> None:
    flat = Image.new("L", (9, 9))
    train = make_folder(tmp_path / "apart", [sample("a", subject="p1"), sample("flat")], flat=flat)
    test = make_folder(tmp_path / "other", [sample("b", subject="p2"), sample("f2")], f2=flat)
    assert overlap(train, test) is None
    samples = [sample("a"), about("a2", "a"), sample("b", subject="p1", modality="CT")]
    train = make_folder(tmp_path / "train", samples, a=picture(1))
    samples = [sample("c", subject="p1"), sample("d"), about("d2", "d"), sample("e")]
    test = make_folder(tmp_path / "test", samples, d=picture(1))
    message = str(overlap(train, test))
    assert message.startswith(
        "Warning: data.eval shares images or subjects with data.train: 3 of 4 questions of data.eval (the same "
        "image 2, the same subject 1) and 3 of 3 questions of data.train (the same image 2, the same subject 1). "
    )
    assert f"medvlm-r1 data check {train} {test}" in message
    assert "3 of 3 questions of data.eval (the same image 3," in str(overlap(train, train))
    # Only the samples of the training count.
    mri = "2 of 4 questions of data.eval (the same image 2, the same subject 0) and 2 of 2 questions"
    assert mri in str(overlap(train, test, modality="MRI"))
