"""Read an allow-list of DICOM header elements, check them, and normalize them for pydicom's functions.

No name, number, date or UID of a patient, study or device is read. Empty elements count as absent, an incomplete
rescale is completed, and lookup tables are unpacked. Corrections that change the displayed image are reported as
warnings.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.sequence import Sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pydicom.uid import ImplicitVRLittleEndian as ImplicitVR

from medvlm_r1.data.images.files import MAX_INFLATED, LengthCheckedReader
from medvlm_r1.data.images.picture import BurnedIn, View, check_frame, check_pixels
from medvlm_r1.data.images.windowing import Array, to_bytes
from medvlm_r1.errors import UserError

_KEYWORDS = Path(__file__).with_name("dicom_elements.txt").read_text(encoding="utf-8").split()
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# OverlayRows in each of the sixteen overlay groups, 6000 to 601E.
OVERLAYS = tuple(range(0x60000010, 0x60200010, 0x20000))
TAGS: list[Any] = [*_KEYWORDS, *OVERLAYS]

_PIXEL_REPRESENTATIONS = (b"OB", b"OW", b"OF", b"OD")
_MAY_BE_ZERO = ("PixelRepresentation", "PlanarConfiguration")
_UNITS = ("HU", "OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT")
_NEAR_AIR = -500
# Transfer syntaxes that pydicom's dictionary does not name.
_SYNTAX_NAMES = {
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112)), "JPEG XL"),
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
    "1.2.840.113619.5.2": "GE private, big-endian pixels",
}
# Functional groups of enhanced objects, and the elements that are read from each.
_GROUPS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}
_FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_RESCALE = {"RescaleSlope": 1, "RescaleIntercept": 0}
_TABLE_BITS = (8, *range(10, 17))


@dataclass(frozen=True, slots=True)
class Header:
    """The checked header elements of a DICOM file.

    Attributes:
        elements: The allowed elements only, including those of the frame's functional groups.
        syntax: Transfer syntax. If the file does not name it, it is inferred from the first elements.
        frame: Index of the frame to show.
        frames: Number of frames.
        pixels_at: Byte offset of the pixel data in the file; 0 for a deflated file.
        whole: Whether `elements` contains the pixel data, because pydicom cannot read it frame by frame.
        warnings: Warnings for the note, as full sentences.
    """

    elements: Dataset
    syntax: UID
    frame: int
    frames: int
    pixels_at: int
    whole: bool
    warnings: tuple[str, ...] = ()

    @property
    def colour(self) -> str:
        """Photometric interpretation."""
        return code_of(self.elements, "PhotometricInterpretation")

    @property
    def modality(self) -> str:
        """Modality code such as CT or MR, in upper case; empty if absent."""
        return code_of(self.elements, "Modality")

    @property
    def rescale_type(self) -> str:
        """RescaleType if it is a code that names a unit; otherwise empty."""
        kind = code_of(self.elements, "RescaleType")
        return kind if kind in _UNITS else ""

    @property
    def unit(self) -> str:
        """Unit of the values after the modality transformation: HU, another known rescale type, or "value".

        A CT with a rescale slope but no known rescale type is in Hounsfield units if its value range extends below
        -500, close to air. An 8-bit image with rescale type HU must also extend below -500.
        """
        kind = self.rescale_type
        if kind not in ("", "HU"):
            return kind
        if kind == "" and (self.modality != "CT" or self.number("RescaleSlope") is None):
            return "value"
        return "HU" if self.value_range[0] < _NEAR_AIR or (kind == "HU" and self.bits > 8) else "value"

    @property
    def is_plain_ct(self) -> bool:
        """Whether window presets apply: this is a CT, but no scout image and no derived map without a unit."""
        kinds = code_of(self.elements, "ImageType")
        unspecified_map = "DERIVED" in kinds and "RescaleType" in self.elements and not self.rescale_type
        return self.modality == "CT" and "LOCALIZER" not in kinds and not unspecified_map

    @property
    def bits(self) -> int:
        """Number of bits of a stored value. Floating-point pixels have no BitsStored, so BitsAllocated is used."""
        return int(self.elements.get("BitsStored") or self.elements.BitsAllocated)

    @property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest value that the stored bits can represent, after the modality transformation."""
        lowest = -(2 ** (self.bits - 1)) if self.elements.get("PixelRepresentation") == 1 else 0
        ends = apply_modality_lut(np.array([lowest, lowest + 2**self.bits - 1]), self.elements)
        return float(ends.min()), float(ends.max())

    @property
    def burned_in(self) -> BurnedIn:
        """Whether text is burned into the pixels, as stated by the file: "yes", "no" or "unknown"."""
        codes: dict[str, BurnedIn] = {"YES": "yes", "NO": "no"}
        return codes.get(code_of(self.elements, "BurnedInAnnotation"), "unknown")

    def number(self, keyword: str, index: int = 0) -> float | None:
        """Value of an element at `index`, as a float; None if it is absent, empty or not a number."""
        return first_number(self.elements, keyword, index)


def read_header(path: Path, view: View) -> Header:
    """Read and check the header elements needed to decode and show one frame.

    Raises:
        UserError: Pixels or required elements are missing, the image is too large, or a frame must be chosen.
    """
    named = _named_syntax(path)
    syntax = named or ImplicitVR
    pixels_at, whole = 0, named == DeflatedExplicitVRLittleEndian
    if not whole:
        with LengthCheckedReader(path) as file:
            elements = dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=True)
            # dcmread stopped at the pixels, or at the end of a file without pixels.
            pixels_at = file.tell()
            start = file.read(6)
        encoded_implicit, little = elements.original_encoding
        syntax = named or (
            ImplicitVR if encoded_implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
        implicit = start[4:6] not in _PIXEL_REPRESENTATIONS
        pixels_at += 8 if implicit else 12
        has_pixels = start != b""
        # Some implicit files declare an explicit syntax. pydicom detects this only if it reads the whole file at once.
        whole = has_pixels and syntax.is_transfer_syntax and implicit != syntax.is_implicit_VR
    if whole:
        with LengthCheckedReader(path) as file:
            elements = dcmread(file, specific_tags=[*TAGS, *PIXELS], force=True)
        has_pixels = any(keyword in elements for keyword in PIXELS)
    empty = _drop_empty(elements)
    _check_elements(path, elements, has_pixels)
    _check_syntax(path, syntax)
    check_pixels(path, elements.Columns, elements.Rows)
    frames = int(elements.get("NumberOfFrames") or 1)
    frame = check_frame(path, view.frame, frames)
    _lift_groups(elements, frame)
    if named is None:
        # pydicom takes the byte order of lookup tables from this element.
        elements.file_meta.TransferSyntaxUID = syntax
    warnings = (
        *_drop_exposure_table(elements),
        *_complete_rescale(elements, empty),
        *_read_tables(elements, little=syntax.is_little_endian),
    )
    return Header(elements, syntax, frame, frames, pixels_at, whole, warnings)


def _named_syntax(path: Path) -> UID | None:
    # Like pydicom's read_file_meta_info, which accepts only paths and requires a preamble.
    with LengthCheckedReader(path) as file:
        read_preamble(file, True)
        meta = _read_file_meta_info(file)
        start = file.tell()
    syntax = meta.get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        _check_inflated(path, start)
    return UID(syntax) if syntax else None


def _check_inflated(path: Path, start: int) -> None:
    """Reject a deflated file whose content exceeds `MAX_INFLATED` bytes, which pydicom would inflate at once."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    with LengthCheckedReader(path) as file:
        file.seek(start)
        block = file.read(2**16)
        # Like pydicom, ignore bytes after the end of the compressed data.
        while block and not inflater.eof:
            size += len(inflater.decompress(block, 2**20))
            if size > MAX_INFLATED:
                raise UserError(
                    f"{path}: the deflated file holds over {MAX_INFLATED // 2**20} MB; save it uncompressed"
                )
            block = inflater.unconsumed_tail or file.read(2**16)


def _check_elements(path: Path, elements: Dataset, has_pixels: bool) -> None:
    if len(elements) == 0 and not _kind(elements):
        raise UserError(f"{path}: a DICOM file of which no element of an image can be read; it has none or is damaged")
    if not has_pixels:
        raise UserError(f"{path}: a DICOM file without an image{_kind(elements)}; give a file that has pixels")
    wanted = ["Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"]
    if elements.get("BitsAllocated", 0) <= 16:  # floating-point pixels have 32 or 64
        wanted += ["BitsStored", "PixelRepresentation"]
    if elements.get("SamplesPerPixel", 1) > 1:
        wanted.append("PlanarConfiguration")
    for keyword in wanted:
        if elements.get(keyword) is None or (elements[keyword].value == 0 and keyword not in _MAY_BE_ZERO):
            raise UserError(f"{path}: a DICOM file{_kind(elements)} without {keyword}; its pixels cannot be laid out")
    # The decoders read the lowest bits regardless of HighBit, so pixels in other bits would be shown as noise.
    # Floating-point pixels have neither element.
    stored, high = elements.get("BitsStored"), elements.get("HighBit")
    if elements.BitsAllocated > 1 and None not in (stored, high) and int(high) != int(stored) - 1:
        raise UserError(
            f"{path}: a DICOM file{_kind(elements)} whose pixels are {int(stored)} bits with HighBit {int(high)}; "
            f"only HighBit {int(stored) - 1} is supported for them: convert it with its vendor's software"
        )


def syntax_name(syntax: UID) -> str:
    """Readable name of a transfer syntax."""
    known = syntax.name != str(syntax)
    return _SYNTAX_NAMES.get(syntax, syntax.name if known else "a private transfer syntax")


def _check_syntax(path: Path, syntax: UID) -> None:
    try:
        get_decoder(syntax)
    except NotImplementedError:
        name = syntax_name(syntax)
        raise UserError(
            f"{path}: compression not supported ({name}); convert it to uncompressed DICOM or JPEG 2000"
        ) from None


def _kind(elements: Dataset) -> str:
    """Name of the object's SOP class in parentheses; empty for an unknown class, whose UID is not shown."""
    uid = elements.get("SOPClassUID")
    if uid is None and hasattr(elements, "file_meta"):
        uid = elements.file_meta.get("MediaStorageSOPClassUID")
    if uid and (name := UID(uid).name) != str(uid):
        return f" ({name})"
    return ""


def first_number(elements: Dataset, keyword: str, index: int = 0) -> float | None:
    """Value of an element at `index`, as a float; None if it is absent, empty or not a number."""
    value = elements.get(keyword)
    if value is None or isinstance(value, str):
        return None
    try:
        return float(value if not hasattr(value, "__getitem__") else value[index])
    except (TypeError, ValueError, IndexError):
        return None


def code_of(elements: Dataset, keyword: str) -> str:
    """Code stored in an element, in upper case; empty if the element is absent."""
    return str(elements.get(keyword) or "").strip().upper()


def _drop_empty(elements: Dataset) -> set[str]:
    """Remove elements without a value, which pydicom would treat as present, and return their keywords."""
    dropped = set()
    for tag in list(elements.keys()):
        value = elements.get_item(tag).value
        if value is None or (isinstance(value, bytes | Sequence) and len(value) == 0):
            dropped.add(elements[tag].keyword)
            del elements[tag]
    return dropped


def _lift_groups(elements: Dataset, frame: int) -> None:
    """Copy rescale, window and spacing of a frame to the top level of an enhanced object, as in older objects."""
    shared, per_frame = (elements.get(keyword) or [] for keyword in _FUNCTIONAL_GROUPS)
    for group in (*shared[:1], *per_frame[frame : frame + 1]):
        for sequence, keywords in _GROUPS.items():
            for item in (group.get(sequence) or [])[:1]:
                _drop_empty(item)
                for keyword in keywords:
                    if keyword in item:
                        setattr(elements, keyword, item[keyword].value)
    for keyword in _FUNCTIONAL_GROUPS:
        if keyword in elements:
            del elements[keyword]


def _drop_exposure_table(elements: Dataset) -> tuple[str, ...]:
    """Remove a modality lookup table that converts to exposure and is not for display (PS3.3 C.8.7.1.1.2)."""
    relation = code_of(elements, "PixelIntensityRelationship")
    xray = code_of(elements, "Modality") in ("XA", "XRF") and relation in ("LOG", "DISP")
    if not xray or "ModalityLUTSequence" not in elements:
        return ()
    del elements.ModalityLUTSequence
    return (f"The modality lookup table is not for display (pixel intensity relationship {relation}): not applied.",)


def _complete_rescale(elements: Dataset, empty: set[str]) -> tuple[str, ...]:
    """Set a missing slope to 1 or intercept to 0, because pydicom needs both; return warnings."""
    numbers = {keyword: first_number(elements, keyword) for keyword in _RESCALE}
    given = set(numbers.values()) != {None}
    warnings = []
    for keyword, neutral in _RESCALE.items() if given or empty & _RESCALE.keys() else ():
        if numbers[keyword] is None:
            warnings.append(f"{keyword} is missing or empty: {neutral} was used.")
        elif elements[keyword].VM > 1:
            warnings.append(f"{keyword} has several values: the first was used.")
        if given:
            setattr(elements, keyword, neutral if numbers[keyword] is None else numbers[keyword])
    return tuple(warnings)


def _read_tables(elements: Dataset, *, little: bool) -> tuple[str, ...]:
    """Unpack the lookup tables, and remove those without a descriptor or data; return warnings."""
    warnings = []
    for keyword, name in {"ModalityLUTSequence": "modality", "VOILUTSequence": "VOI"}.items():
        items = elements.get(keyword)
        if items and not (items[0].get("LUTDescriptor") and items[0].get("LUTData")):
            del elements[keyword]
            warnings.append(f"The stored {name} lookup table is empty: it was not applied.")
    for item in elements.get("ModalityLUTSequence", []):
        table = read_table(item, little=little, signed=elements.get("PixelRepresentation") == 1)
        item.LUTDescriptor = [table.entries.size % 2**16, table.first, 16]
        item.LUTData = table.entries.tolist()
        item["LUTData"].VR = "US"
    # pydicom reads the entries in the byte order of this machine, so the words of a big-endian file are swapped.
    for keyword in (f"{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")):
        if not little and keyword in elements and elements[keyword].VR == "OW":
            data = elements[keyword].value
            elements[keyword].value = np.frombuffer(data[: len(data) // 2 * 2], "<u2").byteswap().tobytes()
    return tuple(warnings)


@dataclass(frozen=True, slots=True)
class Table:
    """A lookup table.

    Attributes:
        entries: Integers, shape (n,).
        first: Pixel value that is mapped to the first entry.
        white: Entry value that is displayed as white.
        warnings: Warnings for the note, as full sentences.
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

    pydicom's `apply_voi` is not used. It counts the entries in their own type, so more than 256 entries of 8 bits
    overflow. It also always unpacks 16 bits.

    Args:
        item: Sequence item with LUTDescriptor and LUTData.
        little: Whether the file is little endian.
        signed: Whether pixel values can be negative.

    Raises:
        ValueError: The descriptor contradicts the entries.
    """
    count, first, bits = (int(n) for n in item.LUTDescriptor)
    # A count of 65,536 is written as 0, and one above 32,767 may have been read as a negative number.
    count = count % 2**16 or 2**16
    # Implicit VR does not give the sign. pydicom uses the sign of the stored pixels, the standard that of these values.
    if signed and first >= 2**15:
        first -= 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        # One byte per entry, and possibly one more to make the length even.
        packed = little and bits == 8 and count > 1 and len(data) in (count, count + count % 2)
        data = np.frombuffer(data, dtype="u1" if packed else "<u2" if little else ">u2", count=count)
    entries = np.atleast_1d(np.asarray(data, dtype=np.int64))[:count]
    largest = int(entries.max())
    if bits not in _TABLE_BITS or entries.size < count or (bits == 8 and largest > 255):
        raise ValueError("the table's descriptor does not fit its entries")
    # Some writers declare 16 bits but use 12, which would look nearly black. The entries decide.
    used = min(bits, max(1, largest.bit_length()))
    warning = (
        f"The stored lookup table declares {bits} bits and uses {used}: the largest value of {used} is shown as white."
    )
    return Table(entries, first, 2**used - 1, (warning,) if used < bits else ())
