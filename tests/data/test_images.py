import io
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from medvlm_r1.data.images import View, is_medical, load_image, load_picture
from medvlm_r1.errors import UsageError, UserError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_pixels(left=RED, right=BLUE):
    image = Image.new("RGB", (2, 1), left)
    image.putpixel((1, 0), right)
    return image


def grey16(values, dtype="<u2"):
    return Image.fromarray(np.array([values], dtype=dtype))


def loaded(path):
    image = load_image(path)
    assert image.mode == "RGB"
    return [image.getpixel((x, y)) for y in range(image.height) for x in range(image.width)]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_formats(tmp_path, suffix):
    two_pixels().save(tmp_path / f"x.{suffix}")
    assert loaded(tmp_path / f"x.{suffix}") == [RED, BLUE]
    assert loaded(str(tmp_path / f"x.{suffix}")) == [RED, BLUE]


def test_jpeg_grey_and_cmyk(tmp_path):
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.jpg")
    assert set(loaded(tmp_path / "grey.jpg")) == {(77, 77, 77)}
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(tmp_path / "ink.jpg")
    assert set(loaded(tmp_path / "ink.jpg")) == {(0, 0, 0)}


def test_content_decides_not_the_suffix(tmp_path):
    two_pixels().save(tmp_path / "x.jpg", format="PNG")
    assert loaded(tmp_path / "x.jpg") == [RED, BLUE]


def test_one_bit(tmp_path):
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "x.png")
    assert loaded(tmp_path / "x.png") == [(0, 0, 0), (255, 255, 255)]


def test_palette_and_transparent_palette(tmp_path):
    image = two_pixels().quantize(2)
    image.save(tmp_path / "plain.png")
    assert loaded(tmp_path / "plain.png") == [RED, BLUE]
    image.save(tmp_path / "clear.png", transparency=image.getpixel((0, 0)))
    assert loaded(tmp_path / "clear.png") == [(0, 0, 0), BLUE]


def test_alpha_is_laid_on_black(tmp_path):
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 255))
    image.putpixel((1, 0), (200, 100, 50, 128))
    image.save(tmp_path / "x.png")
    opaque, half = loaded(tmp_path / "x.png")
    assert opaque == (200, 100, 50)
    assert half == (100, 50, 25)
    Image.new("LA", (1, 1), (255, 0)).save(tmp_path / "la.png")
    assert loaded(tmp_path / "la.png") == [(0, 0, 0)]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0, 32768, 65535], [0, 128, 255]),
        ([0, 2048, 4095], [0, 128, 255]),  # 12 bits in a 16-bit file
        ([0, 100, 255], [0, 100, 255]),  # 8 bits in a 16-bit file
        ([0, 100, 100], [0, 100, 100]),
        ([0, 0, 0], [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit(tmp_path, suffix, values, wanted):
    grey16(values).save(tmp_path / f"x.{suffix}")
    assert loaded(tmp_path / f"x.{suffix}") == [(v, v, v) for v in wanted]


def test_sixteen_bit_big_endian(tmp_path):
    grey16([0, 32768, 65535], ">u2").save(tmp_path / "x.tif")
    assert [r for r, _, _ in loaded(tmp_path / "x.tif")] == [0, 128, 255]


@pytest.mark.parametrize("image", [Image.fromarray(np.uint8([[0, 60, 255]])), grey16([0, 15420, 65535])])
def test_white_is_zero(tmp_path, image):
    image.save(tmp_path / "x.tif", tiffinfo={262: 0})
    # Pillow writes the pixels of the 8-bit case turned round itself, so that it reads back as it was.
    wanted = [0, 60, 255] if image.mode == "L" else [255, 195, 0]
    assert [r for r, _, _ in loaded(tmp_path / "x.tif")] == wanted


@pytest.mark.parametrize(
    "image", [Image.fromarray(np.array([[0.5, 1.0]], np.float32)), Image.fromarray(np.array([[-1000, 400]], np.int32))]
)
def test_values_without_black_and_white_are_refused(tmp_path, image):
    image.save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x.tif: .*signed or floating-point"):
        load_image(tmp_path / "x.tif")


@pytest.mark.parametrize(("suffix", "depth"), [("png", 8), ("png", 16), ("tif", 8), ("tif", 16)])
def test_exif_rotation(tmp_path, suffix, depth):
    image = grey16([0, 65535]) if depth == 16 else two_pixels((0, 0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / f"x.{suffix}", exif=exif)
    assert [r for r, _, _ in loaded(tmp_path / f"x.{suffix}")] == [255, 0]


def test_exif_quarter_turn_swaps_the_sides(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10)).save(tmp_path / "x.jpg", exif=exif)
    assert load_image(tmp_path / "x.jpg").size == (10, 30)


def test_metadata_does_not_travel_on(tmp_path):
    note = PngImagePlugin.PngInfo()
    note.add_text("Patient", "Jane Doe")
    two_pixels().save(tmp_path / "x.png", pnginfo=note)
    image = load_image(tmp_path / "x.png")
    saved = io.BytesIO()
    image.save(saved, format="PNG")
    assert image.info == {}
    assert b"Jane" not in saved.getvalue()


def test_absent_empty_and_folder(tmp_path):
    with pytest.raises(UserError, match=r"absent.png: no such image"):
        load_image(tmp_path / "absent.png")
    with pytest.raises(UserError, match="no such image"):
        load_image("a\0b.png")
    with pytest.raises(UserError, match="not a file"):
        load_image(tmp_path)
    (tmp_path / "zero.png").touch()
    with pytest.raises(UserError, match=r"zero.png: the image file is empty \(0 bytes\)"):
        load_image(tmp_path / "zero.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_truncated(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"x.{suffix}: the image is damaged or cut short"):
        load_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 14_000, 60_000])
def test_over_a_hundred_megapixels(tmp_path, side):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "x.png").write_bytes(png + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"x.png: the image is too large .* at most 100 megapixels"):
        load_image(tmp_path / "x.png")
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


def test_several_frames(tmp_path):
    two_pixels().save(tmp_path / "x.tif", save_all=True, append_images=[two_pixels()])
    with pytest.raises(
        UserError, match="has 2 frames; save the one that is meant as a PNG, or choose one: frame 0 to 1"
    ):
        load_image(tmp_path / "x.tif")
    two_pixels(BLUE, RED).save(tmp_path / "y.tif", save_all=True, append_images=[two_pixels()])
    second = load_picture(tmp_path / "y.tif", View(frame=1))
    assert [second.image.getpixel((x, 0)) for x in (0, 1)] == [RED, BLUE]
    assert (second.note.frame, second.note.frames) == (1, 2)
    with pytest.raises(UserError, match=r"y.tif: frame 2 of an image with 2; wanted 0 to 1"):
        load_picture(tmp_path / "y.tif", View(frame=2))
    two_pixels().save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[two_pixels()])
    assert load_image(tmp_path / "x.jpg").size == (2, 1)


def note_of(image, path, **options):
    image.save(path, **options)
    return load_picture(path).note


def test_the_note_says_what_was_done(tmp_path):
    path = tmp_path / "x.png"
    plain = note_of(two_pixels(), path)
    assert plain.summary() == "PNG, 2 x 1."
    assert (plain.window, plain.colour, plain.orientation, plain.warnings) == (None, None, None, ())
    assert (plain.burned_in, plain.aspect, plain.inverted) == ("unknown", 1, False)
    assert json.loads(json.dumps(plain.as_record())) == plain.as_record()
    assert plain.as_record()["size"] == [2, 1]
    deep = note_of(grey16([0, 2048, 4095]), path)
    assert deep.summary() == "PNG, 3 x 1; window full 2047.5/4095 (full range: of 12 bits)."
    assert note_of(two_pixels().quantize(2), path).colour == "palette to RGB"
    assert note_of(Image.new("LA", (1, 1)), path).colour == "transparency laid on black"
    exif = Image.Exif()
    exif[0x0112] = 6
    assert note_of(two_pixels(), tmp_path / "x.jpg", exif=exif).orientation == "turned right by EXIF"
    white_is_zero = note_of(grey16([0, 65535]), tmp_path / "x.tif", tiffinfo={262: 0})
    assert white_is_zero.inverted
    assert "white-is-zero turned round" in white_is_zero.summary()


@pytest.mark.parametrize("view", [View(plane="axial"), View(slice=3), View(window="brain")])
def test_views_of_other_kinds_of_file_are_refused(tmp_path, view):
    two_pixels().save(tmp_path / "x.png")
    with pytest.raises(UsageError, match=r"x.png: a .* can be chosen for DICOM and volumes only"):
        load_picture(tmp_path / "x.png", view)
    assert load_picture(tmp_path / "x.png", View(frame=0)).image.size == (2, 1)


def test_medical_files_are_known_by_content_then_by_name(tmp_path):
    two_pixels().save(tmp_path / "picture.dcm", format="PNG")
    assert not is_medical(tmp_path / "picture.dcm")
    assert loaded(tmp_path / "picture.dcm") == [RED, BLUE]
    (tmp_path / "x.png").write_bytes(bytes(128) + b"DICM" + bytes(20))
    assert is_medical(tmp_path / "x.png")
    assert [is_medical(tmp_path / f"absent.{suffix}") for suffix in ("dcm", "nii.gz", "NII", "png", "")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert not is_medical("a\0b.png")
    assert not is_medical(tmp_path)


@pytest.mark.filterwarnings("error")
def test_a_large_picture_below_the_limit_gives_no_warning(tmp_path, monkeypatch):
    two_pixels().save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert loaded(tmp_path / "x.png") == [RED, BLUE]
