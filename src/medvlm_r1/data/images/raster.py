"""Raster image files to 8-bit RGB.

PNG, JPEG, TIFF and BMP are read; the content decides, not the suffix. Gray files deeper than 8 bits are mapped
linearly: zero becomes black, and the top of the smallest bit depth that holds the brightest pixel becomes white. A
12-bit radiograph in a 16-bit file would otherwise be nearly black.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from medvlm_r1.data.images.files import LengthCheckedReader, silence_logging
from medvlm_r1.data.images.picture import (
    ImageNote,
    Picture,
    TooLarge,
    View,
    Window,
    check_frame,
    check_pixels,
    too_large,
)
from medvlm_r1.errors import UsageError, UserError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")

_PHOTOMETRIC = 262
_MIN_IS_WHITE = 0
_ORIENTATION = 0x0112
_TURNS = {
    2: "mirrored by EXIF",
    3: "turned by 180 degrees by EXIF",
    4: "flipped by EXIF",
    5: "transposed by EXIF",
    6: "rotated right by EXIF",
    7: "transversed by EXIF",
    8: "rotated left by EXIF",
}


def load_raster(path: Path, view: View) -> Picture:
    """Decode one picture.

    Args:
        path: A PNG, JPEG, TIFF or BMP file.
        view: Only `frame` applies, for a multi-page TIFF.

    Returns:
        The image, upright by its EXIF orientation and with transparency on black, and its note.

    Raises:
        UserError: The file has another format, is damaged or truncated, exceeds 100 megapixels, has several frames of
            which none was chosen, or holds signed or floating-point values, which define no black and white. The
            message names the file.
        UsageError: The view requests a plane, slice or window.
    """
    try:
        # Pillow warns of odd metadata, which may name a patient, and of pictures below our own limit of size.
        with silence_logging(), LengthCheckedReader(path) as file, Image.open(file, formats=FORMATS) as image:
            _check_view(path, view)
            check_pixels(path, *image.size)
            frames = getattr(image, "n_frames", 1)
            # The further frames of an MPO file (JPEG with a preview or a stereo pair) show the same scene.
            frame = 0
            if image.format != "MPO":
                frame = check_frame(path, view.frame, frames, "save the one that is meant as a PNG, or ")
            if frame:
                image.seek(frame)
                check_pixels(path, *image.size)
            kind = image.format or ""
            return _to_rgb(path, image, ImageNote(format=kind, size=(0, 0), frame=frame, frames=frames))
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image; convert it to PNG") from error
    except Image.DecompressionBombError as error:
        raise TooLarge(too_large(path, str(error))) from error
    # A damaged file makes Pillow's plug-ins raise nearly anything: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        raise UserError(f"{path}: the image is damaged or cut short ({error}); copy it again") from error


def _check_view(path: Path, view: View) -> None:
    for name in ("plane", "slice", "window"):
        if getattr(view, name) is not None:
            raise UsageError(f"{path}: a {name} can be chosen for DICOM and volumes only; this is an image file")


def _to_rgb(path: Path, image: Image.Image, note: ImageNote) -> Picture:
    white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _MIN_IS_WHITE
    orientation = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    window, colour = None, None
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        upright, window = _to_grey(path, upright, inverted=white_is_zero)
    elif upright.has_transparency_data:
        colour = "transparency laid on black"
        upright = upright.convert("RGBA")
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        upright = Image.alpha_composite(black, upright)
    elif upright.mode not in ("1", "L", "RGB"):
        colour = f"{'palette' if upright.mode == 'P' else upright.mode} to RGB"
    rgb = upright.convert("RGB")
    # EXIF and text chunks may name a patient; they must not travel into a report with the pixels.
    rgb.info = {}
    note = replace(note, size=rgb.size, window=window, inverted=white_is_zero, colour=colour, orientation=orientation)
    return Picture(image=rgb, note=note)


def _to_grey(path: Path, image: Image.Image, *, inverted: bool) -> tuple[Image.Image, Window]:
    values: npt.NDArray[Any] = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0:
        raise UserError(
            f"{path}: the image holds signed or floating-point values, which define no black and white; "
            "save it as an 8-bit or 16-bit gray image"
        )
    white = 2 ** max(8, int(values.max()).bit_length()) - 1
    grey = values.astype(np.float32) * np.float32(255 / white)
    # Pillow turns white-is-zero TIFFs round for 8 bits but not for 16.
    if inverted:
        grey = 255 - grey
    source = f"full range: of {white.bit_length()} bits"
    window = Window(name="full", centre=white / 2, width=float(white), unit="value", source=source)
    return Image.fromarray((grey + 0.5).astype(np.uint8)), window
