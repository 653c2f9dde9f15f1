"""What an import writes for any file: the pixels of a decoded image, or nothing."""

import gzip
import io
import json
import struct

import numpy as np
import pydicom
import pytest
from PIL import Image, PngImagePlugin
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medvlm_r1.data import find_reader, load_image, read_folder
from medvlm_r1.errors import UserError

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
def run(tmp_path):
    """Imports one file alone; the report and the image file that was written."""

    def import_file(name, content, **arguments):
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
        row = {"image": name, "question": "q?", "options": ["x", "y"], "answer": "x"}
        (source / "rows.jsonl").write_text(json.dumps(row))
        report = find_reader("jsonl")(source / "rows.jsonl", out=tmp_path / "out", **arguments)
        [sample] = read_folder(tmp_path / "out")
        return report, tmp_path / "out" / sample.images[0]

    return import_file


def written(tmp_path):
    return b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_refused_by_row_and_not_written(run, tmp_path, name):
    with pytest.raises(UserError, match=rf"rows.jsonl, row 1: .*{name}"):
        run(name, NO_IMAGES[name])
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", CONVERTED)
def test_other_formats_become_png(run, tmp_path, name):
    report, image = run(name, CONVERTED[name])
    assert (report.converted, report.stripped) == (1, 0)
    assert image.name == (name if name.endswith(("png", "jpg")) else f"{name}.png")
    assert image.read_bytes().startswith(b"\x89PNG")
    assert load_image(image).tobytes() == load_image(tmp_path / "source" / name).tobytes()
    assert SECRET not in written(tmp_path)


@pytest.mark.parametrize("name", STRIPPED)
def test_metadata_is_left_out_and_the_pixels_stay(run, tmp_path, name):
    report, image = run(name, STRIPPED[name])
    assert (report.converted, report.stripped) == (0, 1)
    content = image.read_bytes()
    assert content.startswith(STRIPPED[name][:2])
    assert len(content) < len(STRIPPED[name])
    assert load_image(image).tobytes() == load_image(tmp_path / "source" / name).tobytes()
    assert SECRET not in written(tmp_path)


@pytest.mark.parametrize("name", KEPT)
def test_files_without_metadata_keep_their_bytes(run, name):
    report, image = run(name, KEPT[name])
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
