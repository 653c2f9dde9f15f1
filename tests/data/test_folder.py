import json
import shutil

import pytest
from PIL import Image

from medvlm_r1.data.folder import folder_hash, read_folder, write_folder
from medvlm_r1.data.image_facts import image_sizes, unreadable_samples
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


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file/deep: cannot be written"):
        write_folder(tmp_path / "file/deep", [sample(1)], info=INFO)


def test_empty_and_absent(tmp_path):
    with pytest.raises(UserError, match=r"samples.jsonl: no such file.*medvlm-r1 data import"):
        read_folder(tmp_path)
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
