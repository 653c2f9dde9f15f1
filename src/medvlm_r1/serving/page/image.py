"""The image of the reader page: an opened file, what of it can be chosen, and the picture that is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from medvlm_r1.data.images import Picture, View
from medvlm_r1.data.images.files import InMemoryFile
from medvlm_r1.data.images.load import load_picture
from medvlm_r1.data.images.picture import PLANES
from medvlm_r1.data.images.windowing import HOUNSFIELD, PRESETS
from medvlm_r1.errors import UserError

AUTOMATIC, OWN = "automatic", "own"
ONLY_AUTOMATIC = (("Automatic", AUTOMATIC),)
"""The windows of a file that lets none be chosen: gradio refuses a value that is not among the choices."""
_LEAST_WIDTH = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An opened file, held in memory.

    Attributes:
        file: The bytes, as what the loader takes for a path.
        name: Of the file, for the page alone: it may name the patient.
        view: As it is shown first: the middle slice, the first frame, the window the loader chooses.
        frames: How many there are.
        slices: How many there are across each plane; empty for anything but a NIfTI volume.
        windows: Label and value of each window that can be chosen; empty where none can.
        low: Smallest value of the first picture, for the window's sliders.
        high: Largest value.
    """

    file: InMemoryFile
    name: str
    view: View
    frames: int
    slices: dict[str, int]
    windows: tuple[tuple[str, str], ...]
    low: float
    high: float

    @property
    def own_window(self) -> bool:
        """Whether a centre and a width can be set; the loader takes widths of 1 and more."""
        return bool(self.windows) and self.high - self.low >= _LEAST_WIDTH

    def show(self, view: View) -> Picture:
        """The picture in a view.

        Raises:
            UserError, UsageError: As `medvlm_r1.data.images.load_picture`.
        """
        return load_picture(self.file, view)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What stands in the page's controls."""

    plane: str | None
    slice: float
    frame: float
    window: str | None
    centre: float
    width: float

    @classmethod
    def of(cls, values: Sequence[Any]) -> Choice:
        """From the values of the controls, in the order of the fields."""
        return cls(**dict(zip((field.name for field in fields(cls)), values, strict=True)))

    def view(self, source: Source) -> View:
        """The view that is asked for, as far as the file has such a choice."""
        window: str | None = None
        if source.windows and self.window not in (None, AUTOMATIC):
            # A field that was emptied by hand arrives as nothing.
            own = f"{self.centre or 0:.12g}/{max(self.width or 0, _LEAST_WIDTH):.12g}"
            window = own if self.window == OWN else self.window
        view = View(frame=_bounded(self.frame, source.frames), window=window)
        if source.slices:
            plane = self.plane if self.plane in source.slices else next(iter(source.slices))
            view = replace(view, plane=plane, slice=_bounded(self.slice, source.slices[plane]))
        return view


def open_source(data: bytes, name: str) -> tuple[Source, Picture]:
    """Open a file that was given to the page.

    Args:
        data: Its content.
        name: Its name, which messages show.

    Returns:
        The source and the picture in its first view.

    Raises:
        UserError: As `medvlm_r1.data.images.load_picture`.
    """
    file = InMemoryFile.of(data, name)
    view, picture, slices = _first_view(file)
    note = picture.note
    windows: tuple[tuple[str, str], ...] = ()
    low = high = 0.0
    full = _window_of(file, replace(view, window="full")) if note.format in ("DICOM", "NIfTI") and note.window else None
    if full is not None:
        low, high = full
        windows = _windows(picture, lambda name: _window_of(file, replace(view, window=name)) is not None)
    source = Source(
        file=file, name=name, view=view, frames=note.frames, slices=slices, windows=windows, low=low, high=high
    )
    return source, picture


def _first_view(file: InMemoryFile) -> tuple[View, Picture, dict[str, int]]:
    try:
        picture = load_picture(file, View(frame=0))
        return View(frame=0), picture, {}
    except UserError as error:
        refusal = error
    # A volume is refused until plane and slice are chosen; anything else is refused again, for the same reason.
    slices = {}
    for plane in PLANES:
        try:
            number = load_picture(file, View(frame=0, plane=plane, slice=0)).note.slices
        except UserError:
            raise refusal from None
        slices[plane] = number or 1
    view = View(frame=0, plane=PLANES[0], slice=slices[PLANES[0]] // 2)
    return view, load_picture(file, view), slices


def _window_of(file: InMemoryFile, view: View) -> tuple[float, float] | None:
    """The values that become black and white; None where the view is refused or has no such ends."""
    try:
        window = load_picture(file, view).note.window
    except UserError:
        return None
    if window is None or window.centre is None or window.width is None:
        return None
    return window.centre - window.width / 2, window.centre + window.width / 2


def _windows(picture: Picture, works: Callable[[str], bool]) -> tuple[tuple[str, str], ...]:
    note = picture.note
    assert note.window is not None
    choices = [(f"Automatic: {note.window.name}", AUTOMATIC)]
    if note.window.unit == HOUNSFIELD or note.format == "NIfTI":
        choices += [
            (f"{name.capitalize()} {centre:.0f}/{width:.0f} HU", name) for name, (centre, width) in PRESETS.items()
        ]
    choices += [("Percentile 1 to 99", "percentile"), ("Full range", "full")]
    if note.window.name != "stored" and works("stored"):
        choices.append(("Stored in the file", "stored"))
    return (*choices, ("Set below", OWN))


def _bounded(number: float | None, count: int) -> int:
    return min(max(int(number or 0), 0), count - 1)
