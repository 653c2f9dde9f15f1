"""The header of a DICOM file: an allow-list of elements, checked before any pixel is decoded.

No name, number, date or UID of a patient, study or device is read out of the file.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pydicom.uid import ImplicitVRLittleEndian as ImplicitVR

from medvlm_r1.data.images.bounded import Bounded
from medvlm_r1.data.images.picture import BurnedIn, View, check_frame, check_pixels
from medvlm_r1.errors import UserError

T = TypeVar("T")

_KEYWORDS = (
    *("SOPClassUID", "Modality", "BodyPartExamined", "BurnedInAnnotation", "PixelPresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *(f"{kind}PixelPadding{part}" for kind in ("Float", "DoubleFloat") for part in ("Value", "RangeLimit")),
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "RescaleType", "PixelIntensityRelationship"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *(f"{c}PaletteColorLookupTable{part}" for c in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue")),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# OverlayRows of the sixteen groups 6000 to 601E that an overlay may be in.
OVERLAYS = tuple(range(0x60000010, 0x60200010, 0x20000))
TAGS: list[Any] = [*_KEYWORDS, *OVERLAYS]

# What an enhanced object keeps per frame, and the elements wanted of it.
_GROUPS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}
_PIXEL_REPRESENTATIONS = (b"OB", b"OW", b"OF", b"OD")
_MOST_INFLATED = 2**29
_UNITS = ("HU", "OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT")


@dataclass(frozen=True, slots=True)
class Header:
    """What the loader knows of a DICOM file.

    Attributes:
        elements: The allowed elements alone, those of the frame's functional groups among them.
        syntax: The transfer syntax; worked out from the first elements if the file does not name it.
        frame: The one to show.
        frames: How many there are.
        pixels_at: Where the bytes of the pixels begin in the file; 0 for a deflated file.
        whole: Whether the pixels are among the elements: pydicom cannot read them from the file piece by piece.
        said: What is to be said with the picture.
    """

    elements: Dataset
    syntax: UID
    frame: int
    frames: int
    pixels_at: int
    whole: bool
    said: tuple[str, ...] = ()

    @property
    def colour(self) -> str:
        """The photometric interpretation."""
        return str(self.elements.PhotometricInterpretation).strip().upper()

    @property
    def modality(self) -> str:
        """CT, MR, ... upper case; empty if not given."""
        return str(self.elements.get("Modality") or "").strip().upper()

    @property
    def body_part(self) -> str:
        """As the file has it, upper case: to be compared, never shown."""
        return str(self.elements.get("BodyPartExamined") or "").strip().upper()

    @property
    def unit(self) -> str:
        """Of the values after the modality transformation: HU, another known rescale type, or "value"."""
        kind = str(self.elements.get("RescaleType") or "").strip().upper()
        if not kind and self.modality == "CT" and self.number("RescaleSlope") is not None:
            return "HU"
        return kind if kind in _UNITS else "value"

    @property
    def burned_in(self) -> BurnedIn:
        """Whether text is burned into the pixels, by the file's own word."""
        said = str(self.elements.get("BurnedInAnnotation") or "").strip().upper()
        return "yes" if said == "YES" else "no" if said == "NO" else "unknown"

    def number(self, keyword: str, place: int = 0) -> float | None:
        """One number of an element; None if it is absent, empty or no number."""
        value = self.elements.get(keyword)
        if value is None or isinstance(value, str):
            return None
        try:
            return float(value if not hasattr(value, "__getitem__") else value[place])
        except (TypeError, ValueError, IndexError):
            return None


def read_header(path: Path, view: View) -> Header:
    """Read and check what is needed to decode and show one frame.

    Raises:
        UserError: No pixels, elements missing, too large, or a frame must be chosen.
    """
    named = _named_syntax(path)
    syntax = named or ImplicitVR
    pixels_at, whole = 0, named == DeflatedExplicitVRLittleEndian
    if not whole:
        with Bounded(path) as file:
            elements = dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=True)
            # The reading stopped at the pixels, or else at the end of the file.
            pixels_at = file.tell()
            start = file.read(6)
        syntax = named or _guessed_syntax(elements)
        implicit = start[4:6] not in _PIXEL_REPRESENTATIONS
        pixels_at += 8 if implicit else 12
        has_pixels = start != b""
        # Some files are implicit and say explicit: pydicom finds out, but only where it reads the file at once.
        whole = has_pixels and implicit != syntax.is_implicit_VR
    if whole:
        with Bounded(path) as file:
            elements = dcmread(file, specific_tags=[*TAGS, *PIXELS], force=True)
        has_pixels = any(keyword in elements for keyword in PIXELS)
    _check_elements(path, elements, has_pixels)
    check_pixels(path, elements.Columns, elements.Rows)
    frames = int(elements.get("NumberOfFrames") or 1)
    frame = check_frame(path, view.frame, frames)
    _lift_groups(elements, frame)
    header = Header(
        elements=elements,
        syntax=syntax,
        frame=frame,
        frames=frames,
        pixels_at=pixels_at,
        whole=whole,
        said=_drop_exposure_table(elements),
    )
    if named is None:
        # pydicom takes the order of the bytes in lookup tables from there.
        elements.file_meta.TransferSyntaxUID = syntax
    return header


def _named_syntax(path: Path) -> UID | None:
    try:
        # pydicom's read_file_meta_info, which opens paths only.
        with Bounded(path) as file:
            read_preamble(file, False)
            meta = _read_file_meta_info(file)
    except InvalidDicomError:
        return None
    syntax = meta.get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        _check_inflated(path, 132 + 12 + int(meta.FileMetaInformationGroupLength))
    return UID(syntax) if syntax else None


def _check_inflated(path: Path, start: int) -> None:
    """A deflated file of a megabyte may hold a gigabyte: measured in pieces before pydicom inflates it at once."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    with Bounded(path) as file:
        file.seek(start)
        while block := file.read(2**16):
            while block and size <= _MOST_INFLATED:
                size += len(inflater.decompress(block, 2**20))
                block = inflater.unconsumed_tail
            if size > _MOST_INFLATED:
                raise UserError(
                    f"{path}: the deflated file holds over {_MOST_INFLATED // 2**20} MB; save it uncompressed"
                )


def _guessed_syntax(elements: Dataset) -> UID:
    implicit, little = elements.original_encoding
    if implicit:
        return ImplicitVR
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _check_elements(path: Path, elements: Dataset, has_pixels: bool) -> None:
    if len(elements) == 0 and not _kind(elements):
        raise UserError(f"{path}: a DICOM file of which no element of an image can be read; it has none or is damaged")
    if not has_pixels:
        raise UserError(f"{path}: a DICOM file without an image{_kind(elements)}; give a file that has pixels")
    wanted = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated")
    for keyword in wanted:
        if elements.get(keyword) in (None, "", 0):
            raise UserError(f"{path}: a DICOM file{_kind(elements)} without {keyword}; its pixels cannot be laid out")
    _check_high_bit(path, elements)


def _check_high_bit(path: Path, elements: Dataset) -> None:
    """The decoders take the lowest bits, whatever HighBit says; others would be shown as noise."""
    stored, high = elements.get("BitsStored"), elements.get("HighBit")
    # Floating-point pixels have neither.
    if elements.BitsAllocated == 1 or stored is None or high is None or int(high) == int(stored) - 1:
        return
    raise UserError(
        f"{path}: a DICOM file{_kind(elements)} whose pixels are {int(stored)} bits with HighBit {int(high)}; of so "
        f"many only those with HighBit {int(stored) - 1} are read: convert it with its vendor's software"
    )


def _kind(elements: Dataset) -> str:
    """What the object is, by the standard's own name for its class; an unknown class is a UID and not shown."""
    uid = elements.get("SOPClassUID")
    if uid is None and hasattr(elements, "file_meta"):
        uid = elements.file_meta.get("MediaStorageSOPClassUID")
    if uid and (name := UID(uid).name) != str(uid):
        return f" ({name})"
    return ""


def _lift_groups(elements: Dataset, frame: int) -> None:
    """Copy the frame's rescale, window and spacing of an enhanced object to where older objects keep them."""
    per_frame = elements.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*(elements.get("SharedFunctionalGroupsSequence") or [])[:1], *per_frame[frame : frame + 1]]
    for group in groups:
        for sequence, keywords in _GROUPS.items():
            for item in (group.get(sequence) or [])[:1]:
                for keyword in keywords:
                    if keyword in item:
                        setattr(elements, keyword, item[keyword].value)
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if keyword in elements:
            del elements[keyword]


def _drop_exposure_table(elements: Dataset) -> tuple[str, ...]:
    """Of an angiogram or fluoroscopy the table may lead back to the exposure: not for display (PS3.3 C.8.7.1.1.2)."""
    modality, relation = (
        str(elements.get(keyword) or "").strip().upper() for keyword in ("Modality", "PixelIntensityRelationship")
    )
    if modality not in ("XA", "XRF") or relation not in ("LOG", "DISP") or "ModalityLUTSequence" not in elements:
        return ()
    del elements.ModalityLUTSequence
    return (f"The modality lookup table is not for display (pixel intensity relationship {relation}): not applied.",)


def guarded(path: Path, work: Callable[[], T], what: str) -> T:
    """Run `work`; whatever the libraries raise becomes a refusal that quotes none of their text.

    pydicom's messages repeat header values, and Python would print them below ours in a traceback.

    Raises:
        UserError: `work` failed.
        MemoryError: There was too little for it, which is no fault of the file.
    """
    try:
        return work()
    except (UserError, MemoryError):
        raise
    except Exception as error:
        kind = type(error).__name__
    raise UserError(f"{path}: {what} ({kind}); copy the file again or convert it with its vendor's software")
