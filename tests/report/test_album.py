"""Pictures of a page: large where there are few, small enough where there are many, and each made once."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from medvlm_r1.report import page as album
from medvlm_r1.report.page import PAGE_BYTES, Album, picture_uri


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def noise(side, seed=0):
    """The image that compresses worst."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "kind", "expected"),
    [((64, 48), "png", (64, 48)), ((900, 600), "jpeg", (448, 299)), ((100, 2000), "jpeg", (22, 448))],
)
def test_few_pictures_are_large_and_small_ones_lossless(size, kind, expected):
    picture = Album(12).picture(Image.new("RGB", size, (90, 90, 90)))
    assert picture.uri.startswith(f"data:image/{kind};base64,")
    image = decoded(picture.uri)
    assert (image.size, image.mode, (picture.width, picture.height)) == (expected, "L", expected)
    assert image.getpixel((0, 0)) == pytest.approx(90, abs=1)
    color = decoded(picture_uri(Image.new("RGB", size, (200, 10, 10)))).convert("RGB").getpixel((0, 0))
    assert color == pytest.approx((200, 10, 10), abs=2)


def test_many_pictures_keep_to_the_budget_and_stay_legible():
    few, many = Album(12).picture(noise(512)), Album(900).picture(noise(512))
    assert few.width == 448
    assert len(many.uri) * 900 <= PAGE_BYTES
    assert many.width >= 96
    # A radiograph is no noise: it is larger, and lossless where it is small.
    smooth = Image.radial_gradient("L").resize((512, 512)).convert("RGB")
    assert Album(900).picture(smooth).width >= 256
    assert Album(900).picture(smooth.resize((64, 64))).uri.startswith("data:image/png")


def test_a_file_is_read_once_and_equal_pictures_are_one(tmp_path, monkeypatch):
    read = []
    load = album.load_image
    monkeypatch.setattr(album, "load_image", lambda path: read.append(path) or load(path))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        noise(16, seed).save(tmp_path / f"{name}.png")
    (tmp_path / "d.png").write_bytes(b"no image")
    pictures = Album(9)
    first, again, equal, other, broken = (pictures.find(tmp_path, f"{name}.png") for name in "aabcd")
    assert [path.stem for path in read] == ["a", "b", "c", "d"]
    assert first is again is equal
    assert first is not None
    assert other is not None
    assert (first.uses, other.uses, broken, pictures.shared) == (3, 1, None, [first])
