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
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def two_pixels(left=RED, right=BLUE):
    return Image.fromarray(np.uint8([[left, right]]))


def grey16(values, dtype="<u2"):
    return Image.fromarray(np.array([values], dtype=dtype))


def loaded(path):
    image = load_image(path)
    assert image.mode == "RGB"
    return [image.getpixel((x, y)) for y in range(image.height) for x in range(image.width)]


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


PALETTE = two_pixels().quantize(2)
ALPHA = Image.fromarray(np.uint8([[[200, 100, 50, 255], [200, 100, 50, 128]]]))
BIT = Image.fromarray(np.uint8([[0, 255]])).convert("1")
EIGHT = Image.fromarray(np.uint8([[0, 60, 255]]))
# File: the image, how it is saved, and its pixels as they are shown; a number stands for a gray value.
PICTURES = {
    "x.png": (two_pixels(), {}, [RED, BLUE]),
    "x.bmp": (two_pixels(), {}, [RED, BLUE]),
    "png_named.jpg": (two_pixels(), {"format": "PNG"}, [RED, BLUE]),
    "grey.jpg": (Image.new("L", (2, 1), 77), {}, [77, 77]),
    "ink.jpg": (Image.new("CMYK", (2, 1), (0, 0, 0, 255)), {}, [0, 0]),
    "one_bit.png": (BIT, {}, [0, 255]),
    "palette.png": (PALETTE, {}, [RED, BLUE]),
    "transparent_palette.png": (PALETTE, {"transparency": PALETTE.getpixel((0, 0))}, [BLACK, BLUE]),
    "alpha.png": (ALPHA, {}, [(200, 100, 50), (100, 50, 25)]),
    "grey_alpha.png": (Image.new("LA", (1, 1), (255, 0)), {}, [0]),
    "16_bits.png": (grey16([0, 32768, 65535]), {}, [0, 128, 255]),
    "16_bits_big_endian.tif": (grey16([0, 32768, 65535], ">u2"), {}, [0, 128, 255]),
    "12_bits_in_16.png": (grey16([0, 2048, 4095]), {}, [0, 128, 255]),
    "8_bits_in_16.tif": (grey16([0, 100, 255]), {}, [0, 100, 255]),
    "7_bits_in_16.png": (grey16([0, 100, 100]), {}, [0, 100, 100]),
    "nothing_in_16.png": (grey16([0, 0, 0]), {}, [0, 0, 0]),
    # Pillow inverts the pixels of the 8-bit case itself when it writes them, so that it reads back as it was.
    "white_is_zero.tif": (EIGHT, {"tiffinfo": {262: 0}}, [0, 60, 255]),
    "white_is_zero_16.tif": (grey16([0, 15420, 65535]), {"tiffinfo": {262: 0}}, [255, 195, 0]),
    "upside_down.png": (two_pixels(BLACK, WHITE), turned(3), [255, 0]),
    "upside_down_16.tif": (grey16([0, 65535]), turned(3), [255, 0]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pixels(tmp_path, name):
    image, options, wanted = PICTURES[name]
    image.save(tmp_path / name, **options)
    pixels = [(value, value, value) if isinstance(value, int) else value for value in wanted]
    assert loaded(tmp_path / name) == loaded(str(tmp_path / name)) == pixels


def noise(path):
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-200])


CUT = "the image is damaged or cut short"
SIGNED = r"the image holds signed or floating-point"
# File: how it is made, and why it is refused.
REFUSED = {
    "floats.tif": (lambda path: Image.fromarray(np.array([[0.5, 1.0]], np.float32)).save(path), SIGNED),
    "signed.tif": (lambda path: Image.fromarray(np.array([[-1000, 400]], np.int32)).save(path), SIGNED),
    "absent.png": (lambda path: None, "no such image"),
    "folder.png": (lambda path: path.mkdir(), "not a file"),
    "zero.png": (lambda path: path.touch(), r"the image file is empty \(0 bytes\)"),
    **{f"x.{suffix}": (noise, CUT) for suffix in ("png", "jpg", "tif", "bmp")},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path, name):
    make, reason = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: {reason}"):
        load_image(tmp_path / name)


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
    two_pixels(BLUE, RED).save(tmp_path / "x.tif", save_all=True, append_images=[two_pixels()])
    with pytest.raises(UserError, match="save the one that is meant as a PNG, or choose one: frame 0 to 1"):
        load_image(tmp_path / "x.tif")
    second = load_picture(tmp_path / "x.tif", View(frame=1))
    assert [second.image.getpixel((x, 0)) for x in (0, 1)] == [RED, BLUE]
    assert (second.note.frame, second.note.frames) == (1, 2)
    two_pixels().save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[two_pixels()])
    assert load_image(tmp_path / "x.jpg").size == (2, 1)


def note_of(image, path, **options):
    image.save(path, **options)
    return load_picture(path).note


def test_the_note_reports_the_decoding(tmp_path):
    path = tmp_path / "x.png"
    plain = note_of(two_pixels(), path)
    assert plain.summary() == "PNG, 2 x 1."
    assert json.loads(json.dumps(plain.as_record())) == plain.as_record()
    assert plain.as_record()["size"] == [2, 1]
    deep = note_of(grey16([0, 2048, 4095]), path)
    assert deep.summary() == "PNG, 3 x 1; window full 2047.5/4095 (full range: of 12 bits)."
    assert note_of(two_pixels().quantize(2), path).colour == "palette to RGB"
    assert note_of(Image.new("LA", (1, 1)), path).colour == "transparency laid on black"
    quarter_turn = note_of(two_pixels(), tmp_path / "x.jpg", **turned(6))
    assert (quarter_turn.orientation, quarter_turn.size) == ("rotated right by EXIF", (1, 2))
    assert "white-is-zero turned round" in note_of(grey16([0, 9]), tmp_path / "x.tif", tiffinfo={262: 0}).summary()
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Jane Doe")
    two_pixels().save(path, pnginfo=text)
    assert load_image(path).info == {}


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
    assert all(is_medical(tmp_path / f"absent.{suffix}") for suffix in ("dcm", "nii.gz", "NII"))
    assert not any(map(is_medical, (tmp_path / "absent.png", "absent", "a\0b.png", tmp_path)))
    with pytest.raises(UserError, match="no such image"):
        load_image("a\0b.png")
