"""Convert DICOM to 8-bit RGB: modality transformation, window, MONOCHROME1 inversion, isotropic pixels, in this order.

pydicom does the decoding and applies lookup tables and color spaces. Only the selected frame is decoded, and only the
elements listed in `dicom_header` are read. The only header texts in messages and notes are codes defined by the
standard.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import get_expected_length, pixel_array
from pydicom.uid import RLELossless

from medvlm_r1.data.images import windowing
from medvlm_r1.data.images.dicom_header import OVERLAYS, PIXELS, Header, code_of, read_header, read_table, syntax_name
from medvlm_r1.data.images.files import LengthCheckedReader, guarded, silence_logging
from medvlm_r1.data.images.picture import ImageNote, Picture, View, Window
from medvlm_r1.data.images.windowing import Array
from medvlm_r1.errors import UsageError, UserError

_GREY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
# The photometric interpretation that corresponds to each PresentationLUTShape.
_SHAPES = {"IDENTITY": "MONOCHROME2", "INVERSE": "MONOCHROME1"}


def load_dicom(path: Path, view: View) -> Picture:
    """Decode one frame of a DICOM file and convert it as a DICOM viewer would.

    Args:
        path: File with explicit or implicit VR, little or big endian, possibly deflated, with or without file meta
            information. The pixels may be uncompressed, or compressed by JPEG, JPEG-LS, JPEG 2000 or RLE.
        view: `frame` is required for a multi-frame file. `window` overrides the stored window (gray images only).

    Returns:
        The picture and its note.

    Raises:
        UserError: The file has no pixels, is damaged, cannot be decoded or has over 100 megapixels per frame, or a
            frame must be chosen.
        UsageError: The view requests a plane or slice, or a window for a color image.
    """
    for name in ("plane", "slice"):
        if getattr(view, name) is not None:
            raise UsageError(f"{path}: a {name} can be chosen for volumes only; of a DICOM file choose the frame")
    with silence_logging():
        header, pixels, warnings = decode_frame(path, view)
        contradiction = "the DICOM header contradicts its pixels"
        return guarded(path, lambda: _picture(path, header, pixels, view, warnings), contradiction)


def decode_frame(path: Path, view: View) -> tuple[Header, Array, tuple[str, ...]]:
    """Read the header and the stored values of a frame, and warnings. For the errors, see `load_dicom`."""
    header = guarded(path, lambda: read_header(path, view), "the DICOM header is damaged or incomplete")
    if header.colour not in (*_GREY, _PALETTE, *_COLOUR):
        raise UserError(f"{path}: its photometric interpretation is none of those that can be shown")
    reason = f"its pixels ({syntax_name(header.syntax)}) are damaged, truncated or packed in an unsupported way"
    return header, *guarded(path, lambda: _decode(path, header), reason)


def _decode(path: Path, header: Header) -> tuple[Array, tuple[str, ...]]:
    """Decode the frame, and return it with warnings about the length of the pixel data."""
    warnings: tuple[str, ...] = ()
    if header.syntax.is_encapsulated:
        _check_codestream(path, header)
    else:
        warnings = _check_length(path, header)
    # Use a fixed decoder for each syntax, so that the pixels do not depend on the installed packages. pydicom might
    # otherwise choose GDCM, which ends the process on some damaged files, or pylibjpeg's RLE decoder, whose panics are
    # not caught by `except Exception`.
    compressed = "pydicom" if header.syntax == RLELossless else "pylibjpeg"
    plugin = compressed if header.syntax.is_encapsulated else ""
    if header.whole:
        return pixel_array(header.elements, index=header.frame, decoding_plugin=plugin), warnings
    with LengthCheckedReader(path) as file:
        pixels = pixel_array(file, index=header.frame, decoding_plugin=plugin, transfer_syntax_uid=header.syntax)
    return pixels, warnings


def _picture(path: Path, header: Header, pixels: Array, view: View, warnings: tuple[str, ...]) -> Picture:
    window: Window | None = None
    colour = None if header.colour in (*_GREY, "RGB") else f"{header.colour} to RGB"
    gray_warnings: tuple[str, ...] = ()
    if header.colour in _GREY and pixels.ndim == 2:
        pixels, window, gray_warnings = _grey(path, header, pixels, view)
    elif view.window is not None:
        raise UsageError(f"{path}: a window can be chosen for a gray image only; this one is in color")
    elif header.colour == _PALETTE:
        pixels, colour = _palette(path, header, pixels), "palette to RGB"
    elif pixels.dtype != np.uint8 or header.bits != 8:
        white = 2**header.bits - 1
        pixels = windowing.to_bytes(pixels * (255 / white))
        window = Window.full(0, white, "value", f"of {header.bits} bits")
    # Height and width of a pixel, from the first element that has both.
    sides = ((header.number(keyword, 0), header.number(keyword, 1)) for keyword in _SPACINGS)
    height, width = next(((h, w) for h, w in sides if h is not None and w is not None), (1.0, 1.0))
    smooth = header.colour != _PALETTE and header.elements.BitsAllocated != 1
    image = Image.fromarray(pixels).convert("RGB")
    image, aspect, spacing_warnings = windowing.isotropic_resample(path, image, height, width, smooth=smooth)
    note = ImageNote(
        format="DICOM",
        size=image.size,
        window=window,
        frame=header.frame,
        frames=header.frames,
        inverted=header.colour == "MONOCHROME1",
        aspect=aspect,
        colour=colour,
        burned_in=header.burned_in,
        warnings=(*gray_warnings, *spacing_warnings, *warnings, *header.warnings, *header_warnings(header)),
    )
    return Picture(image=image, note=note)


def _grey(path: Path, header: Header, pixels: Array, view: View) -> tuple[Array, Window | None, tuple[str, ...]]:
    """Gray levels, the window (None if all pixels are padding), and warnings."""
    unique = windowing.unique_values(pixels)
    inside = np.isfinite(unique.values) & ~_is_padding(header, unique.values)
    # Padding is not part of the picture. It is black, regardless of the window and the photometric interpretation.
    table = np.zeros(unique.values.shape, dtype=np.uint8)
    if not inside.any():
        return table[unique.index], None, ("All pixels are padding.",)
    values, counts = rescale(path, header, unique.values[inside]), unique.counts[inside]
    shade, window, warnings = show_grey(path, header, view.window, values, counts)
    table[inside] = 255 - shade if header.colour == "MONOCHROME1" else shade
    # A rescale slope of 0 maps all pixels to one value, which may lie outside the window.
    present = values[counts > 0]
    if window.width == 0 or (present.size > 1 and np.ptp(present) == 0):
        warnings = ("All pixels have the same value.", *warnings)
    return table[unique.index], window, warnings


def rescale(path: Path, header: Header, values: Array) -> Array:
    """Apply the modality transformation to finite stored values.

    Raises:
        UserError: The result is not finite.
    """
    values = apply_modality_lut(values, header.elements)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: its rescale slope or intercept is not a usable number; copy the file again")
    return values


def _is_padding(header: Header, values: Array) -> Array:
    for kind in ("Float", "DoubleFloat", "") if values.dtype.kind == "f" else ("",):
        low = _padding(header, f"{kind}PixelPaddingValue")
        high = _padding(header, f"{kind}PixelPaddingRangeLimit")
        if low is not None:
            low, high = sorted((low, low if high is None else high))
            return np.asarray((values >= low) & (values <= high))
    return np.zeros(values.shape, dtype=bool)


def _padding(header: Header, keyword: str) -> float | None:
    value = header.number(keyword)
    bits = int(header.elements.BitsAllocated)
    # Some writers store a negative padding value as an unsigned number.
    if value is not None and header.elements.get("PixelRepresentation") == 1 and 2 ** (bits - 1) <= value < 2**bits:
        value -= 2**bits
    return value


def _palette(path: Path, header: Header, pixels: Array) -> Array:
    unique = windowing.unique_values(pixels)
    entries, first, bits = (int(n) for n in header.elements.RedPaletteColorLookupTableDescriptor)
    entries = entries or 2**16
    # Values outside the table get its first or last entry. pydicom's own clipping can overflow in a narrow type.
    colours = apply_color_lut(np.clip(unique.values, first, first + entries - 1), header.elements)[:, :3]
    if colours.dtype == np.uint8:
        if entries > 2**8:
            raise UserError(f"{path}: its palette has {entries} entries of 8 bits, which is not read")
        bits = 8
    # Some writers declare 8 bits and store 16, so the entries decide.
    white = 2**bits - 1 if int(colours.max()) < 2**bits else np.iinfo(colours.dtype).max
    return windowing.to_bytes(colours * (255 / white))[unique.index]


def header_warnings(header: Header) -> list[str]:
    """Warnings about stored content that the picture does not show, such as overlays, and about burned-in text."""
    shape = code_of(header.elements, "PresentationLUTShape")
    warnings = []
    if header.burned_in == "yes":
        warnings.append("Text is burned into the pixels (BurnedInAnnotation YES): it may name the patient.")
    if header.burned_in == "unknown":
        warnings.append("The file does not say that no text is burned into its pixels: it may name the patient.")
    if any(tag in header.elements for tag in OVERLAYS):
        warnings.append("An overlay is stored with the image and is not drawn.")
    if header.colour in _GREY and _SHAPES.get(shape, header.colour) != header.colour:
        warnings.append(
            f"PresentationLUTShape {shape} contradicts {header.colour}, which was used: black may be white."
        )
    if code_of(header.elements, "PixelPresentation") in ("COLOR", "MIXED"):
        warnings.append("A color map is stored with the gray image and is not applied.")
    return warnings


# Gray levels below `_DARKEST` look black. A smaller share of pixels than `_LEAST_SHARE` is not noticeable.
_DARKEST = 4
_LEAST_SHARE = 0.001
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
# Substrings of BodyPartExamined. A CT of another or an unknown body part is shown in the soft-tissue window.
_CT_PRESETS = {
    **dict.fromkeys(("BRAIN", "HEAD", "SKULL"), "brain"),
    **dict.fromkeys(("CHEST", "LUNG", "THORAX"), "lung"),
}


def show_grey(
    path: Path, header: Header, requested: str | None, values: Array, counts: Array
) -> tuple[Array, Window, tuple[str, ...]]:
    """Map values to gray by the requested window, the stored one, or the modality's default; add warnings."""
    bits = header.bits
    full = Window.full(*header.value_range, header.unit, f"of {bits} bits") if bits <= 8 else None
    default = full if header.modality != "MR" else None
    if header.is_plain_ct and header.unit == windowing.HOUNSFIELD:
        body_part = code_of(header.elements, "BodyPartExamined")
        code = next((code for code in _CT_PRESETS if code in body_part), None)
        name, what = (_CT_PRESETS[code], f"CT of {code.lower()}") if code else ("soft-tissue", "CT")
        default = windowing.preset(name, f"{what}, no window stored")
    window = windowing.choose_window(
        path, requested, values, counts, unit=header.unit, stored=_stored(header), full=full, default=default
    )
    grey = windowing.to_grey(values, window)
    warnings: tuple[str, ...] = ()
    if window.function == "LUT":
        signed = min(header.value_range[0], float(values.min())) < 0
        table = read_table(header.elements.VOILUTSequence[0], little=header.syntax.is_little_endian, signed=signed)
        grey, warnings = table.grey(values), table.warnings
    if window.unit == windowing.HOUNSFIELD and not header.rescale_type and "RescaleType" in header.elements:
        warnings = (*warnings, "The rescale type does not name Hounsfield units: this CT was taken for one in them.")
    if window.name in ("percentile", "full") or _shows_something(grey, counts):
        return grey, window, warnings
    numbers = "its lookup table" if window.centre is None else f"{window.centre:g}/{window.width:g}"
    problem = f"Under the {window.name} window ({numbers}) practically all pixels are black or white"
    if requested is not None:
        return grey, window, (*warnings, f"{problem}.")
    warnings = (f"{problem}: shown through the percentiles instead. The window {window.name} shows it as it is.",)
    window = windowing.percentile_window(values, counts, window.unit)
    return windowing.to_grey(values, window), window, warnings


def _shows_something(grey: Array, counts: Array) -> bool:
    """Whether enough pixels are neither nearly black nor nearly white. Always true for fewer than three values."""
    between = int(counts[(grey >= _DARKEST) & (grey <= 255 - _DARKEST)].sum())
    return bool(np.count_nonzero(counts) < 3 or between > _LEAST_SHARE * int(counts.sum()))


def _stored(header: Header) -> Window | None:
    """Window stored in the file; the first one if there are several. A lookup table takes precedence over a window."""
    if header.elements.get("VOILUTSequence"):
        return Window(name="stored", centre=None, width=None, unit=header.unit, source="stored LUT", function="LUT")
    centre, width = header.number("WindowCenter"), header.number("WindowWidth")
    function = code_of(header.elements, "VOILUTFunction") or "LINEAR"
    if centre is None or width is None or function not in _FUNCTIONS:
        return None
    # DICOM requires a width of at least 1 for LINEAR and above 0 for the others. Some files store a meaningless 0.
    if not (np.isfinite(centre) and np.isfinite(width) and (width >= 1 if function == "LINEAR" else width > 0)):
        return None
    several = getattr(header.elements["WindowCenter"], "VM", 1)
    source = f"stored: the first of {several}" if several > 1 else "stored"
    return Window(name="stored", centre=centre, width=width, unit=header.unit, source=source, function=function)


_UNDEFINED = 0xFFFFFFFF
_BLOCK = 2**20
_J2K_START = b"\xff\x4f\xff\x51"
# Start-of-frame markers of JPEG (0xC0 to 0xCF except DHT, JPG and DAC) and of JPEG-LS.
_FRAME_MARKERS = (*(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC)), 0xF7)


def _check_length(path: Path, header: Header) -> tuple[str, ...]:
    """Compare the length of uncompressed pixel data with the header; return a warning about padding."""
    wanted = get_expected_length(header.elements)
    if header.whole:
        data = next(bytes(header.elements[keyword].value) for keyword in PIXELS if keyword in header.elements)
        length, padded = len(data), not any(data[wanted:])
    else:
        with LengthCheckedReader(path) as file:
            file.seek(header.pixels_at - 4)
            length = int.from_bytes(file.read(4), "little" if header.syntax.is_little_endian else "big")
            if length == _UNDEFINED:
                raise UserError(
                    f"{path}: its pixels are compressed and its header does not say how; "
                    "convert it to uncompressed DICOM"
                )
            length = min(length, path.stat().st_size - header.pixels_at)
            file.seek(header.pixels_at + wanted)
            padded = not any(any(file.read(min(_BLOCK, length - at))) for at in range(wanted, length, _BLOCK))
    if length < wanted:
        raise UserError(
            f"{path}: its pixels are cut short ({length} bytes of the {wanted} in its header); copy it again"
        )
    # A single padding byte makes the length even.
    if length <= wanted + wanted % 2:
        return ()
    if not padded:
        raise UserError(
            f"{path}: its pixels are {length} bytes, and its header declares {wanted}: rows, columns, bits or frames "
            "are not what they were when it was written; export it again"
        )
    return (f"{length - wanted} bytes of padding follow the pixels.",)


def _check_codestream(path: Path, header: Header) -> None:
    """Reject a compressed frame whose width and height differ from the header."""
    if header.syntax == RLELossless:
        return  # has no size of its own
    elements = header.elements
    tables = (elements.get("ExtendedOffsetTable"), elements.get("ExtendedOffsetTableLengths"))
    with LengthCheckedReader(path) as file:
        file.seek(header.pixels_at)
        extended = tables if all(tables) else None
        frame = get_frame(file, header.frame, number_of_frames=header.frames, extended_offsets=extended)
    size = codestream_size(frame)
    if size not in (None, (elements.Columns, elements.Rows)):
        raise UserError(
            f"{path}: the compressed frame is {size[0]} x {size[1]} pixels and the header says "
            f"{elements.Columns} x {elements.Rows}; copy the file again"
        )


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height from the header of a JPEG, JPEG-LS or JPEG 2000 codestream; None if no such header is found."""
    start = frame.find(_J2K_START, 0, 512)
    if start >= 0:
        # SOC, SIZ, length and capabilities take 8 bytes. The far and the near corner of the image follow.
        right, bottom, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in range(start + 8, start + 24, 4))
        return right - left, bottom - top
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in _FRAME_MARKERS:
            return int.from_bytes(frame[at + 7 : at + 9], "big"), int.from_bytes(frame[at + 5 : at + 7], "big")
        # Fill bytes may precede a marker.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
