"""Input and output of the image loader: `View`, and `Picture` with its `ImageNote`."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from PIL import Image

from medvlm_r1.errors import UsageError, UserError

MAX_PIXELS = 100_000_000

PLANES = ("axial", "coronal", "sagittal")
BurnedIn = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class View:
    """Frame, slice and window to show. For None the loader uses the default of the file, and the note records it.

    Attributes:
        frame: Frame of a multi-frame file (DICOM, TIFF, the volumes of a 4-D series), counted from 0.
        plane: axial, coronal or sagittal; volumes only.
        slice: Slice in that plane, counted from 0 at the patient's feet (axial), back (coronal) or left (sagittal).
        window: brain, lung, soft-tissue or bone (Hounsfield units); percentile (1 to 99 of the picture); full;
            stored (the file's own); or CENTER/WIDTH such as "40/400". Gray DICOM and volumes only.

    Raises:
        UsageError: A number is negative or the plane is unknown.
    """

    frame: int | None = None
    plane: str | None = None
    slice: int | None = None
    window: str | None = None

    def __post_init__(self) -> None:
        for name in ("frame", "slice"):
            number = getattr(self, name)
            if number is not None and number < 0:
                raise UsageError(f"{name} {number}; wanted 0 or more (the first is 0)")
        if self.plane is not None and self.plane not in PLANES:
            raise UsageError(f"plane {self.plane!r}; wanted one of {', '.join(PLANES)}")


FILE_VIEW = View()
"""What the file itself shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The range of values that is displayed from black to white.

    Attributes:
        name: stored, a preset's name, percentile, full, or given.
        centre: In `unit`; None under a stored lookup table.
        width: In `unit`; None under a stored lookup table.
        unit: HU, another of DICOM's rescale types, or "value" when the file names none.
        source: Origin: "stored", "stored LUT", "preset", "percentile", "full range" or "given"; followed by a colon and
            the reason if there was a choice.
        function: DICOM's VOI function: LINEAR, LINEAR_EXACT, SIGMOID; LUT under a stored lookup table.
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
        # Halves first: the sum of two doubles near the largest would be infinite.
        return cls(name=name, centre=low / 2 + high / 2, width=high - low, unit=unit, source=source)

    @classmethod
    def full(cls, low: float, high: float, unit: str, why: str) -> Self:
        """Window over a whole range of values, in either order."""
        return cls.between("full", min(low, high), max(low, high), unit, f"full range: {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageNote:
    """A record of the decoding, for display. No value comes from a field that names a patient.

    Attributes:
        format: PNG, JPEG, MPO, TIFF, BMP, DICOM, NIfTI, AFNI, MGH, MINC or PAR/REC.
        size: Width and height of the picture.
        window: How values became gray; None for pixels that were already 8-bit gray or color.
        frame: Index of the frame, from 0.
        frames: Number of frames in the file.
        plane: Volumes: axial, coronal or sagittal.
        slice: Volumes: index of the slice, from 0.
        slices: Volumes: number of slices in that plane.
        inverted: Whether black and white were exchanged (white is zero in the file).
        aspect: Height over width of a stored pixel if the image was resampled to square pixels; otherwise 1.
        colour: Color conversion: "YBR_FULL to RGB", "palette to RGB", ...; None without one.
        orientation: Rotation by EXIF, or the convention and axes of a volume.
        burned_in: Whether text may be burned into the pixels, as the file says.
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
        """This record as plain values for JSON."""
        return {**asdict(self), "size": list(self.size), "warnings": list(self.warnings)}

    def summary(self) -> str:
        """Describe the note in one line, with the warnings at its end."""
        parts = [f"{self.format}, {self.size[0]} x {self.size[1]}"]
        if self.frames > 1:
            parts.append(f"frame {self.frame} of {self.frames} (from 0)")
        if self.plane is not None:
            parts.append(f"{self.plane} slice {self.slice} of {self.slices} (from 0)")
        if self.window is not None:
            parts.append(_describe(self.window))
        if self.inverted:
            parts.append("white-is-zero turned round")
        if self.aspect != 1:
            parts.append(f"resampled to square pixels (height / width {self.aspect:.3g})")
        parts += [part for part in (self.colour, self.orientation) if part]
        line = "; ".join(parts) + "."
        return " ".join([line, *(f"Warning: {warning}" for warning in self.warnings)])


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture and what was done to it.

    Attributes:
        image: Mode RGB, 8 bit, without metadata.
        note: What the loader did.
    """

    image: Image.Image
    note: ImageNote


class TooLarge(UserError):
    """An image above the pixel limit."""

    @classmethod
    def of(cls, path: Path, size: str, what: str = "image") -> Self:
        """The error for an image of a size."""
        return cls(
            f"{path}: the {what} is too large ({size}); at most {MAX_PIXELS // 10**6} megapixels, make it smaller"
        )


def check_pixels(path: Path, width: int, height: int, what: str = "image") -> None:
    """Refuse an image above the pixel limit before decoding it.

    Raises:
        TooLarge: It has over `MAX_PIXELS` pixels.
    """
    if width * height > MAX_PIXELS:
        raise TooLarge.of(path, f"{width} x {height} pixels", what)


def check_frame(path: Path, frame: int | None, frames: int, advice: str = "") -> int:
    """The frame to show.

    Raises:
        UserError: The file has several frames and none was chosen, or it lacks the chosen one.
    """
    if frame is None and frames > 1:
        raise UserError(f"{path}: the image has {frames} frames; {advice}choose one: frame 0 to {frames - 1} (--frame)")
    if frame is not None and frame >= frames:
        raise UserError(f"{path}: frame {frame} of an image with {frames}; wanted 0 to {frames - 1}")
    return frame or 0


def _describe(window: Window) -> str:
    if window.centre is None or window.width is None:
        return f"window {window.name} ({window.source})"
    unit = "" if window.unit == "value" else f" {window.unit}"
    return f"window {window.name} {window.centre:.6g}/{window.width:.6g}{unit} ({window.source})"
