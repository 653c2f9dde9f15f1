"""Ordinary picture files to 8-bit RGB.

PNG, JPEG, TIFF and BMP are read; the content decides, not the suffix. Grey files deeper than 8 bits are mapped
linearly, zero to black, and to white the top of the smallest bit depth that holds the brightest pixel: a 12-bit
radiograph kept in a 16-bit file would otherwise come out black.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from medvlm_r1.errors import UserError

MAX_PIXELS = 100_000_000
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")

_PHOTOMETRIC = 262
_MIN_IS_WHITE = 0


def load_image(path: str | Path) -> Image.Image:
    """Decode one picture.

    Args:
        path: A PNG, JPEG, TIFF or BMP file with one frame.

    Returns:
        Mode RGB, 8 bit, turned upright by its EXIF orientation, transparency laid on black, without metadata.

    Raises:
        UserError: The file is absent, empty, not one of these formats, damaged or cut short, over 100 megapixels, has
            several frames, or holds signed or floating-point values, which have no black and white of their own. The
            message names the file.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no such image; check the path") from error
    if not path.is_file():
        raise UserError(f"{path}: not a file; give the path of one image")
    if size == 0:
        raise UserError(f"{path}: the image file is empty (0 bytes); copy it again")
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_frame(path, image)
            return _to_rgb(path, image)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a PNG, JPEG, TIFF or BMP image; convert it to PNG") from error
    except Image.DecompressionBombError as error:
        raise UserError(_too_large(path, str(error))) from error
    # A damaged file makes Pillow's plug-ins raise nearly anything: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        raise UserError(f"{path}: the image is damaged or cut short ({error}); copy it again") from error


def _check_frame(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(_too_large(path, f"{width} x {height} pixels"))
    frames = getattr(image, "n_frames", 1)
    # The further frames of an MPO file (JPEG with a preview or a stereo pair) show the same scene as the first.
    if frames > 1 and image.format != "MPO":
        raise UserError(f"{path}: the image has {frames} frames; save the one that is meant as a PNG")


def _too_large(path: Path, seen: str) -> str:
    return f"{path}: the image is too large ({seen}); at most {MAX_PIXELS // 10**6} megapixels, make it smaller"


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _MIN_IS_WHITE
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        upright = _to_grey(path, upright, inverted=inverted)
    elif upright.has_transparency_data:
        upright = upright.convert("RGBA")
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        upright = Image.alpha_composite(black, upright)
    rgb = upright.convert("RGB")
    # EXIF and text chunks may name a patient; they must not travel into a report with the pixels.
    rgb.info = {}
    return rgb


def _to_grey(path: Path, image: Image.Image, *, inverted: bool) -> Image.Image:
    values: npt.NDArray[Any] = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0:
        raise UserError(
            f"{path}: the image holds signed or floating-point values, which have no black and white of their own; "
            "save it as an 8-bit or 16-bit grey image"
        )
    white = 2 ** max(8, int(values.max()).bit_length()) - 1
    grey = values.astype(np.float32) * np.float32(255 / white)
    # Pillow turns white-is-zero TIFFs round for 8 bits but not for 16.
    if inverted:
        grey = 255 - grey
    return Image.fromarray((grey + 0.5).astype(np.uint8))
