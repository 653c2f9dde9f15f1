"""Load an image: detect the format of a file and call its reader. Raster images are read here.

PNG, JPEG, TIFF and BMP files are recognized by their content, not by their suffix. Gray files deeper than 8 bits are
mapped linearly. Zero becomes black, and the largest value of the smallest bit depth that holds the brightest pixel
becomes white. Otherwise, a 12-bit radiograph in a 16-bit file would be nearly black.
"""

import gzip
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from medvlm_r1.data.images import files, picture
from medvlm_r1.data.images.files import ZIP
from medvlm_r1.data.images.picture import FILE_VIEW, ImageNote, Picture, View, Window, check_frame, check_pixels
from medvlm_r1.errors import UsageError, UserError

# The readers of these formats unzip the file themselves, so a whole series need not fit in memory.
_STREAMED = ("NIfTI", "MGH", "AFNI")
_FORMATS = "PNG, JPEG, TIFF, BMP, DICOM or NIfTI image"
# Number of leading bytes that are searched for a DICOM file behind the header of another program.
_FOREIGN_HEAD = 2**16
_BLOCK = 2**20
_PHOTOMETRIC = 262
_MIN_IS_WHITE = 0
_ORIENTATION = 0x0112
# EXIF orientations; 1 is upright.
_ROTATIONS = {2: "mirrored", 3: "turned by 180 degrees", 4: "flipped", 5: "transposed"}
_ROTATIONS |= {6: "rotated right", 7: "transversed", 8: "rotated left"}


def load_picture(path: str | Path, view: View = FILE_VIEW) -> Picture:
    """Decode one image.

    Args:
        path: A PNG, JPEG, TIFF, BMP or DICOM file, a volume (NIfTI, NRRD, AFNI, MGH, MINC 1, PAR/REC), or a gzip file
            of one; or a folder or ZIP archive with DICOM series.
        view: The frame or slice to show, and the window.

    Returns:
        The picture (RGB, 8-bit, upright, square pixels, without metadata) and a note of how it was made.

    Raises:
        UserError: The file is missing, empty, unsupported, damaged, truncated, or too large for the pixel limit or the
            memory; or `view` lacks a frame, plane or slice that the file requires. The message names the file, and
            quotes no header value that could name a patient.
        UsageError: `view` requests something that this kind of file does not have.
    """
    windows = (view.window or "").split(",")
    if len(windows) > 1:
        return _three_windows(path, view, windows)
    # Keep a Path as it is: it may be an `InMemoryFile`.
    path, kind = find_kind(path if isinstance(path, Path) else Path(path))
    if kind == "series" and view == FILE_VIEW:
        what = "not a file but a folder" if path.is_dir() else "not an image but a ZIP archive"
        raise UserError(
            f"{path}: {what}; give the path of one image, or choose a slice of the DICOM series in it "
            "(--plane axial --slice N)"
        )
    if kind != "series" and view.series is not None:
        raise UsageError(f"{path}: a series can be chosen in a folder or ZIP archive of DICOM files only")
    match kind:
        # Imported on first use: most data sets are PNGs, and both libraries load slowly.
        case "DICOM":
            from medvlm_r1.data.images.dicom import load_dicom as load
        case "series":
            from medvlm_r1.data.images.series import load_series as load
        case None:
            load = _load_raster
        case _:
            from medvlm_r1.data.images.volume import load_volume

            load = partial(load_volume, kind=kind)
    try:
        return load(path, view)
    except MemoryError:
        # The file may be intact, so it must not be reported as damaged.
        message = f"{path}: there is not enough memory to open it; free some, or make the image smaller"
    raise UserError(message)


def _three_windows(path: str | Path, view: View, windows: list[str]) -> Picture:
    """Load the same view in three windows, as red, green and blue."""
    if len(windows) != 3:
        raise UsageError(f"{len(windows)} windows; wanted one, or three for red, green and blue (brain,subdural,bone)")
    windows = [window.strip() for window in windows]
    pictures = [load_picture(path, replace(view, window=window)) for window in windows]
    used = [shown.note.window for shown in pictures if shown.note.window is not None]
    source = ", ".join(picture.describe(window).removeprefix("window ") for window in used)
    # There is no window if all pixels are padding.
    name = ",".join(windows)
    window = replace(used[0], name=name, centre=None, width=None, source=source, function="RGB") if used else None
    warnings = tuple(dict.fromkeys(warning for shown in pictures for warning in shown.note.warnings))
    image = Image.merge("RGB", [shown.image.getchannel(0) for shown in pictures])
    return Picture(image=image, note=replace(pictures[0].note, window=window, warnings=warnings))


def find_kind(path: Path) -> tuple[Path, str | None]:
    """Detect what a path is, and refuse unsupported formats by name.

    Returns:
        The path and the kind. For a gzip file that its reader cannot unpack, the unpacked content replaces the path.
        The kind is DICOM, a volume format, "series" (a folder or ZIP archive), or None (any other file).

    Raises:
        UserError: See `load_picture`.
    """
    try:
        size = path.stat().st_size
        regular = path.is_file()
        if not regular and path.is_dir():
            return path, "series"
        head = files.read_head(path, _FOREIGN_HEAD) if regular else b""
    except PermissionError as error:
        raise UserError(f"{path}: may not be read; check its permissions") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no such image; check the path") from error
    if not regular:
        raise UserError(f"{path}: not a file; give the path of one image")
    if size == 0:
        raise UserError(f"{path}: the image file is empty (0 bytes); copy it again")
    # An archive that was uploaded, or lies in another archive, is not read.
    if head.startswith(ZIP) and not isinstance(path, files.InMemoryFile):
        return path, "series"
    kind = files.sniff_format(path, head[: files.HEAD])
    if head.startswith(files.GZIP) and kind not in _STREAMED:
        path = _unzipped(path)
        head = files.read_head(path, _FOREIGN_HEAD)
    if kind in (None, "DICOM") and (foreign := files.sniff_foreign_format(head)):
        raise UserError(f"{path}: not a {_FORMATS} but {foreign[0]}; {foreign[1]}")
    return path, kind


def load_image(path: str | Path) -> Image.Image:
    """Decode an image in its default view, and return it without its note. See `load_picture`."""
    return load_picture(path).image


def is_medical(path: str | Path) -> bool:
    """Whether a file is DICOM or a volume such as NIfTI, judged by its first bytes and its suffix."""
    path = Path(path)
    try:
        head = files.read_head(path)
    except (OSError, ValueError):
        head = b""
    return files.sniff_format(path, head) is not None


def _unzipped(path: Path) -> files.InMemoryFile:
    """Unpack a gzip file in memory, under the file's own name."""
    data = bytearray()
    try:
        with path.open("rb") as raw, gzip.open(raw) as file:
            while block := file.read(_BLOCK):
                data += block
                if len(data) > files.MAX_INFLATED:
                    raise UserError(f"{path}: the gzip file holds over {files.MAX_INFLATED // 2**20} MB; unpack it")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: the gzip file is damaged or cut short; copy it again") from error
    if not data:
        raise UserError(f"{path}: the gzip file holds an empty file (0 bytes); copy it again")
    return files.InMemoryFile.of(bytes(data), str(path))


def _load_raster(path: Path, view: View) -> Picture:
    """Decode one frame of a raster image, upright by EXIF. Transparent areas are black."""
    try:
        # Suppress Pillow's warnings about images below our size limit, and about metadata, which may name a patient.
        with (
            files.silence_logging(),
            files.LengthCheckedReader(path) as file,
            Image.open(file, formats=("PNG", "JPEG", "TIFF", "BMP")) as image,
        ):
            for name in ("plane", "slice", "window"):
                if getattr(view, name) is not None:
                    raise UsageError(
                        f"{path}: a {name} can be chosen for DICOM and volumes only; this is an image file"
                    )
            check_pixels(path, *image.size)
            frames = getattr(image, "n_frames", 1)
            # The further frames of an MPO file (JPEG with a preview or a stereo pair) show the same scene.
            frame = 0
            if image.format != "MPO":
                frame = check_frame(path, view.frame, frames, "save the one that is meant as a PNG, or ")
            if frame:
                image.seek(frame)
                check_pixels(path, *image.size)
            return _to_rgb(path, image, frame, frames)
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image; convert it to PNG") from error
    except Image.DecompressionBombError as error:
        raise picture.too_large(path, str(error)) from error
    # A damaged file makes Pillow's plug-ins raise nearly anything: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        raise UserError(f"{path}: the image is damaged or cut short ({error}); copy it again") from error


def _to_rgb(path: Path, image: Image.Image, frame: int, frames: int) -> Picture:
    white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _MIN_IS_WHITE
    rotation = _ROTATIONS.get(image.getexif().get(_ORIENTATION, 1))
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
    # EXIF and text chunks may name a patient, so they must not be copied into a report with the pixels.
    rgb.info = {}
    note = ImageNote(
        format=image.format or "",
        size=rgb.size,
        window=window,
        frame=frame,
        frames=frames,
        inverted=white_is_zero,
        colour=colour,
        orientation=f"{rotation} by EXIF" if rotation else None,
    )
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
    # Pillow inverts white-is-zero TIFFs with 8 bits but not with 16.
    if inverted:
        grey = 255 - grey
    window = Window.full(0, white, "value", f"of {white.bit_length()} bits")
    return Image.fromarray((grey + 0.5).astype(np.uint8)), window
