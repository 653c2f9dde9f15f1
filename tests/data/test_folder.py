from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from medvlm_r1.data import image_facts, load_image
from medvlm_r1.data.folder import folder_hash, read_folder, write_folder
from medvlm_r1.data.image_facts import image_sizes, unreadable_samples
from medvlm_r1.data.paths import inside, leaves_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError

INFO = {"name": "test", "source": "made here", "license": "CC0-1.0"}


def sample(number, **changes):
    values = {
        "id": f"s{number}",
        "images": (f"images/{number}.png",),
        "question": "Größe der Läsion?",
        "options": ("1 cm", "2 cm"),
        "answer": "2 cm",
        "modality": "CT",
    }
    return Sample(**{**values, **changes})


@pytest.fixture
def folder(tmp_path):
    """Three samples; the image of the last is not there."""
    (tmp_path / "images").mkdir()
    for number in (1, 2):
        Image.new("L", (4, 4), number).save(tmp_path / f"images/{number}.png")
    samples = [sample(1), sample(2, modality="MRI", record={"side": "links"}), sample(3, missing=True)]
    write_folder(tmp_path, samples, info=INFO)
    return tmp_path


def append(folder, line):
    with (folder / "samples.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def row(**changes):
    values = {"id": "s9", "images": [], "question": "q", "options": ["x", "y"], "answer": "x", "modality": "CT"}
    return json.dumps({**values, **changes})


def test_round_trip(folder):
    read = read_folder(folder)
    assert [s.id for s in read] == ["s1", "s2", "s3"]
    assert read[1] == sample(2, modality="MRI", record={"side": "links"})
    assert read[2].missing
    assert "Größe der Läsion?" in (folder / "samples.jsonl").read_text(encoding="utf-8")
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    assert info == {**INFO, "counts": {"samples": 3, "missing": 1, "by_modality": {"CT": 2, "MRI": 1}}}
    append(folder, '{"id": "s9", ')
    append(folder, row(id="s2"))
    with pytest.raises(UserError, match=r"(?s)row 4: malformed JSON.*row 5: the id 's2' is used in row 2 already"):
        read_folder(folder)


def test_own_counts_are_kept_and_totals_are_true(tmp_path):
    write_folder(tmp_path / "new/deep", [sample(1)], info={**INFO, "counts": {"subjects": 5, "samples": 99}})
    counts = json.loads((tmp_path / "new/deep/info.json").read_text())["counts"]
    assert counts == {"subjects": 5, "samples": 1, "missing": 0, "by_modality": {"CT": 1}}


def failing():
    yield sample(1)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("samples", "error", "reason"),
    [
        ([sample(1), sample(1)], UserError, "the id 's1' is used twice"),
        ([], UserError, "no samples to write"),
        ([sample(1, record={"x": float("nan")})], UserError, "sample 's1' cannot be written as JSON"),
        ([sample(1, record={"x": object()})], UserError, "sample 's1' cannot be written as JSON"),
        ([sample(1, record={"x": "\ud800"})], UserError, "sample 's1' cannot be written as JSON"),
        (failing(), KeyboardInterrupt, None),
    ],
)
def test_a_failed_write_leaves_the_old_data_set(folder, samples, error, reason):
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    with pytest.raises(error, match=reason):
        write_folder(folder, samples, info=INFO)
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


def test_empty_and_absent(tmp_path):
    with pytest.raises(UserError, match=r"samples.jsonl: no such file.*medvlm-r1 data import"):
        read_folder(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file/deep: cannot be written"):
        write_folder(tmp_path / "file/deep", [sample(1)], info=INFO)
    (tmp_path / "samples.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match=r"samples.jsonl: the file is empty"):
        read_folder(tmp_path)


def test_hash_is_stable_and_follows_every_byte(folder):
    first = folder_hash(folder)
    # The hash does not depend on the place.
    shutil.copytree(folder, folder.parent / "twin")
    assert first == folder_hash(str(folder.parent / "twin"))
    assert len(first) == 64
    (folder / "images/unused.png").write_bytes(b"x")
    (folder / "info.json").write_text("{}")
    assert folder_hash(folder) == first

    Image.new("L", (4, 4), 3).save(folder / "images/3.png")
    added = folder_hash(folder)
    Image.new("L", (4, 4), 9).save(folder / "images/1.png")
    changed = folder_hash(folder)
    append(folder, row())
    assert len({first, added, changed, folder_hash(folder)}) == 4


def unreadable(folder, samples):
    return [s.id for s in unreadable_samples(samples, image_sizes(folder, samples))]


def test_unreadable_samples_looks_at_the_files_as_they_are_now(folder):
    samples = read_folder(folder)
    assert unreadable(folder, samples) == ["s3"]

    Image.new("L", (4, 4)).save(folder / "images/3.png")
    whole = (folder / "images/2.png").read_bytes()
    (folder / "images/2.png").write_bytes(whole[: len(whole) // 2])
    both = sample(4, images=("images/1.png", "images/2.png"))
    text_only = sample(5, images=())
    unnamed = sample(6, images=(), missing=True)
    assert unreadable(folder, [*samples, both, text_only, unnamed]) == ["s2", "s4", "s6"]


def test_paths_inside_and_outside(tmp_path):
    for path in ("images/x.png", "x.png", "images/a..b.png", "images/...", "images/ü ö.png", "./x.png"):
        assert not leaves_folder(path)
    outside = ["../x", "images/../../x", "/x", "//server/x", "C:/x", "C:x", "..", "", ".", "a\0b"]
    outside += ["\\x", "images\\..\\..\\x"]
    for path in outside:
        assert leaves_folder(path)
        with pytest.raises(UserError, match="the path leaves the folder"):
            inside(tmp_path, path)


@pytest.fixture
def data_folder(tmp_path):
    """A data folder with one image, and a secret beside it."""
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "data-too").mkdir()
    (tmp_path / "data-too/x.png").write_bytes(b"neighbour")
    (tmp_path / "data/images/x.png").write_bytes(b"x")
    return tmp_path / "data"


def test_inside(data_folder):
    assert inside(data_folder, "images/x.png").read_bytes() == b"x"
    assert not inside(data_folder, "images/absent.png").exists()
    (data_folder / "images/same.png").symlink_to("x.png")
    assert inside(data_folder, "images/same.png").read_bytes() == b"x"
    # The folder itself may be a link.
    (data_folder.parent / "link").symlink_to(data_folder)
    assert inside(data_folder.parent / "link", "images/x.png").read_bytes() == b"x"


@pytest.mark.parametrize("target", ["../../secret.png", "../../data-too/x.png", "/etc/passwd", "../../nowhere.png"])
def test_links_that_lead_out(data_folder, target):
    (data_folder / "images/link.png").symlink_to(target)
    with pytest.raises(UserError, match=r"images/link.png: a symbolic link that leads outside"):
        inside(data_folder, "images/link.png")


def test_a_data_folder_whose_image_leads_out(data_folder):
    linked = sample(1, images=("images/link.png",))
    write_folder(data_folder, [linked], info=INFO)
    (data_folder / "images/link.png").symlink_to("../../secret.png")
    assert set(image_sizes(data_folder, [linked]).values()) == {None}
    with pytest.raises(UserError, match=r"link.png: a symbolic link that leads outside"):
        folder_hash(data_folder)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the images that were decoded; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: list[str] = []
    monkeypatch.setattr(image_facts, "load_image", lambda file: names.append(file.name) or load_image(file))
    return names


def test_unchanged_images_are_decoded_and_hashed_once(data_dir: Path, tmp_path: Path, decoded: list[str]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(data_dir, folder)
    samples = read_folder(folder)
    assert image_sizes(folder, samples)["images/3.png"] == (40, 30)
    assert decoded == [f"{index}.png" for index in range(8)]
    first = folder_hash(folder)
    assert set(image_sizes(folder, samples).values()) == {(40, 30)}
    assert len(decoded) == 8
    # Another file under the name, of the same length and other content, is another image.
    content = bytearray((folder / "images/3.png").read_bytes())
    content[-20] ^= 1
    (folder / "images/3.png").write_bytes(content)
    os.utime(folder / "images/3.png", ns=(0, 0))
    assert image_sizes(folder, samples)["images/3.png"] is None
    assert decoded[8:] == ["3.png"]
    assert folder_hash(folder) != first


def test_a_damaged_or_read_only_cache_costs_time_only(data_dir: Path, tmp_path: Path, decoded: list[str]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    for _ in range(2):
        image_sizes(data_dir, read_folder(data_dir))
    assert len(decoded) == 16


def test_many_images_are_examined_in_workers_with_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], decoded: list[str]
) -> None:
    (tmp_path / "images").mkdir()
    names = [f"images/{index}.png" for index in range(70)]
    for index, name in enumerate(names):
        Image.new("L", (28, 28), index).save(tmp_path / name)
    facts = image_facts.image_facts(tmp_path, names, decode=True)
    assert {tuple(entry["size"]) for entry in facts.values()} == {(28, 28)}
    assert len({entry["hash"] for entry in facts.values()}) == 70
    assert decoded == []
    assert "Images checked" in capsys.readouterr().err
