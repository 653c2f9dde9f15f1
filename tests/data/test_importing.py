"""What all readers share: two passes, images of every kind, links, reports. Seen through the project's own format."""

import gzip
import io
import json
import shutil
import struct
import tracemalloc

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image, PngImagePlugin
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medvlm_r1.data import find_reader, load_image, read_folder
from medvlm_r1.data.images import load_picture
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
    # Slices of one volume are one subject; with other subjects, `image_sources` keeps them together.
    assert {s.subject for s in samples} == {"scan"}
    assert {s.image_sources for s in samples} == {("scan",)}
    assert (report.converted, report.may_show_text) == (2, 0)
    with pytest.raises(UserError, match=r"rows.jsonl, row 2: .*scan.nii.gz: .*(plane|slice)"):
        run(source, {"image": "a.png"}, {"image": "scan.nii.gz"})
    _, [sample] = run(source, {"image": "absent.dcm"})
    assert (sample.images, sample.missing) == (("images/absent.dcm.png",), True)


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


SECRET = b"ZZDOE^PLANTED"


def encoded(format, image=None, **options):
    stream = io.BytesIO()
    (image or noise()).save(stream, format, **options)
    return stream.getvalue()


def noise(mode="RGB"):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)).convert(mode)


def dicom(**elements):
    header = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for keyword, value in {"PatientName": SECRET.decode(), **elements}.items():
        setattr(header, keyword, value)
    stream = io.BytesIO()
    header.save_as(stream)
    return stream.getvalue()


def without_pixels(sop_class, **elements):
    header = pydicom.Dataset()
    for keyword, value in {"SOPClassUID": sop_class, "SOPInstanceUID": "1.2.3", **elements}.items():
        setattr(header, keyword, value)
    header.PatientName = SECRET.decode()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def orientation(rotation):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = SECRET.decode(), rotation
    return exif


def segment(code, content, jpeg=None):
    """A JPEG with one more segment behind the JFIF header."""
    jpeg = jpeg or encoded("JPEG")
    return jpeg[:20] + bytes([0xFF, code]) + struct.pack(">H", 2 + len(content)) + content + jpeg[20:]


def texts():
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", SECRET.decode())
    info.add_text("Compressed", SECRET.decode() * 9, zip=True)
    info.add_itxt("International", SECRET.decode())
    info.add(b"prVt", SECRET)
    return info


NO_IMAGES = {
    "text.png": SECRET,
    "text.jpg": SECRET,
    "report.pdf": b"%PDF-1.4\n" + SECRET,
    "archive.zip": b"PK\3\4" + SECRET,
    "photo.heic": b"\0\0\0\x18ftypheic" + SECRET,
    "text.gz": gzip.compress(SECRET),
    "cut.jpg": encoded("JPEG")[:500],
    "cut.png": encoded("PNG")[:500],
    "head.png": b"\x89PNG\r\n\x1a\n" + SECRET,
    "empty.png": b"",
    "animated.webp": encoded("WEBP", save_all=True, append_images=[noise("L")]),
    "animated.png": encoded("PNG", save_all=True, append_images=[noise("L")]),
    "pages.tiff": encoded("TIFF", save_all=True, append_images=[noise("L")]),
    "meta.mha": b"ObjectType = Image\nComment = ZZDOE^PLANTED\nElementDataFile = LOCAL\n" + bytes(16),
    "pdf.dcm": without_pixels("1.2.840.10008.5.1.4.1.1.104.1", EncapsulatedDocument=b"%PDF" + SECRET + b" "),
    "report.dcm": without_pixels("1.2.840.10008.5.1.4.1.1.88.11"),
    "structures.png": without_pixels("1.2.840.10008.5.1.4.1.1.481.3"),
}
CONVERTED = {
    "scan.dcm": dicom(),
    "scan.png": dicom(),
    "tiff_preamble.tif": b"II*\0\x08\0\0\0" + dicom()[8:],
    "described.tiff": encoded("TIFF", description=SECRET.decode()),
    "trailing.bmp": encoded("BMP") + SECRET,
    "turned.jpg": encoded("JPEG", exif=orientation(6)),
    "turned.png": encoded("PNG", exif=orientation(3)),
}
STRIPPED = {
    "texts.png": encoded("PNG", pnginfo=texts()),
    "trailing.png": encoded("PNG") + SECRET,
    "exif.png": encoded("PNG", exif=orientation(1)),
    "profile.png": encoded("PNG", icc_profile=SECRET * 9),
    "trailing.jpg": encoded("JPEG") + SECRET,
    "scan_behind.jpg": encoded("JPEG") + dicom(),
    "exif.jpg": encoded("JPEG", exif=orientation(1)),
    "comment.jpg": encoded("JPEG", comment=SECRET),
    "xmp.jpg": encoded("JPEG", xmp=b"<x:xmpmeta>" + SECRET),
    "profile.jpg": encoded("JPEG", icc_profile=SECRET * 9),
    "photoshop.jpg": segment(0xED, SECRET),
    "thumbnail.jpg": segment(0xE0, b"JFXX\0" + SECRET),
    "adobe.jpg": segment(0xEE, b"Adobe" + SECRET),
    "progressive.jpg": encoded("JPEG", progressive=True, comment=SECRET),
    "restarts.jpg": encoded("JPEG", restart_marker_blocks=2, comment=SECRET),
    "cmyk.jpg": encoded("JPEG", noise("CMYK"), comment=SECRET),
    "grey.jpg": encoded("JPEG", noise("L"), comment=SECRET),
    "stereo.jpg": encoded("MPO", save_all=True, append_images=[noise("L")]) + SECRET,
}
KEPT = {
    "plain.png": encoded("PNG"),
    "physical.png": encoded("PNG", dpi=(72, 72)),
    "palette.png": encoded("PNG", noise("P")),
    "deep.png": encoded("PNG", Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 50)),
    "plain.jpg": encoded("JPEG"),
    "progressive.jpeg": encoded("JPEG", progressive=True),
}


@pytest.fixture
def import_file(tmp_path):
    """Imports one file alone; the report and the image file that was written."""

    def write(name, content, **arguments):
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
        row = {"image": name, "question": "q?", "options": ["x", "y"], "answer": "x"}
        (source / "rows.jsonl").write_text(json.dumps(row))
        report = find_reader("jsonl")(source / "rows.jsonl", out=tmp_path / "out", **arguments)
        [sample] = read_folder(tmp_path / "out")
        return report, tmp_path / "out" / sample.images[0]

    return write


def written(tmp_path):
    return b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_refused_by_row_and_not_written(import_file, tmp_path, name):
    with pytest.raises(UserError, match=rf"rows.jsonl, row 1: .*{name}"):
        import_file(name, NO_IMAGES[name])
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", CONVERTED)
def test_other_formats_become_png(import_file, tmp_path, name):
    report, image = import_file(name, CONVERTED[name])
    assert (report.converted, report.stripped) == (1, 0)
    assert image.name == (name if name.endswith(("png", "jpg")) else f"{name}.png")
    assert image.read_bytes().startswith(b"\x89PNG")
    assert load_image(image).tobytes() == load_image(tmp_path / "source" / name).tobytes()
    assert SECRET not in written(tmp_path)


@pytest.mark.parametrize("name", STRIPPED)
def test_metadata_is_left_out_and_the_pixels_stay(import_file, tmp_path, name):
    report, image = import_file(name, STRIPPED[name])
    assert (report.converted, report.stripped) == (0, 1)
    content = image.read_bytes()
    assert content.startswith(STRIPPED[name][:2])
    assert len(content) < len(STRIPPED[name])
    assert load_image(image).tobytes() == load_image(tmp_path / "source" / name).tobytes()
    assert SECRET not in written(tmp_path)


@pytest.mark.parametrize("name", KEPT)
def test_files_without_metadata_keep_their_bytes(import_file, name):
    report, image = import_file(name, KEPT[name])
    assert image.read_bytes() == KEPT[name]
    assert (report.converted, report.stripped) == (0, 0)


def test_an_embedded_image_is_decoded_and_stripped(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(content):
        rows = [{"image": {"bytes": content, "path": "x.png"}, "question": "Is it?", "answer": "yes"}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
        return find_reader("path-vqa")(tmp_path / "train.parquet", out=tmp_path / "out")

    assert write(STRIPPED["texts.png"]).stripped == 1
    assert SECRET not in written(tmp_path)
    with pytest.raises(UserError, match=r"row 1: the image in the row: the image is damaged or cut short"):
        write(NO_IMAGES["cut.png"])


def test_an_import_in_place_never_replaces_the_original(tmp_path):
    image, rows = tmp_path / "images/texts.png", tmp_path / "rows.jsonl"
    image.parent.mkdir()
    image.write_bytes(STRIPPED["texts.png"])
    rows.write_text(json.dumps({"image": "images/texts.png", "question": "q?", "answer": "x"}))
    with pytest.raises(UserError, match=r"would replace the original.*--out"):
        find_reader("jsonl")(rows, out=tmp_path)
    assert image.read_bytes() == STRIPPED["texts.png"]
