"""Elements of a DICOM header put into the form that pydicom's functions expect, and its lookup tables.

Empty elements count as absent, an incomplete rescale is completed, and lookup tables are unpacked.
Each function that changes the displayed image returns sentences for the note.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medvlm_r1.data.images.windowing import Array, to_bytes

# What an enhanced object keeps per frame, and the elements wanted of it.
_GROUPS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}
_FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_RESCALE = {"RescaleSlope": 1, "RescaleIntercept": 0}
_TABLE_BITS = (8, *range(10, 17))


def first_number(elements: Dataset, keyword: str, index: int = 0) -> float | None:
    """The first number of an element; None if it is absent, empty or not a number."""
    value = elements.get(keyword)
    if value is None or isinstance(value, str):
        return None
    try:
        return float(value if not hasattr(value, "__getitem__") else value[index])
    except (TypeError, ValueError, IndexError):
        return None


def code_of(elements: Dataset, keyword: str) -> str:
    """The code that an element holds, in upper case; empty without one."""
    return str(elements.get(keyword) or "").strip().upper()


def drop_empty(elements: Dataset) -> set[str]:
    """Remove elements without a value, which pydicom would treat as present. Return their keywords."""
    dropped = set()
    for tag in list(elements.keys()):
        value = elements.get_item(tag).value
        if value is None or (isinstance(value, bytes | Sequence) and len(value) == 0):
            dropped.add(elements[tag].keyword)
            del elements[tag]
    return dropped


def lift_groups(elements: Dataset, frame: int) -> None:
    """Copy rescale, window and spacing of a frame of an enhanced object to the top level, as in older objects."""
    shared, per_frame = (elements.get(keyword) or [] for keyword in _FUNCTIONAL_GROUPS)
    for group in (*shared[:1], *per_frame[frame : frame + 1]):
        for sequence, keywords in _GROUPS.items():
            for item in (group.get(sequence) or [])[:1]:
                drop_empty(item)
                for keyword in keywords:
                    if keyword in item:
                        setattr(elements, keyword, item[keyword].value)
    for keyword in _FUNCTIONAL_GROUPS:
        if keyword in elements:
            del elements[keyword]


def drop_exposure_table(elements: Dataset) -> tuple[str, ...]:
    """Of an angiogram or fluoroscopy the table may lead back to the exposure: not for display (PS3.3 C.8.7.1.1.2)."""
    relation = code_of(elements, "PixelIntensityRelationship")
    xray = code_of(elements, "Modality") in ("XA", "XRF") and relation in ("LOG", "DISP")
    if not xray or "ModalityLUTSequence" not in elements:
        return ()
    del elements.ModalityLUTSequence
    return (f"The modality lookup table is not for display (pixel intensity relationship {relation}): not applied.",)


def complete_rescale(elements: Dataset, empty: set[str]) -> tuple[str, ...]:
    """Complete a rescale that lacks a number with its neutral value; pydicom applies both numbers or none.

    Args:
        elements: Header elements.
        empty: Keywords of the elements that were empty.
    """
    numbers = {keyword: first_number(elements, keyword) for keyword in _RESCALE}
    given = any(number is not None for number in numbers.values())
    warnings = []
    for keyword, neutral in _RESCALE.items() if given or empty & _RESCALE.keys() else ():
        if numbers[keyword] is None:
            warnings.append(f"{keyword} is missing or empty: {neutral} was used.")
        elif elements[keyword].VM > 1:
            warnings.append(f"{keyword} has several values: the first was used.")
        if given:
            setattr(elements, keyword, neutral if numbers[keyword] is None else numbers[keyword])
    return tuple(warnings)


def read_tables(elements: Dataset, *, little: bool) -> tuple[str, ...]:
    """Unpack the lookup tables; remove those without a descriptor or data.

    Args:
        elements: Header elements.
        little: Whether the file is little endian.
    """
    warnings = []
    for keyword, name in {"ModalityLUTSequence": "modality", "VOILUTSequence": "VOI"}.items():
        if keyword in elements:
            item = elements[keyword].value[0]
            if not (item.get("LUTDescriptor") and item.get("LUTData")):
                del elements[keyword]
                warnings.append(f"The stored {name} lookup table is empty: it was not applied.")
    for item in elements.get("ModalityLUTSequence", []):
        table = read_table(item, little=little, signed=elements.get("PixelRepresentation") == 1)
        item.LUTDescriptor = [table.entries.size % 2**16, table.first, 16]
        item.LUTData = table.entries.tolist()
        item["LUTData"].VR = "US"
    # pydicom reads the entries in the byte order of this machine; words of a big-endian file are the other way round.
    for keyword in (f"{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")):
        if not little and keyword in elements and elements[keyword].VR == "OW":
            data = elements[keyword].value
            elements[keyword].value = np.frombuffer(data[: len(data) // 2 * 2], "<u2").byteswap().tobytes()
    return tuple(warnings)


@dataclass(frozen=True, slots=True)
class Table:
    """A lookup table.

    Attributes:
        entries: Shape (n,), whole numbers.
        first: The pixel value of the first entry.
        white: The entry that is displayed as white.
        warnings: Sentences for the note.
    """

    entries: Array
    first: int
    white: int
    warnings: tuple[str, ...] = ()

    def grey(self, values: Array) -> Array:
        """Map integer pixel values to gray, uint8, same shape. Values outside the table get its first or last entry."""
        index = np.clip(np.rint(values) - self.first, 0, self.entries.size - 1).astype(np.int64)
        return to_bytes(self.entries[index] * (255 / self.white))


def read_table(item: Any, *, little: bool, signed: bool) -> Table:
    """Read a lookup table in any packing.

    pydicom's `apply_voi` is not used: it counts entries in their own type, so that more than 256 entries of 8 bits
    overflow, and it always unpacks 16 bits.

    Args:
        item: With LUTDescriptor and LUTData.
        little: Whether the file is little endian.
        signed: Whether pixel values can be negative.

    Raises:
        ValueError: The descriptor contradicts the entries.
    """
    count, first, bits = (int(n) for n in item.LUTDescriptor)
    # A count of 65,536 is written as 0, and one above 32,767 may have been read as a negative number.
    count = count % 2**16 or 2**16
    # Implicit VR does not tell the sign, and pydicom takes that of the stored pixels; the standard, of the values here.
    if signed and first >= 2**15:
        first -= 2**16
    entries = _entries(item.LUTData, count, little=little, bits=bits)
    largest = int(entries.max())
    if bits not in _TABLE_BITS or entries.size < count or (bits == 8 and largest > 255):
        raise ValueError("the table's descriptor does not fit its entries")
    # Some writers say 16 bits and use 12, whose picture would be practically black: the entries decide.
    used = max(1, largest.bit_length())
    if used >= bits:
        return Table(entries, first, 2**bits - 1)
    warning = (
        f"The stored lookup table declares {bits} bits and uses {used}: the largest value of {used} is shown as white."
    )
    return Table(entries, first, 2**used - 1, (warning,))


def _entries(data: Any, count: int, *, little: bool, bits: int) -> Array:
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype=np.int64))[:count]
    # One byte an entry, and one more to make the length even.
    packed = little and bits == 8 and count > 1 and len(data) in (count, count + count % 2)
    kind = "u1" if packed else "<u2" if little else ">u2"
    return np.frombuffer(data, dtype=kind, count=count).astype(np.int64)
