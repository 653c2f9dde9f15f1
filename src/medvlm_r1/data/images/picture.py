"""Input and output of the image loader (`View`, and `Picture` with its `ImageNote`), and the blank image."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from PIL import Image

from medvlm_r1.errors import UsageError, UserError

GREY = 128
"""Mid-gray level, halfway between black and white."""


def blank_like(image: Image.Image) -> Image.Image:
    """Make a mid-gray RGB image of the same size. It gives the same number of image tokens."""
    return Image.new("RGB", image.size, (GREY, GREY, GREY))


MAX_PIXELS = 100_000_000

PLANES = ("axial", "coronal", "sagittal")
BurnedIn = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class View:
    """The frame, slice and window to show.

    If an attribute is None, the loader uses the default for the file and records it in the note.

    Attributes:
        frame: Index of the frame, from 0, in a multi-frame file (DICOM, TIFF, or a 4-D series of volumes).
        plane: axial, coronal or sagittal (volumes only).
        slice: Index of the slice in that plane, from 0 at the patient's feet (axial), back (coronal) or left
            (sagittal).
        window: brain, subdural, lung, soft-tissue or bone (presets in Hounsfield units); percentile (from 1 to 99);
            full; stored (the window in the file); or CENTER/WIDTH such as "40/400". Three windows separated by commas,
            such as "brain,subdural,bone", become red, green and blue. Gray DICOM files and volumes only.
        series: Index of the DICOM series, from 0, in a folder or ZIP archive with several.

    Raises:
        UsageError: A number is negative or the plane is unknown.
    """

    frame: int | None = None
    plane: str | None = None
    slice: int | None = None
    window: str | None = None
    series: int | None = None

    def __post_init__(self) -> None:
        for name in ("frame", "slice", "series"):
            number = getattr(self, name)
            if number is not None and number < 0:
                raise UsageError(f"{name} {number}; wanted 0 or more (the first is 0)")
        if self.plane is not None and self.plane not in PLANES:
            raise UsageError(f"plane {self.plane!r}; wanted one of {', '.join(PLANES)}")


FILE_VIEW = View()
"""The default view of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The range of values that is displayed from black to white.

    Attributes:
        name: stored, percentile, full, given, or the name of a preset.
        centre: Center in `unit`; None for a stored lookup table, and for three windows.
        width: Width in `unit`; None for a stored lookup table, and for three windows.
        unit: HU, another DICOM rescale type, or "value" if the file names no unit.
        source: Origin: "stored", "stored LUT", "preset", "percentile", "full range" or "given". If there was a choice,
            a colon and the reason follow.
        function: DICOM VOI function: LINEAR, LINEAR_EXACT or SIGMOID; LUT for a stored lookup table; RGB for
            three windows.
    """

    name: str
    centre: float | None
    width: float | None
    unit: str
    source: str
    function: str = "LINEAR_EXACT"

    @classmethod
    def between(cls, name: str, low: float, high: float, unit: str, source: str) -> Self:
        """Window from `low` (black) to `high` (white)."""
        # Halve before adding, because the sum of two very large doubles would overflow.
        return cls(name=name, centre=low / 2 + high / 2, width=high - low, unit=unit, source=source)

    @classmethod
    def full(cls, low: float, high: float, unit: str, why: str) -> Self:
        """Window over the whole range between two values, which may be given in either order."""
        return cls.between("full", min(low, high), max(low, high), unit, f"full range: {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageNote:
    """A record of the decoding, for display. It contains no header value that could name a patient.

    Attributes:
        format: PNG, JPEG, MPO, TIFF, BMP, DICOM, DICOM series, NIfTI, NRRD, AFNI, MGH, MINC or PAR/REC.
        size: Width and height of the picture.
        window: Window that mapped the values to gray; None if the pixels were already 8-bit gray or color.
        frame: Index of the frame, from 0.
        frames: Number of frames in the file.
        plane: For volumes: axial, coronal or sagittal.
        slice: For volumes: index of the slice, from 0.
        slices: For volumes: number of slices in that plane.
        inverted: Whether black and white were exchanged, because white is zero in the file.
        aspect: Height divided by width of a stored pixel if the image was resampled to square pixels; otherwise 1.
        colour: Color conversion, such as "YBR_FULL to RGB" or "palette to RGB"; None if there was none.
        orientation: For raster images, the rotation by EXIF. For volumes, the display convention and the stored axes.
        burned_in: Whether text is burned into the pixels, as stated by the file.
        warnings: Warnings for the viewer, as full sentences.
    """

    format: str
    size: tuple[int, int]
    window: Window | None = None
    frame: int = 0
    frames: int = 1
    plane: str | None = None
    slice: int | None = None
    slices: int | None = None
    inverted: bool = False
    aspect: float = 1.0
    colour: str | None = None
    orientation: str | None = None
    burned_in: BurnedIn = "unknown"
    warnings: tuple[str, ...] = field(default=())

    def as_record(self) -> dict[str, Any]:
        """Convert the note to plain values for JSON."""
        return {**asdict(self), "size": list(self.size), "warnings": list(self.warnings)}

    def summary(self) -> str:
        """Describe the decoding in one line that ends with the warnings."""
        parts = [f"{self.format}, {self.size[0]} x {self.size[1]}"]
        if self.frames > 1:
            parts.append(f"frame {self.frame} of {self.frames} (from 0)")
        if self.plane is not None:
            parts.append(f"{self.plane} slice {self.slice} of {self.slices} (from 0)")
        if self.window is not None:
            parts.append(describe(self.window))
        if self.inverted:
            parts.append("white-is-zero turned round")
        if self.aspect != 1:
            parts.append(f"resampled to square pixels (height / width {self.aspect:.3g})")
        parts += [part for part in (self.colour, self.orientation) if part]
        line = "; ".join(parts) + "."
        return " ".join([line, *(f"Warning: {warning}" for warning in self.warnings)])


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture and a record of the decoding.

    Attributes:
        image: Image in mode RGB, without metadata.
        note: Record of the decoding.
    """

    image: Image.Image
    note: ImageNote


def too_large(path: Path, size: str, what: str = "image") -> UserError:
    """Make the error for an image above the pixel limit."""
    return UserError(
        f"{path}: the {what} is too large ({size}); at most {MAX_PIXELS // 10**6} megapixels, make it smaller"
    )


def check_pixels(path: Path, width: int, height: int, what: str = "image") -> None:
    """Reject an image above the pixel limit before it is decoded.

    Raises:
        UserError: The image has more than `MAX_PIXELS` pixels.
    """
    if width * height > MAX_PIXELS:
        raise too_large(path, f"{width} x {height} pixels", what)


def check_frame(path: Path, frame: int | None, frames: int, advice: str = "") -> int:
    """Return the index of the frame to show.

    Raises:
        UserError: The file has several frames and none was chosen, or the chosen frame does not exist.
    """
    if frame is None and frames > 1:
        raise UserError(f"{path}: the image has {frames} frames; {advice}choose one: frame 0 to {frames - 1} (--frame)")
    if frame is not None and frame >= frames:
        raise UserError(f"{path}: frame {frame} of an image with {frames}; wanted 0 to {frames - 1}")
    return frame or 0


def describe(window: Window) -> str:
    """Describe a window: its name, center, width, unit and source."""
    if window.centre is None or window.width is None:
        return f"window {window.name} ({window.source})"
    unit = "" if window.unit == "value" else f" {window.unit}"
    return f"window {window.name} {window.centre:.6g}/{window.width:.6g}{unit} ({window.source})"
