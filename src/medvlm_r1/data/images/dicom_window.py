"""The display window of a grayscale DICOM image, and its gray values under that window."""

from pathlib import Path

import numpy as np

from medvlm_r1.data.images.dicom_elements import code_of, read_table
from medvlm_r1.data.images.dicom_header import Header
from medvlm_r1.data.images.picture import Window
from medvlm_r1.data.images.windowing import (
    HOUNSFIELD,
    Array,
    choose_window,
    full_range,
    percentile_window,
    preset,
    to_grey,
    value_range,
)

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
    path: Path, header: Header, requested: str | None, values: Array, counts: Array
) -> tuple[Array, Window, tuple[str, ...]]:
    """Map values to gray: through the requested window, the stored one, or the modality's default.

    A stored window or preset that was not requested gives way to the percentiles if it leaves nothing to see.

    Args:
        path: Named in errors.
        header: Of the file.
        requested: The view's window.
        values: Shape (n,): after the modality transformation, without padding.
        counts: Shape (n,): how many pixels have each.

    Returns:
        uint8, shape (n,); the window; sentences for the note.

    Raises:
        UserError: As `choose_window`.
        UsageError: As `choose_window`.
    """
    unit, full = header.unit, _full(header, values, counts)
    default = _default(header, full, values, counts)
    window = choose_window(
        path, requested, values, counts, unit=unit, full=full, stored=_stored(header), default=default
    )
    grey = to_grey(values, window)
    warnings: tuple[str, ...] = ()
    if window.function == "LUT":
        signed = min(header.value_range[0], float(values.min())) < 0
        table = read_table(header.elements.VOILUTSequence[0], little=header.syntax.is_little_endian, signed=signed)
        grey, warnings = table.grey(values), table.warnings
    if window.unit == HOUNSFIELD and not header.rescale_type and "RescaleType" in header.elements:
        warnings = (*warnings, "The rescale type does not name Hounsfield units: this CT was taken for one in them.")
    if window.name in ("percentile", "full") or _shows_something(grey, counts):
        return grey, window, warnings
    numbers = "its lookup table" if window.centre is None else f"{window.centre:g}/{window.width:g}"
    problem = f"Under the {window.name} window ({numbers}) practically all pixels are black or white"
    if requested is not None:
        return grey, window, (*warnings, f"{problem}.")
    warnings = (f"{problem}: shown through the percentiles instead. The window {window.name} shows it as it is.",)
    window = percentile_window(values, counts, window.unit)
    return to_grey(values, window), window, warnings


def _shows_something(grey: Array, counts: Array) -> bool:
    """Whether a picture of three or more values has pixels that can be told from black and white."""
    between = int(counts[(grey >= _DARKEST) & (grey <= 255 - _DARKEST)].sum())
    return bool(np.count_nonzero(counts) < 3 or between > _LEAST_SHARE * int(counts.sum()))


def _default(header: Header, full: Window, values: Array, counts: Array) -> Window:
    if header.is_plain_ct and header.unit == HOUNSFIELD:
        for name, parts in _CT_PRESETS.items():
            for part in parts:
                if part in header.body_part:
                    return preset(name, f"CT of {part.lower()}, no window stored")
        return preset("soft-tissue", "CT, no window stored")
    if header.modality != "MR" and header.bits <= 8:
        return full
    return percentile_window(values, counts, header.unit)


def _full(header: Header, values: Array, counts: Array) -> Window:
    if header.bits <= 8:
        return full_range(*header.value_range, header.unit, f"of {header.bits} bits")
    return value_range(values, counts, header.unit, "smallest to largest value")


def _stored(header: Header) -> Window | None:
    """The file's own: its lookup table before its window, the first where there are several."""
    if header.elements.get("VOILUTSequence"):
        return Window(name="stored", centre=None, width=None, unit=header.unit, source="stored LUT", function="LUT")
    centre, width = header.number("WindowCenter"), header.number("WindowWidth")
    function = code_of(header.elements, "VOILUTFunction") or "LINEAR"
    if centre is None or width is None or function not in _FUNCTIONS:
        return None
    # DICOM's smallest width: 1 for LINEAR, above 0 for the others. Files with 0 exist, and mean nothing by it.
    if not (np.isfinite(centre) and np.isfinite(width) and (width >= 1 if function == "LINEAR" else width > 0)):
        return None
    several = getattr(header.elements["WindowCenter"], "VM", 1)
    source = f"stored: the first of {several}" if several > 1 else "stored"
    return Window(name="stored", centre=centre, width=width, unit=header.unit, source=source, function=function)
