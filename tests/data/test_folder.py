from __future__ import annotations

import json
import os
import shutil

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
    values = {"id": f"s{number}", "images": (f"images/{number}.png",), "question": "Größe der Läsion?"}
    return Sample(**{**values, "options": ("1 cm", "2 cm"), "answer": "2 cm", "modality": "CT", **changes})


@pytest.fixture
def folder(tmp_path):
    """Three samples; the image of the last is not there."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for number in (1, 2):
        Image.new("L", (4, 4), number).save(folder / f"images/{number}.png")
    samples = [sample(1), sample(2, modality="MRI", record={"side": "links"}), sample(3, missing=True)]
    write_folder(folder, samples, info=INFO)
    return folder


def append(folder, **changes):
    values = {"id": "s9", "images": [], "question": "q", "options": ["x", "y"], "answer": "x", "modality": "CT"}
    with (folder / "samples.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({**values, **changes}) + "\n")


def test_round_trip(folder):
    read = read_folder(folder)
    assert [s.id for s in read] == ["s1", "s2", "s3"]
    assert read[1] == sample(2, modality="MRI", record={"side": "links"})
    assert read[2].missing
    assert "Größe der Läsion?" in (folder / "samples.jsonl").read_text(encoding="utf-8")
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    assert info == {**INFO, "counts": {"samples": 3, "missing": 1, "by_modality": {"CT": 2, "MRI": 1}}}
    with (folder / "samples.jsonl").open("a") as stream:
        stream.write('{"id": "s9", \n')
    append(folder, id="s2")
    with pytest.raises(UserError, match=r"(?s)row 4: malformed JSON.*row 5: the id 's2' is used in row 2 already"):
        read_folder(folder)
    # Counts of the caller stay, and totals are true.
    write_folder(folder / "new/deep", [sample(1)], info={**INFO, "counts": {"subjects": 5, "samples": 99}})
    counts = json.loads((folder / "new/deep/info.json").read_text())["counts"]
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
    # The hash does not depend on the location.
    shutil.copytree(folder, folder.parent / "twin")
    (folder / "images/unused.png").write_bytes(b"x")
    (folder / "info.json").write_text("{}")
    assert first == folder_hash(str(folder.parent / "twin")) == folder_hash(folder)
    assert len(first) == 64
    Image.new("L", (4, 4), 3).save(folder / "images/3.png")
    added = folder_hash(folder)
    Image.new("L", (4, 4), 9).save(folder / "images/1.png")
    changed = folder_hash(folder)
    append(folder)
    assert len({first, added, changed, folder_hash(folder)}) == 4


def unreadable(folder, samples):
    return [s.id for s in unreadable_samples(samples, image_sizes(folder, samples))]


def test_unreadable_samples_by_the_files_as_they_are_now(folder):
    samples = read_folder(folder)
    assert unreadable(folder, samples) == ["s3"]
    Image.new("L", (4, 4)).save(folder / "images/3.png")
    whole = (folder / "images/2.png").read_bytes()
    (folder / "images/2.png").write_bytes(whole[: len(whole) // 2])
    both = sample(4, images=("images/1.png", "images/2.png"))
    text_only, unnamed = sample(5, images=()), sample(6, images=(), missing=True)
    assert unreadable(folder, [*samples, both, text_only, unnamed]) == ["s2", "s4", "s6"]


def test_paths_inside_and_outside(folder):
    for path in ("images/x.png", "x.png", "images/a..b.png", "images/...", "images/ü ö.png", "./x.png"):
        assert not leaves_folder(path)
    outside = ["../x", "images/../../x", "/x", "//server/x", "C:/x", "C:x", "..", "", ".", "a\0b"]
    for path in (*outside, "\\x", "images\\..\\..\\x"):
        assert leaves_folder(path)
        with pytest.raises(UserError, match="the path leaves the folder"):
            inside(folder, path)
    content = (folder / "images/1.png").read_bytes()
    assert not inside(folder, "images/absent.png").exists()
    (folder / "images/same.png").symlink_to("1.png")
    # The folder itself may be a link.
    (folder.parent / "link").symlink_to(folder)
    for root, name in ((folder, "1.png"), (folder, "same.png"), (folder.parent / "link", "1.png")):
        assert inside(root, f"images/{name}").read_bytes() == content


@pytest.mark.parametrize("target", ["../../secret.png", "../../data-too/x.png", "/etc/passwd", "../../nowhere.png"])
def test_links_that_lead_out(folder, target):
    (folder.parent / "secret.png").write_bytes(b"secret")
    (folder.parent / "data-too").mkdir()
    (folder.parent / "data-too/x.png").write_bytes(b"neighbour")
    (folder / "images/link.png").symlink_to(target)
    linked = sample(1, images=("images/link.png",))
    write_folder(folder, [linked], info=INFO)
    for read in (lambda: inside(folder, "images/link.png"), lambda: folder_hash(folder)):
        with pytest.raises(UserError, match=r"images/link.png: a symbolic link that leads outside"):
            read()
    assert set(image_sizes(folder, [linked]).values()) == {None}


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """Names of the images that were decoded; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = []
    monkeypatch.setattr(image_facts, "load_image", lambda file: names.append(file.name) or load_image(file))
    return names


def test_unchanged_images_are_decoded_and_hashed_once(data_dir, tmp_path, decoded):
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


def test_a_damaged_or_read_only_cache_costs_time_only(data_dir, tmp_path, decoded):
    (tmp_path / "cache").write_text("a file where the folder should be")
    for _ in range(2):
        image_sizes(data_dir, read_folder(data_dir))
    assert len(decoded) == 16


def test_many_images_are_examined_in_workers_with_a_bar(tmp_path, capsys, decoded):
    (tmp_path / "images").mkdir()
    names = [f"images/{index}.png" for index in range(70)]
    for index, name in enumerate(names):
        Image.new("L", (28, 28), index).save(tmp_path / name)
    facts = image_facts.image_facts(tmp_path, names, decode=True).values()
    assert {tuple(entry["size"]) for entry in facts} == {(28, 28)}
    assert (len({entry["hash"] for entry in facts}), decoded) == (70, [])
    assert "Images checked" in capsys.readouterr().err
