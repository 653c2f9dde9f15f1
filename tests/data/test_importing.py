"""What all readers share: two passes, images of every kind, links, reports. Seen through the project's own format."""

import json
import shutil
import tracemalloc

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medvlm_r1.data import find_reader, read_folder
from medvlm_r1.data.images import load_picture
from medvlm_r1.data.split import clusters
from medvlm_r1.errors import UserError


@pytest.fixture
def source(tmp_path):
    """A folder with two pictures, and a function that writes rows beside them."""
    root = tmp_path / "source"
    (root / "deep").mkdir(parents=True)
    Image.new("L", (5, 4), 1).save(root / "a.png")
    Image.new("L", (5, 4), 2).save(root / "deep/b.png")

    def write(*rows):
        full = [{"question": "q?", "options": ["x", "y"], "answer": "x", **row} for row in rows]
        path = root / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in full), encoding="utf-8")
        return path

    write.root, write.out = root, tmp_path / "out"
    return write


def run(source, *rows, **arguments):
    report = find_reader("jsonl")(source(*rows), out=source.out, **arguments)
    return report, read_folder(source.out)


@pytest.mark.parametrize("name", ["scan.dcm", "1.2.840.5"])
def test_dicom_becomes_a_png_with_a_note(source, name):
    shutil.copyfile(get_testdata_file("CT_small.dcm"), source.root / name)
    report, samples = run(source, {"image": name}, {"image": name, "answer": "y"}, {"image": "a.png"})
    first, second, plain = samples
    assert first.images == second.images == (f"images/{name}.png",)
    note = json.loads(json.dumps(load_picture(source.root / name).note.as_record()))
    assert first.record["image_notes"] == second.record["image_notes"] == {first.images[0]: note}
    assert "image_notes" not in plain.record
    assert (report.converted, report.may_show_text) == (1, 1)
    assert len(list((source.out / "images").iterdir())) == 2
    _, [sample] = run(source, {"image": name, "window": "40/400"})
    assert sample.images == (f"images/{name}.40-400.png",)
    with pytest.raises(UserError, match=r"rows.jsonl, row 1: "):
        run(source, {"image": name, "window": "../../out"})


@pytest.fixture
def volume(source):
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), source.root / "scan.nii.gz")


def test_slices_of_a_volume(source, volume):
    rows = [{"image": "scan.nii.gz", "plane": "axial", "slice": number} for number in (1, 4, 1)]
    report, samples = run(source, *rows)
    assert [s.images[0] for s in samples] == [f"images/scan.nii.gz.axial.{number}.png" for number in (1, 4, 1)]
    assert [s.record["image_notes"][s.images[0]]["slice"] for s in samples] == [1, 4, 1]
    # Slices of one volume are one subject.
    assert {s.subject for s in samples} == {"scan"}
    assert (report.converted, report.may_show_text) == (2, 0)
    with pytest.raises(UserError, match=r"rows.jsonl, row 2: .*scan.nii.gz: .*(plane|slice)"):
        run(source, {"image": "a.png"}, {"image": "scan.nii.gz"})
    _, [sample] = run(source, {"image": "absent.dcm"})
    assert (sample.images, sample.missing) == (("images/absent.dcm.png",), True)


def test_slices_of_a_volume_stay_together_whatever_their_subject(source, volume):
    shutil.copyfile(source.root / "scan.nii.gz", source.root / "other.nii.gz")
    rows = [
        {"image": ["scan.nii.gz", "other.nii.gz"], "plane": "axial", "slice": 1},
        {"image": "other.nii.gz", "plane": "axial", "slice": 2},
        {"image": "other.nii.gz", "plane": "axial", "slice": 3, "subject": "p1"},
        {"image": "a.png", "subject": "p2"},
    ]
    _, samples = run(source, *rows)
    assert [s.subject for s in samples] == ["scan", "other", "p1", "p2"]
    assert [s.image_sources for s in samples] == [("scan", "other"), ("other",), ("other",), ()]
    assert clusters(samples) == [[0, 1, 2], [3]]


@pytest.mark.parametrize("link", ["link.png", "folder/secret.png"])
def test_links_that_lead_out_of_the_source(source, tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret.png").write_bytes(b"secret")
    (source.root / "link.png").symlink_to("../elsewhere/secret.png")
    (source.root / "folder").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"rows.jsonl, row 2: .*{link}: a symbolic link that leads outside"):
        run(source, {"image": "a.png"}, {"image": link})
    assert not source.out.exists()
    (source.root / "same.png").symlink_to("deep/b.png")
    _, [sample] = run(source, {"image": "same.png"})
    copy = source.out / sample.images[0]
    assert not copy.is_symlink()
    assert copy.read_bytes() == (source.root / "deep/b.png").read_bytes()


def test_no_link_in_the_data_folder_is_written_through(source, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (source.out / "images").mkdir(parents=True)
    (source.out / "images/a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"row 1: .*images/a.png: a symbolic link that leads outside"):
        run(source, {"image": "a.png"})
    assert (tmp_path / "secret.png").read_bytes() == b"secret"


def test_a_bad_last_row_leaves_the_data_folder_as_it_was(source):
    run(source, {"image": "a.png"})
    before = {file: file.read_bytes() for file in source.out.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"rows.jsonl, row 1001: answer 'z'"):
        run(source, *[{"image": "deep/b.png"}] * 1000, {"image": "a.png", "answer": "z"})
    assert {file: file.read_bytes() for file in source.out.rglob("*") if file.is_file()} == before


def test_memory_does_not_grow_with_the_rows(source):
    path = source(*[{"image": "a.png", "note": "x" * 1000}] * 4000)
    tracemalloc.start()
    find_reader("jsonl")(path, out=source.out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2


def test_a_malformed_line_is_left_out_and_counted(source):
    path = source({"image": "a.png"}, {"image": "deep/b.png"})
    path.write_text(path.read_text().replace("\n", '\n{"image": \n', 1))
    with pytest.raises(UserError, match=r"rows.jsonl, row 2: malformed JSON"):
        find_reader("jsonl")(path, out=source.out)
    calls = []
    report = find_reader("jsonl")(
        path, out=source.out, skip_bad=True, progress=lambda done, total, note="": calls.append((done, total))
    )
    assert (report.rows, report.written, report.bad_rows) == (3, 2, 1)
    assert "rows.jsonl, row 2: malformed JSON" in report.reasons[0]
    assert calls[-1] == (3, 3)
    assert [sample.id for sample in read_folder(source.out)] == ["jsonl-000001", "jsonl-000003"]


def test_only_bad_rows(source):
    with pytest.raises(
        UserError, match=r"none of the 2 rows could be read; nothing was written.*\n.*row 1: answer 'z'"
    ):
        run(source, {"image": "a.png", "answer": "z"}, {"image": "a.png", "answer": "z"}, skip_bad=True)


def test_import_in_place(source):
    before = (source.root / "a.png").read_bytes()
    find_reader("jsonl")(source({"image": "images/c.png"}, {"image": "a.png"}), out=source.root)
    assert [s.missing for s in read_folder(source.root)] == [True, False]
    shutil.copyfile(source.root / "deep/b.png", source.root / "images/c.png")
    find_reader("jsonl")(source({"image": "images/c.png"}), out=source.root)
    assert (source.root / "images/c.png").read_bytes() == (source.root / "deep/b.png").read_bytes()
    assert (source.root / "a.png").read_bytes() == before
