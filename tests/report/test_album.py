"""Pictures of a page: large where there are few, small enough where there are many, and each made once."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlm_r1.errors import UserError
from medvlm_r1.report import album
from medvlm_r1.report.album import PAGE_BYTES, Album, each_with_progress, picture_uri


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def noise(side: int, seed: int = 0) -> Image.Image:
    """What compresses worst."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "kind", "shown"),
    [((64, 48), "png", (64, 48)), ((900, 600), "jpeg", (448, 299)), ((100, 2000), "jpeg", (22, 448))],
)
def test_few_pictures_are_large_and_small_ones_lossless(
    tmp_path: Path, size: tuple[int, int], kind: str, shown: tuple[int, int]
) -> None:
    Image.new("RGB", size, (90, 90, 90)).save(tmp_path / "x.png")
    picture = Album(12).file(tmp_path / "x.png")
    assert picture.uri.startswith(f"data:image/{kind};base64,")
    image = decoded(picture.uri)
    assert (image.size, image.mode, (picture.width, picture.height)) == (shown, "L", shown)
    assert image.getpixel((0, 0)) == pytest.approx(90, abs=1)


def test_colour_stays_colour() -> None:
    uri = picture_uri(Image.new("RGB", (8, 8), (200, 10, 10)))
    assert decoded(uri).convert("RGB").getpixel((0, 0)) == (200, 10, 10)


def test_many_pictures_keep_to_the_bound_and_are_still_to_be_seen() -> None:
    few, many = Album(12).picture(noise(512)), Album(900).picture(noise(512))
    assert few.width == 448
    assert len(many.uri) * 900 <= PAGE_BYTES
    assert many.width >= 96
    # A radiograph is no noise: it is larger, and lossless where it is small.
    smooth = Image.radial_gradient("L").resize((512, 512)).convert("RGB")
    assert Album(900).picture(smooth).width >= 256
    assert Album(900).picture(smooth.resize((64, 64))).uri.startswith("data:image/png")


def test_a_file_is_read_once_and_equal_pictures_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    load = album.load_image
    monkeypatch.setattr(album, "load_image", lambda path: read.append(path) or load(path))
    for name in ("a", "b"):
        noise(16).save(tmp_path / f"{name}.png")
    noise(16, seed=1).save(tmp_path / "c.png")
    pictures = Album(9)
    first = [pictures.file(tmp_path / name) for name in ("a.png", "a.png", "b.png")]
    other = pictures.file(tmp_path / "c.png")
    assert read == [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"]
    assert first[0] is first[1] is first[2]
    assert (first[0].uses, other.uses) == (3, 1)
    assert pictures.shared == [first[0]]


def test_a_file_that_is_no_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError):
        Album(1).file(tmp_path / "x.png")


def test_progress_is_shown_of_many_items_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(each_with_progress(["a", "b"])) == ["a", "b"]
    assert capsys.readouterr().err == ""
    ids = [str(n) for n in range(150)]
    assert list(each_with_progress(ids)) == ids
    assert "150 of 150" in capsys.readouterr().err
