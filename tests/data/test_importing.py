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

from medvlm_r1.data import find_reader, load_image
from medvlm_r1.data.images import load_picture
from medvlm_r1.errors import UserError

A, B = {"image": "a.png"}, {"image": "deep/b.png"}


@pytest.fixture(autouse=True)
def _pictures(picture):
    picture("a.png", 1)
    picture("deep/b.png", 2)


def content_of(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", ["scan.dcm", "1.2.840.5"])
def test_dicom_becomes_a_png_with_a_note(import_rows, put, name):
    file = shutil.copyfile(get_testdata_file("CT_small.dcm"), put.root / name)
    done = import_rows({"image": name}, {"image": name, "answer": "y"}, A)
    first, second, plain = done.samples
    assert first.images == second.images == (f"images/{name}.png",)
    note = json.loads(json.dumps(load_picture(file).note.as_record()))
    assert first.record["image_notes"] == second.record["image_notes"] == {first.images[0]: note}
    assert "image_notes" not in plain.record
    assert (done.report.converted, done.report.may_show_text) == (1, 1)
    assert len(list((done.folder / "images").iterdir())) == 2
    [sample] = import_rows({"image": name, "window": "40/400"}).samples
    assert sample.images == (f"images/{name}.40-400.png",)
    with pytest.raises(UserError, match=r"rows.jsonl, row 1: "):
        import_rows({"image": name, "window": "../../out"})


def test_slices_of_a_volume(import_rows, put):
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), put.root / "scan.nii.gz")
    done = import_rows(*({"image": "scan.nii.gz", "plane": "axial", "slice": number} for number in (1, 4, 1)))
    assert [s.images[0] for s in done.samples] == [f"images/scan.nii.gz.axial.{number}.png" for number in (1, 4, 1)]
    assert [s.record["image_notes"][s.images[0]]["slice"] for s in done.samples] == [1, 4, 1]
    # Slices of one volume are one subject; with other subjects, `image_sources` keeps them together.
    assert {(s.subject, s.image_sources) for s in done.samples} == {("scan", ("scan",))}
    assert (done.report.converted, done.report.may_show_text) == (2, 0)
    with pytest.raises(UserError, match=r"rows.jsonl, row 2: .*scan.nii.gz: .*(plane|slice)"):
        import_rows(A, {"image": "scan.nii.gz"})
    [sample] = import_rows({"image": "absent.dcm"}).samples
    assert (sample.images, sample.missing) == (("images/absent.dcm.png",), True)


@pytest.mark.parametrize("link", ["link.png", "folder/secret.png"])
def test_links_that_lead_out_of_the_source(import_rows, put, tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret.png").write_bytes(b"secret")
    (put.root / "link.png").symlink_to("../elsewhere/secret.png")
    (put.root / "folder").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"rows.jsonl, row 2: .*{link}: a symbolic link that leads outside"):
        import_rows(A, {"image": link})
    assert not (tmp_path / "imported").exists()
    (put.root / "same.png").symlink_to("deep/b.png")
    done = import_rows({"image": "same.png"})
    copy = done.folder / done.samples[0].images[0]
    assert (copy.is_symlink(), copy.read_bytes()) == (False, (put.root / "deep/b.png").read_bytes())
    # No link in the data folder is written through.
    (done.folder / "images/a.png").symlink_to(tmp_path / "elsewhere/secret.png")
    with pytest.raises(UserError, match=r"row 1: .*images/a.png: a symbolic link that leads outside"):
        import_rows(A)
    assert (tmp_path / "elsewhere/secret.png").read_bytes() == b"secret"


def test_a_bad_last_row_leaves_the_data_folder_as_it_was(import_rows):
    folder = import_rows(A).folder
    before = content_of(folder)
    with pytest.raises(UserError, match=r"rows.jsonl, row 1001: answer 'z'"):
        import_rows(*[B] * 1000, {**A, "answer": "z"})
    assert content_of(folder) == before


def test_memory_does_not_grow_with_the_rows(put, tmp_path):
    row = {**A, "question": "q?", "options": ["x", "y"], "answer": "x", "note": "x" * 1000}
    path = put("rows.jsonl", (json.dumps(row) + "\n") * 4000)
    tracemalloc.start()
    find_reader("jsonl")(path, out=tmp_path / "imported")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2


def test_bad_rows_are_left_out_and_counted(import_rows, imported, put):
    import_rows(A, B)
    path = put("rows.jsonl", (put.root / "rows.jsonl").read_text().replace("\n", '\n{"image": \n', 1))
    with pytest.raises(UserError, match=r"rows.jsonl, row 2: malformed JSON"):
        imported("jsonl", path)
    calls = []
    done = imported("jsonl", path, skip_bad=True, progress=lambda done, total, note="": calls.append((done, total)))
    assert (done.report.rows, done.report.written, done.report.bad_rows) == (3, 2, 1)
    assert "rows.jsonl, row 2: malformed JSON" in done.report.reasons[0]
    assert calls[-1] == (3, 3)
    assert [sample.id for sample in done.samples] == ["jsonl-000001", "jsonl-000003"]
    reason = r"none of the 2 rows could be read; nothing was written.*\n.*row 1: answer 'z'"
    with pytest.raises(UserError, match=reason):
        import_rows(*[{**A, "answer": "z"}] * 2, skip_bad=True)


def test_import_in_place(import_rows, put):
    root = put.root
    before = (root / "a.png").read_bytes()
    assert [s.missing for s in import_rows({"image": "images/c.png"}, A, out=root).samples] == [True, False]
    shutil.copyfile(root / "deep/b.png", root / "images/c.png")
    import_rows({"image": "images/c.png"}, out=root)
    assert (root / "images/c.png").read_bytes() == (root / "deep/b.png").read_bytes()
    assert (root / "a.png").read_bytes() == before
    # An original with metadata is never replaced.
    image = put("images/texts.png", STRIPPED["texts.png"])
    with pytest.raises(UserError, match=r"would replace the original.*--out"):
        import_rows({"image": "images/texts.png"}, out=root)
    assert image.read_bytes() == STRIPPED["texts.png"]


SECRET = b"ZZDOE^PLANTED"


def encoded(format, image=None, **options):
    stream = io.BytesIO()
    (image or noise()).save(stream, format, **options)
    return stream.getvalue()


def noise(mode="RGB"):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)).convert(mode)


def dicom():
    header = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    header.PatientName = SECRET.decode()
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


def segment(code, content):
    """A JPEG with one more segment behind the JFIF header."""
    jpeg = encoded("JPEG")
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


@pytest.mark.parametrize("name", NO_IMAGES)
def test_other_files_are_refused_by_row_and_not_written(import_rows, put, tmp_path, name):
    put(name, NO_IMAGES[name])
    with pytest.raises(UserError, match=rf"rows.jsonl, row 1: .*{name}"):
        import_rows({"image": name})
    assert content_of(tmp_path / "imported") == {}


@pytest.mark.parametrize("name", [*CONVERTED, *STRIPPED, *KEPT])
def test_images_are_converted_or_stripped_and_the_pixels_stay(import_rows, put, name):
    source = put(name, (CONVERTED | STRIPPED | KEPT)[name])
    done = import_rows({"image": name})
    image = done.folder / done.samples[0].images[0]
    assert load_image(image).tobytes() == load_image(source).tobytes()
    assert SECRET not in done.written()
    assert (done.report.converted, done.report.stripped) == (int(name in CONVERTED), int(name in STRIPPED))
    data, content = source.read_bytes(), image.read_bytes()
    if name in CONVERTED:
        assert image.name == (name if name.endswith(("png", "jpg")) else f"{name}.png")
        assert content.startswith(b"\x89PNG")
    elif name in STRIPPED:
        assert (content[:2], len(content) < len(data)) == (data[:2], True)
    else:
        assert content == data


def test_an_embedded_image_is_decoded_and_stripped(imported, hub):
    def run(content):
        return imported("path-vqa", hub("train.parquet", {"image": content, "question": "Is it?", "answer": "yes"}))

    done = run(STRIPPED["texts.png"])
    assert (done.report.stripped, SECRET in done.written()) == (1, False)
    with pytest.raises(UserError, match=r"row 1: the image in the row: the image is damaged or cut short"):
        run(NO_IMAGES["cut.png"])
