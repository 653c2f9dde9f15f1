"""Checks of folders made by hand: each fault is found, in the right place, and nothing else is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import as_jpeg, brighter, counts, cropped, make_folder, picture, sample
from PIL import Image

from medvlm_r1.data.check import check_folders
from medvlm_r1.data.check.findings import Place, check_lines
from medvlm_r1.data.check.run import plain
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UsageError, UserError


def add_line(folder: Path, line: str | bytes) -> None:
    with (folder / "samples.jsonl").open("ab") as stream:
        stream.write((line if isinstance(line, bytes) else line.encode()) + b"\n")


def as_row(**changes: Any) -> str:
    row = {"id": "x", "images": [], "question": "?", "options": ["a", "b"], "answer": "a", "modality": "CT"}
    return json.dumps({**row, **changes})


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two sound folders with nothing in common."""
    train = make_folder(tmp_path / "train", [sample("a"), sample("b", options=("x", "mass", "y"))])
    two = make_folder(tmp_path / "test", [sample("c", options=(), answer="a cyst"), sample("d", modality="CT")])
    return train, two


def test_sound_folders(folders: tuple[Path, Path]) -> None:
    check = check_folders(folders)
    assert counts(check) == {}
    assert (check.problems, check.notes) == ([], [])
    assert check.verdict == (
        "No problems found: all of 4 samples and 4 images can be used, and the 2 parts share no image, question or "
        "subject."
    )
    record = json.loads(json.dumps(check.as_record()))
    assert (record["ok"], record["sharing"]["near_between"]) == (True, {"count": 0, "items": []})
    train, test = record["parts"]
    assert (train["name"], train["samples"], train["images"], train["options"]) == ("train", 2, 2, {"2": 1, "3": 1})
    assert (test["open_questions"], test["modalities"]) == (1, {"CT": 1, "MRI": 1})


def test_every_bad_row_is_listed_and_the_good_ones_are_used(folders: tuple[Path, Path]) -> None:
    train, _ = folders
    add_line(train, "{broken")
    add_line(train, as_row(answer="c"))
    add_line(train, b'{"id": "\xff"}')
    add_line(train, "[1]")
    add_line(train, as_row(id="a"))
    add_line(train, as_row(id="good"))
    check = check_folders([train])
    reasons = {row.row: row.reason for row in check.bad_rows.items}
    assert list(reasons) == [3, 4, 5, 6, 7]
    assert "answer 'c' is not among" in reasons[4]
    assert check.answers_not_options == 1
    assert check.parts[0].samples == 3
    assert check.problems == ["1 row with an answer that is not one of its options", "4 rows that cannot be read"]
    assert "  train/samples.jsonl, row 4: answer 'c' is not among the options ['a', 'b']" in check_lines(check)
    for _ in range(250):
        add_line(train, "{}")
    check = check_folders([train])
    assert (check.bad_rows.count, len(check.bad_rows.items)) == (255, 100)
    assert "  ... and 250 more" in check_lines(check)


def test_images_that_are_not_there_or_cannot_be_shown(folders: tuple[Path, Path]) -> None:
    train, two = folders
    (train / "images" / "a.png").unlink()
    (train / "images" / "b.png").write_bytes(b"")
    whole = (two / "images" / "c.png").read_bytes()
    (two / "images" / "c.png").write_bytes(whole[: len(whole) // 2])
    (two / "images" / "d.png").unlink()
    (two / "images" / "d.png").symlink_to(train / "samples.jsonl")
    check = check_folders(folders)
    assert counts(check) == {"missing": 1, "unreadable": 3}
    assert check.missing.items == (Place("train", "a", "images/a.png"),)
    assert check.problems == ["1 image not there", "3 images that cannot be shown"]
    reasons = {bad.place.sample: bad.reason for bad in check.unreadable.items}
    assert "0 bytes" in reasons["b"]
    assert "cut short" in reasons["c"]
    assert "leads outside" in reasons["d"]
    # A file may be called after its patient: images are named by their sample, and by their number if it has several.
    assert str(train) not in "".join(reasons.values())
    assert "images/" not in "\n".join(check_lines(check))
    make_folder(train, [sample("a", images=("images/a.png", "images/Doe.jpg")), sample("b", images=(), missing=True)])
    check = check_folders([train])
    assert check.missing.items == (Place("train", "a", "images/Doe.jpg", 2), Place("train", "b"))
    assert "  train a (image 2)" in check_lines(check)


def test_the_same_pixels_under_another_name_and_format(folders: tuple[Path, Path]) -> None:
    train, two = folders
    Image.open(train / "images" / "a.png").save(two / "images" / "other.bmp")
    make_folder(two, [sample("c"), sample("d"), sample("copy", images=("images/other.bmp",))])
    check = check_folders(folders)
    assert counts(check) == {"copies_between": 1}
    [copies] = check.sharing.copies_between.items
    assert copies.places.items == (Place("train", "a", "images/a.png"), Place("test", "copy", "images/other.bmp"))
    assert copies.parts == ("train", "test")
    assert check.problems == ["1 image in several parts"]


@pytest.mark.parametrize("change", [brighter, cropped, as_jpeg])
def test_a_worked_over_copy_in_another_part(tmp_path: Path, change: Callable[[Image.Image], Image.Image]) -> None:
    original = picture(2)
    train = make_folder(tmp_path / "train", [sample("a"), sample("b")], a=original)
    two = make_folder(tmp_path / "test", [sample("c"), sample("d")], c=change(original))
    check = check_folders([train, two])
    assert counts(check) == {"near_between": 1}
    [pair] = check.sharing.near_between.items
    assert (pair.a, pair.b) == (Place("train", "a", "images/a.png"), Place("test", "c", "images/c.png"))
    assert pair.distance <= 4
    assert check.problems == ["1 pair of near-duplicate images in different parts, for you to review"]
    assert check.verdict.startswith("No certain fault in 4 samples and 4 images, but 1 pair")
    allowed = check_folders([train, two], allow_near=True)
    assert (allowed.problems, len(allowed.notes)) == ([], 1)


def test_pairs_within_a_part_are_told_apart_by_subject(tmp_path: Path) -> None:
    pictures = {"a": picture(1), "b": brighter(picture(1)), "c": picture(2), "d": brighter(picture(2))}
    samples = [sample("a", subject="1"), sample("b", subject="2"), sample("c", subject="3"), sample("d", subject="3")]
    check = check_folders([make_folder(tmp_path / "one", samples, **pictures)])
    assert counts(check) == {"near_subjects": 1, "near_within": 1}
    assert [pair.b.sample for pair in check.sharing.near_subjects.items] == ["b"]
    assert check.problems == []
    assert check.notes == ["2 pairs of near-duplicate images within a part"]


def test_flat_pictures_are_not_a_million_pairs(tmp_path: Path) -> None:
    black = {f"s{i}": Image.new("L", (16, 16)) for i in range(30)}
    faint = {f"f{i}": Image.fromarray(np.eye(16, dtype=np.uint8) * i) for i in (1, 2)}
    train = make_folder(tmp_path / "train", [sample(name) for name in (*black, *faint)], **black, **faint)
    two = make_folder(tmp_path / "test", [sample("other")], other=Image.new("L", (16, 16)))
    check = check_folders([train, two])
    assert counts(check) == {"blank": 31, "faint": 2}
    assert check.problems == []
    assert check.notes == ["31 images of a single color", "2 images with almost no contrast"]


def test_a_subject_in_two_parts(tmp_path: Path) -> None:
    train = make_folder(tmp_path / "train", [sample("a", subject="Doe^John"), sample("b", subject="p2")])
    two = make_folder(tmp_path / "test", [sample("c", subject="Doe^John"), sample("d", subject="p3"), sample("e")])
    check = check_folders([train, two])
    assert counts(check) == {"shared_subjects": 1}
    [shared] = check.shared_subjects.items
    assert [(place.part, place.sample) for place in shared.places] == [("train", "a"), ("test", "c")]
    assert "Doe" not in json.dumps(check.as_record()) + "".join(check_lines(check))
    # In another data set the same word names somebody else, but a user's own questions are one in any format.
    (two / "info.json").write_text('{"name": "another"}')
    assert counts(check_folders([train, two])) == {}
    for folder, name in ((train, "csv"), (two, "jsonl")):
        (folder / "info.json").write_text(json.dumps({"name": name, "source": "your own"}))
    assert counts(check_folders([train, two])) == {"shared_subjects": 1}


def test_a_volume_in_two_parts_whatever_its_subjects(tmp_path: Path) -> None:
    def slices(id: str, subject: str, *volumes: str) -> Sample:
        return sample(id, subject=subject, record={"image_sources": list(volumes)})

    train = make_folder(tmp_path / "train", [slices("a", "A", "A", "B"), slices("b", "p2", "C")])
    two = make_folder(tmp_path / "test", [slices("c", "B", "B"), slices("d", "p4", "D"), slices("e", "C", "C")])
    check = check_folders([train, two])
    assert counts(check) == {"shared_subjects": 2}
    samples = [[place.sample for place in shared.places] for shared in check.shared_subjects.items]
    assert samples == [["a", "c"], ["b", "e"]]


def test_splits_in_one_folder_are_parts(tmp_path: Path) -> None:
    samples = [
        sample("a", split="train", subject="p"),
        sample("b", split="test", subject="p"),
        sample("c", split="test", images=("images/a.png",)),
        sample("d", split="test", images=("images/a.png",)),
    ]
    check = check_folders([make_folder(tmp_path / "all", samples)])
    assert [(part.name, part.split, part.samples) for part in check.parts] == [
        *(("all/train", "train", 1), ("all/test", "test", 3))
    ]
    assert counts(check) == {"shared_subjects": 1, "copies_between": 1}
    assert [place.part for place in check.sharing.copies_between.items[0].places.items] == ["all/train", "all/test"]
    assert check.images == 2


def test_contradictory_and_repeated_questions(tmp_path: Path) -> None:
    same = {"images": ("images/a.png",), "question": "What is seen?"}
    samples = [
        sample("a", **same),
        sample("reordered", **{**same, "question": " what is  SEEN"}, options=("mass", "cyst")),
        sample("contradicts", **same, answer="cyst"),
        sample("other picture", question="What is seen?", answer="cyst", images=("images/b.png",)),
        sample("other options", **same, options=("mass", "cyst", "none")),
        sample("e", question="Is it?", images=("images/c.png",)),
        sample("f", question="Is it?", images=("images/c.png",)),
    ]
    check = check_folders([make_folder(tmp_path / "one", samples)])
    assert counts(check) == {"contradictory": 1, "repeated_within": 1}
    [question] = check.contradictory.items
    assert [place.sample for place in question.places.items] == ["a", "reordered", "contradicts"]
    assert question.answers == ("mass", "cyst")
    assert check.problems == ["1 question with contradictory answers"]
    assert check.notes == ["1 question asked more than once in a part"]


def test_questions_about_pictures_that_nobody_names_are_not_compared(tmp_path: Path) -> None:
    # A missing file has a name to compare by.
    gone = {"images": ("images/gone.gif",), "question": "What is seen?", "missing": True}
    folders = [make_folder(tmp_path / name, [sample(name, **gone)]) for name in ("one", "two")]
    assert counts(check_folders(folders)) == {"missing": 2, "repeated_between": 1}
    unnamed = {"images": (), "question": "What is seen?", "missing": True}
    train = make_folder(tmp_path / "train", [sample("a", **unnamed), sample("b", **unnamed, answer="cyst")])
    two = make_folder(tmp_path / "test", [sample("c", **unnamed)])
    assert counts(check_folders([train, two])) == {"missing": 3}
    # Without any image it is the text that is asked about.
    make_folder(two, [sample("c", images=()), sample("d", images=(), question="What is seen in c?")])
    assert counts(check_folders([two])) == {"repeated_within": 1}


def test_plain_text_keeps_what_changes_the_meaning() -> None:
    assert plain("  What IS\tseen ?") == plain("what is seen.") == "what is seen"
    assert plain("1.5 cm") != plain("15 cm")
    assert plain("CD4+") != plain("CD4-")
    assert plain("?") == "?"


def test_what_lies_within_a_reference_is_not_reported(tmp_path: Path) -> None:
    shared = picture(5)
    train = make_folder(tmp_path / "test", [sample("a")], a=shared)
    pictures = {"b": shared, "c": picture(6), "d": picture(6), "e": brighter(picture(6)), "f": brighter(picture(6))}
    twice = {"images": ("images/c.png",), "question": "Twice?"}
    samples = [*map(sample, "bcdef"), sample("g", **twice), sample("h", **twice)]
    other = make_folder(tmp_path / "train", samples, **pictures)
    add_line(other, "{}")
    check = check_folders([train], against=[other])
    assert counts(check) == {"copies_between": 1, "bad_rows": 1}
    assert [part.reference for part in check.parts] == [False, True]
    both = counts(check_folders([train, other]))
    assert both == {"copies_between": 1, "bad_rows": 1, "copies_within": 2, "near_within": 1, "repeated_within": 1}


def test_wrong_arguments(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 to 16"):
        check_folders(folders, near=17)
    with pytest.raises(UserError, match=r"samples\.jsonl: no such file"):
        check_folders([tmp_path / "nowhere"])
    (folders[0] / "samples.jsonl").write_text("")
    assert check_folders(folders[:1]).problems == ["no usable row in train"]
    with pytest.raises(UsageError, match="at least one"):
        check_folders([])
    # Folders of one name are told apart by their parents.
    parts = [make_folder(tmp_path / name / "test", [sample(name)]) for name in ("x", "y")]
    assert [part.name for part in check_folders(parts).parts] == ["x/test", "y/test"]
    with pytest.raises(UsageError, match="given twice"):
        check_folders([parts[0], tmp_path / "x" / "." / "test"])


def test_many_images_go_to_processes_and_give_the_same(tmp_path: Path) -> None:
    pictures = {f"s{i:02d}": picture(i, side=40) for i in range(70)}
    pictures["s69"] = picture(3, side=40)
    train = make_folder(tmp_path / "one", [sample(name) for name in pictures], **pictures)
    (train / "images" / "s50.png").write_bytes(b"\x89PNG")
    calls: list[tuple[str, int, int]] = []
    check = check_folders([train], progress=lambda stage, done, total: calls.append((stage, done, total)))
    assert [done for stage, done, _ in calls if stage == "images"] == list(range(1, 71))
    assert calls[-1] == ("near pairs", 68, 68)
    [copies] = check.sharing.copies_within.items
    assert [place.sample for place in copies.places.items] == ["s03", "s69"]
    [bad] = check.unreadable.items
    assert bad.place == Place("one", "s50", "images/s50.png")
