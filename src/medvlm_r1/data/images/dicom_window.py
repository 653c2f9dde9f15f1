"""Which window a grey DICOM image is shown through, and its grey values under that window."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.pixels.processing import apply_modality_lut

from medvlm_r1.data.images.dicom_header import Header
from medvlm_r1.data.images.dicom_table import read_table
from medvlm_r1.data.images.levels import Array
from medvlm_r1.data.images.picture import Window
from medvlm_r1.data.images.windowing import (
    HOUNSFIELD,
    PRESETS,
    full_range,
    given,
    parse_window,
    percentile_window,
    preset,
    to_grey,
)
from medvlm_r1.errors import UserError

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
# Parts of BodyPartExamined's codes. A CT of any other part, or of none, is shown in the soft tissue window.
_CT_PRESETS = {
    "brain": ("BRAIN", "HEAD", "SKULL"),
    "lung": ("CHEST", "LUNG", "THORAX"),
}


def choose_window(path: Path, header: Header, asked: str | None, values: Array, counts: Array) -> Window:
    """The window asked for, else the stored one, else what suits the modality.

    Without a stored window: a preset for CT in Hounsfield units; the range of the bits for images of at most 8 bits
    other than MR; the percentiles 1 to 99 for everything else.

    Args:
        path: Named in errors.
        header: Of the file.
        asked: The view's window.
        values: Shape (n,): after the modality transformation, without padding.
        counts: Shape (n,): how many pixels have each.

    Raises:
        UserError: A preset in Hounsfield units is asked of other values, or a stored window of a file without one.
        UsageError: The window cannot be understood.
    """
    choice = None if asked is None else parse_window(asked)
    unit = header.unit
    if isinstance(choice, tuple):
        return given(choice, unit)
    if choice in PRESETS:
        if unit != HOUNSFIELD:
            raise UserError(
                f"{path}: the {choice} window is in Hounsfield units and the values of this image are not; "
                "give percentile, full, or CENTRE/WIDTH"
            )
        return preset(choice, unit)
    if choice == "percentile":
        return percentile_window(values, counts, unit)
    if choice == "full":
        return _full(header, values, counts)
    stored = _stored(header)
    if stored is not None:
        return stored
    if choice == "stored":
        raise UserError(f"{path}: no usable window is stored; give a preset, percentile, full, or CENTRE/WIDTH")
    return _default(header, values, counts)


def to_grey_by_file(header: Header, values: Array, window: Window) -> tuple[Array, tuple[str, ...]]:
    """Values (n,) to uint8 through a window, or through the file's own lookup table where the window stands for it.

    Returns:
        The grey values, and what is to be said about the table.
    """
    if window.function != "LUT":
        return to_grey(values, window), ()
    signed = min(*_ends(header), float(values.min())) < 0
    table = read_table(_table(header), little=header.syntax.is_little_endian, signed=signed)
    return table.grey(values), table.said


def _default(header: Header, values: Array, counts: Array) -> Window:
    if header.modality == "CT" and header.unit == HOUNSFIELD:
        for name, parts in _CT_PRESETS.items():
            for part in parts:
                if part in header.body_part:
                    return preset(name, HOUNSFIELD, f"CT of {part.lower()}, no window stored")
        return preset("soft-tissue", HOUNSFIELD, "CT, no window stored")
    if header.modality != "MR" and _bits(header) <= 8:
        return _full(header, values, counts)
    return percentile_window(values, counts, header.unit)


def _full(header: Header, values: Array, counts: Array) -> Window:
    bits = _bits(header)
    if bits <= 8:
        return full_range(*_ends(header), header.unit, f"of {bits} bits")
    there = values[counts > 0]
    return full_range(float(there.min()), float(there.max()), header.unit, "smallest to largest value")


def _ends(header: Header) -> tuple[float, float]:
    """What the smallest and the largest number that the bits can hold become by the modality transformation."""
    bits, signed = _bits(header), header.elements.get("PixelRepresentation") == 1
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    low, high = (float(end) for end in apply_modality_lut(ends, header.elements))
    return low, high


def _bits(header: Header) -> int:
    # Floating-point pixels have bits allocated and none stored.
    return int(header.elements.get("BitsStored") or header.elements.BitsAllocated)


def _table(header: Header) -> Any:
    """The first VOI lookup table; None if there is none."""
    for item in (header.elements.get("VOILUTSequence") or [])[:1]:
        if "LUTDescriptor" in item and "LUTData" in item:
            return item
    return None


def _stored(header: Header) -> Window | None:
    """The file's own: its lookup table before its window, the first where there are several."""
    if _table(header) is not None:
        return Window(name="stored", centre=None, width=None, unit=header.unit, source="stored LUT", function="LUT")
    centre, width = header.number("WindowCenter"), header.number("WindowWidth")
    function = str(header.elements.get("VOILUTFunction") or "LINEAR").strip().upper()
    if centre is None or width is None or function not in _FUNCTIONS:
        return None
    # DICOM's smallest width: 1 for LINEAR, above 0 for the others. Files with 0 exist, and mean nothing by it.
    usable = np.isfinite(centre) and np.isfinite(width) and (width >= 1 if function == "LINEAR" else width > 0)
    if not usable:
        return None
    several = getattr(header.elements["WindowCenter"], "VM", 1)
    source = f"stored: the first of {several}" if several > 1 else "stored"
    return Window(name="stored", centre=centre, width=width, unit=header.unit, source=source, function=function)
