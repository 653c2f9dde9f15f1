"""Elements of a DICOM header put into the form that pydicom's functions expect.

Empty elements are absent ones, an incomplete rescale is completed, and lookup tables are unpacked.
Each function that changes what is shown returns sentences for the note.
"""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medvlm_r1.data.images.dicom_table import read_table

# What an enhanced object keeps per frame, and the elements wanted of it.
_GROUPS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}
_RESCALE = {"RescaleSlope": 1, "RescaleIntercept": 0}
_COLOR_TABLES = [f"{part}PaletteColorLookupTableData" for part in ("Red", "Green", "Blue")]


def first_number(elements: Dataset, keyword: str, place: int = 0) -> float | None:
    """One number of an element; None if it is absent, empty or no number."""
    value = elements.get(keyword)
    if value is None or isinstance(value, str):
        return None
    try:
        return float(value if not hasattr(value, "__getitem__") else value[place])
    except (TypeError, ValueError, IndexError):
        return None


def drop_empty(elements: Dataset) -> set[str]:
    """Remove elements without a value, which pydicom's functions take for present. Return their keywords."""
    dropped = set()
    for tag in list(elements.keys()):
        value = elements.get_item(tag).value
        if value is None or (isinstance(value, bytes | Sequence) and len(value) == 0):
            dropped.add(elements[tag].keyword)
            del elements[tag]
    return dropped


def lift_groups(elements: Dataset, frame: int) -> None:
    """Copy the frame's rescale, window and spacing of an enhanced object to where older objects keep them."""
    per_frame = elements.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*(elements.get("SharedFunctionalGroupsSequence") or [])[:1], *per_frame[frame : frame + 1]]
    for group in groups:
        for sequence, keywords in _GROUPS.items():
            for item in (group.get(sequence) or [])[:1]:
                drop_empty(item)
                for keyword in keywords:
                    if keyword in item:
                        setattr(elements, keyword, item[keyword].value)
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if keyword in elements:
            del elements[keyword]


def drop_exposure_table(elements: Dataset) -> tuple[str, ...]:
    """Of an angiogram or fluoroscopy the table may lead back to the exposure: not for display (PS3.3 C.8.7.1.1.2)."""
    modality, relation = (
        str(elements.get(keyword) or "").strip().upper() for keyword in ("Modality", "PixelIntensityRelationship")
    )
    if modality not in ("XA", "XRF") or relation not in ("LOG", "DISP") or "ModalityLUTSequence" not in elements:
        return ()
    del elements.ModalityLUTSequence
    return (f"The modality lookup table is not for display (pixel intensity relationship {relation}): not applied.",)


def complete_rescale(elements: Dataset, empty: set[str]) -> tuple[str, ...]:
    """Give a rescale of which a number is missing its neutral value; pydicom applies both numbers or none.

    Args:
        elements: Of the header.
        empty: Keywords of the elements that were empty.
    """
    numbers = {keyword: first_number(elements, keyword) for keyword in _RESCALE}
    given = any(number is not None for number in numbers.values())
    if not given and not empty & _RESCALE.keys():
        return ()
    said = []
    for keyword, neutral in _RESCALE.items():
        if numbers[keyword] is None:
            said.append(f"{keyword} is missing or empty: {neutral} was used.")
        elif elements[keyword].VM > 1:
            said.append(f"{keyword} has several values: the first was used.")
        if given:
            setattr(elements, keyword, neutral if numbers[keyword] is None else numbers[keyword])
    return tuple(said)


def read_tables(elements: Dataset, *, little: bool) -> tuple[str, ...]:
    """Unpack the lookup tables; remove those without a descriptor or data.

    Args:
        elements: Of the header.
        little: Whether the file is little endian.
    """
    said = []
    for keyword, name in {"ModalityLUTSequence": "modality", "VOILUTSequence": "VOI"}.items():
        if keyword in elements and not _has_table(elements[keyword].value[0]):
            del elements[keyword]
            said.append(f"The stored {name} lookup table is empty: it was not applied.")
    for item in elements.get("ModalityLUTSequence", []):
        table = read_table(item, little=little, signed=elements.get("PixelRepresentation") == 1)
        item.LUTDescriptor = [table.entries.size % 2**16, table.first, 16]
        item.LUTData = table.entries.tolist()
        item["LUTData"].VR = "US"
    # pydicom reads the entries in the byte order of this machine; words of a big-endian file are the other way round.
    for keyword in _COLOR_TABLES:
        if not little and keyword in elements and elements[keyword].VR == "OW":
            data = elements[keyword].value
            elements[keyword].value = np.frombuffer(data[: len(data) // 2 * 2], "<u2").byteswap().tobytes()
    return tuple(said)


def _has_table(item: Any) -> bool:
    return bool(item.get("LUTDescriptor")) and bool(item.get("LUTData"))
