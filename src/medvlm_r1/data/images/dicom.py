"""DICOM to 8-bit RGB: modality transformation, window, MONOCHROME1 inversion, isotropic pixels, in this order.

Decoding, lookup tables and colour spaces are pydicom's. Only the chosen frame is decoded, only the elements that
`dicom_header` lists are read, and nothing of the header goes into a message or note except codes of the standard.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import RLELossless

from medvlm_r1.data.images.dicom_checks import check_codestream, check_length
from medvlm_r1.data.images.dicom_elements import code_of
from medvlm_r1.data.images.dicom_header import OVERLAYS, Header, read_header, syntax_name
from medvlm_r1.data.images.dicom_window import show_grey
from medvlm_r1.data.images.files import LengthCheckedReader, guarded, silence_logging
from medvlm_r1.data.images.picture import ImageNote, Picture, View, Window
from medvlm_r1.data.images.windowing import Array, isotropic_resample, to_bytes, unique_values
from medvlm_r1.errors import UsageError, UserError

_GREY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
# The photometric interpretation that each shape of the presentation lookup table belongs to.
_SHAPES = {"IDENTITY": "MONOCHROME2", "INVERSE": "MONOCHROME1"}
_CONSTANT = "All pixels have the same value."


@dataclass(frozen=True, slots=True)
class _Rendering:
    """The frame as uint8, (rows, columns) or (rows, columns, 3), and what was done to it."""

    pixels: Array
    window: Window | None = None
    colour: str | None = None
    warnings: tuple[str, ...] = ()


def load_dicom(path: Path, view: View) -> Picture:
    """Decode one frame of a DICOM file and show it as a viewer would.

    Args:
        path: Explicit or implicit VR, little or big endian, deflated, with or without file meta information; native,
            or compressed by JPEG, JPEG-LS, JPEG 2000 or RLE.
        view: `frame` must be given where there are several; `window` overrides the file's own (grey images only).

    Returns:
        The picture and its note.

    Raises:
        UserError: No pixels in it, damaged, not decodable, over 100 megapixels a frame, or a frame must be chosen.
        UsageError: A plane or slice is asked for, or a window of a colour image.
    """
    for name in ("plane", "slice"):
        if getattr(view, name) is not None:
            raise UsageError(f"{path}: a {name} can be chosen for volumes only; of a DICOM file choose the frame")
    with silence_logging():
        header = guarded(path, lambda: read_header(path, view), "the DICOM header is damaged or incomplete")
        if header.colour not in (*_GREY, _PALETTE, *_COLOUR):
            raise UserError(f"{path}: its photometric interpretation is none of those that can be shown")
        reason = f"its pixels ({syntax_name(header.syntax)}) are damaged, cut short or packed in a way that is not read"
        pixels, warnings = guarded(path, lambda: _decode(path, header), reason)
        contradiction = "the DICOM header contradicts its pixels"
        return guarded(path, lambda: _picture(path, header, pixels, view, warnings), contradiction)


def _decode(path: Path, header: Header) -> tuple[Array, tuple[str, ...]]:
    """The frame, and warnings about its bytes."""
    warnings: tuple[str, ...] = ()
    if header.syntax.is_encapsulated:
        check_codestream(path, header)
    else:
        warnings = check_length(path, header)
    # One decoder per syntax, whatever else is installed, so that nobody's pixels differ. Of those pydicom would choose
    # from, GDCM ends the whole process on some damaged files, and pylibjpeg's for RLE panics, which no `except
    # Exception` catches.
    compressed = "pydicom" if header.syntax == RLELossless else "pylibjpeg"
    plugin = compressed if header.syntax.is_encapsulated else ""
    if header.whole:
        return pixel_array(header.elements, index=header.frame, decoding_plugin=plugin), warnings
    with LengthCheckedReader(path) as file:
        pixels = pixel_array(file, index=header.frame, decoding_plugin=plugin, transfer_syntax_uid=header.syntax)
    return pixels, warnings


def _picture(path: Path, header: Header, pixels: Array, view: View, warnings: tuple[str, ...]) -> Picture:
    if header.colour in _GREY and pixels.ndim == 2:
        rendering = _grey(path, header, pixels, view)
    elif view.window is not None:
        raise UsageError(f"{path}: a window can be chosen for a grey image only; this one is in colour")
    else:
        rendering = _palette(path, header, pixels) if header.colour == _PALETTE else _colour(header, pixels)
    # Height and width of a pixel, from the first element that has both.
    sides = ((header.number(keyword, 0), header.number(keyword, 1)) for keyword in _SPACINGS)
    height, width = next(((h, w) for h, w in sides if h is not None and w is not None), (1.0, 1.0))
    smooth = header.colour != _PALETTE and header.elements.BitsAllocated != 1
    image = Image.fromarray(rendering.pixels).convert("RGB")
    image, aspect, spacing_warnings = isotropic_resample(path, image, height, width, smooth=smooth)
    note = ImageNote(
        format="DICOM",
        size=image.size,
        window=rendering.window,
        frame=header.frame,
        frames=header.frames,
        inverted=header.colour == "MONOCHROME1",
        aspect=aspect,
        colour=rendering.colour,
        burned_in=header.burned_in,
        warnings=(*rendering.warnings, *spacing_warnings, *warnings, *header.warnings, *_warnings(header)),
    )
    return Picture(image=image, note=note)


def _grey(path: Path, header: Header, pixels: Array, view: View) -> _Rendering:
    unique = unique_values(pixels)
    inside = np.isfinite(unique.values) & ~_is_padding(header, unique.values)
    if not inside.any():
        return _Rendering(np.zeros(pixels.shape, dtype=np.uint8), warnings=("All pixels are padding.",))
    values, counts = apply_modality_lut(unique.values[inside], header.elements), unique.counts[inside]
    if not np.isfinite(values).all():
        raise UserError(f"{path}: its rescale slope or intercept is not a usable number; copy the file again")
    shade, window, warnings = show_grey(path, header, view.window, values, counts)
    if header.colour == "MONOCHROME1":
        shade = 255 - shade
    # Padding is outside the picture: black, whatever the window and the interpretation make of its value.
    table = np.zeros(unique.values.shape, dtype=np.uint8)
    table[inside] = shade
    # A rescale slope of 0 makes one value of all, which no window need tell.
    present = values[counts > 0]
    constant = (_CONSTANT,) if window.width == 0 or (present.size > 1 and np.ptp(present) == 0) else ()
    return _Rendering(table[unique.index], window=window, warnings=(*constant, *warnings))


def _is_padding(header: Header, values: Array) -> Array:
    kinds = ("Float", "DoubleFloat", "") if values.dtype.kind == "f" else ("",)
    for kind in kinds:
        low = _padding(header, f"{kind}PixelPaddingValue")
        if low is not None:
            high = _padding(header, f"{kind}PixelPaddingRangeLimit")
            high = low if high is None else high
            return np.asarray((values >= min(low, high)) & (values <= max(low, high)))
    return np.zeros(values.shape, dtype=bool)


def _padding(header: Header, keyword: str) -> float | None:
    value = header.number(keyword)
    bits = int(header.elements.BitsAllocated)
    # Some writers mark a negative value as unsigned.
    if value is not None and header.elements.get("PixelRepresentation") == 1 and 2 ** (bits - 1) <= value < 2**bits:
        value -= 2**bits
    return value


def _palette(path: Path, header: Header, pixels: Array) -> _Rendering:
    unique = unique_values(pixels)
    entries, first, bits = (int(n) for n in header.elements.RedPaletteColorLookupTableDescriptor)
    entries = entries or 2**16
    # Values outside the table take its ends; done here because pydicom's own way can wrap round in a narrow type.
    colours = apply_color_lut(np.clip(unique.values, first, first + entries - 1), header.elements)[:, :3]
    if colours.dtype == np.uint8:
        if entries > 2**8:
            raise UserError(f"{path}: its palette has {entries} entries of 8 bits, which is not read")
        bits = 8
    # Some writers say 16 bits and mean it, some say 8 and store 16: the entries decide.
    white = 2**bits - 1 if int(colours.max()) < 2**bits else np.iinfo(colours.dtype).max
    table = to_bytes(colours * (255 / white))
    return _Rendering(table[unique.index], colour="palette to RGB")


def _colour(header: Header, pixels: Array) -> _Rendering:
    bits = int(header.elements.BitsStored)
    colour = None if header.colour == "RGB" else f"{header.colour} to RGB"
    if pixels.dtype == np.uint8 and bits == 8:
        return _Rendering(pixels, colour=colour)
    white = 2**bits - 1
    window = Window(
        name="full", centre=white / 2, width=float(white), unit="value", source=f"full range: of {bits} bits"
    )
    return _Rendering(to_bytes(pixels * (255 / white)), window=window, colour=colour)


def _warnings(header: Header) -> list[str]:
    shape = code_of(header.elements, "PresentationLUTShape")
    contradiction = header.colour in _GREY and _SHAPES.get(shape, header.colour) != header.colour
    warnings = {
        "Text is burned into the pixels (BurnedInAnnotation YES): it may name the patient.": header.burned_in == "yes",
        "The file does not say that no text is burned into its pixels: it may name the patient.": header.burned_in
        == "unknown",
        "An overlay is stored with the image and is not drawn.": any(tag in header.elements for tag in OVERLAYS),
        f"PresentationLUTShape {shape} contradicts {header.colour}, which was used: black may be white.": contradiction,
        "A colour map is stored with the grey image and is not applied.": code_of(header.elements, "PixelPresentation")
        in ("COLOR", "MIXED"),
    }
    return [warning for warning, applies in warnings.items() if applies]
