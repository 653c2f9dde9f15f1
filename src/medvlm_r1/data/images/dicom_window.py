"""The display window of a grayscale DICOM image, and its gray values under that window."""

from pathlib import Path
from typing import Any

import numpy as np

from medvlm_r1.data.images.dicom_header import Header
from medvlm_r1.data.images.dicom_table import read_table
from medvlm_r1.data.images.picture import Window
from medvlm_r1.data.images.windowing import (
    HOUNSFIELD,
    PRESETS,
    Array,
    full_range,
    given,
    parse_window,
    percentile_window,
    preset,
    to_grey,
)
from medvlm_r1.errors import UserError

# Under this grey value nothing can be seen; of so few pixels neither.
_DARKEST = 4
_LEAST_SHARE = 0.001
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
# Parts of BodyPartExamined's codes. A CT of any other part, or of none, is shown in the soft tissue window.
_CT_PRESETS = {
    "brain": ("BRAIN", "HEAD", "SKULL"),
    "lung": ("CHEST", "LUNG", "THORAX"),
}


def show_grey(
    path: Path, header: Header, asked: str | None, values: Array, counts: Array
) -> tuple[Array, Window, tuple[str, ...]]:
    """Map values to gray: through the requested window, the stored one, or the modality's default.

    A stored window or preset that nobody asked for gives way to the percentiles if it leaves nothing to see.

    Args:
        path: Named in errors.
        header: Of the file.
        asked: The view's window.
        values: Shape (n,): after the modality transformation, without padding.
        counts: Shape (n,): how many pixels have each.

    Returns:
        uint8, shape (n,); the window; sentences for the note.

    Raises:
        UserError: A preset in Hounsfield units is asked of other values, or a stored window of a file without one.
        UsageError: The window cannot be understood.
    """
    window = _choose(path, header, asked, values, counts)
    grey, said = _to_grey(header, values, window)
    if window.unit == HOUNSFIELD and not header.rescale_type and "RescaleType" in header.elements:
        said = (*said, "The rescale type does not name Hounsfield units: this CT was taken for one in them.")
    if window.name in ("percentile", "full") or _shows_something(grey, counts):
        return grey, window, said
    told = "its lookup table" if window.centre is None else f"{window.centre:g}/{window.width:g}"
    seen = f"Under the {window.name} window ({told}) practically all pixels are black or white"
    if asked is not None:
        return grey, window, (*said, f"{seen}.")
    said = (f"{seen}: shown through the percentiles instead. The window {window.name} shows it as it is.",)
    window = percentile_window(values, counts, window.unit)
    return to_grey(values, window), window, said


def _shows_something(grey: Array, counts: Array) -> bool:
    """Whether a picture of three or more values has pixels that can be told from black and white."""
    between = int(counts[(grey >= _DARKEST) & (grey <= 255 - _DARKEST)].sum())
    return bool(np.count_nonzero(counts) < 3 or between > _LEAST_SHARE * int(counts.sum()))


def _choose(path: Path, header: Header, asked: str | None, values: Array, counts: Array) -> Window:
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


def _to_grey(header: Header, values: Array, window: Window) -> tuple[Array, tuple[str, ...]]:
    """Through a window, or through the file's own lookup table where the window stands for it; and what to say."""
    if window.function != "LUT":
        return to_grey(values, window), ()
    signed = min(header.value_range[0], float(values.min())) < 0
    table = read_table(_table(header), little=header.syntax.is_little_endian, signed=signed)
    return table.grey(values), table.said


def _default(header: Header, values: Array, counts: Array) -> Window:
    if header.is_plain_ct and header.unit == HOUNSFIELD:
        for name, parts in _CT_PRESETS.items():
            for part in parts:
                if part in header.body_part:
                    return preset(name, HOUNSFIELD, f"CT of {part.lower()}, no window stored")
        return preset("soft-tissue", HOUNSFIELD, "CT, no window stored")
    if header.modality != "MR" and header.bits <= 8:
        return _full(header, values, counts)
    return percentile_window(values, counts, header.unit)


def _full(header: Header, values: Array, counts: Array) -> Window:
    bits = header.bits
    if bits <= 8:
        return full_range(*header.value_range, header.unit, f"of {bits} bits")
    there = values[counts > 0]
    return full_range(float(there.min()), float(there.max()), header.unit, "smallest to largest value")


def _table(header: Header) -> Any:
    """The first VOI lookup table; None if there is none."""
    return next(iter(header.elements.get("VOILUTSequence", [])), None)


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
