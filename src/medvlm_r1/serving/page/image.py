"""Image of the reader page: an opened file, its view choices, and the shown image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from medvlm_r1.data.images import Picture, View
from medvlm_r1.data.images.files import InMemoryFile
from medvlm_r1.data.images.load import load_picture
from medvlm_r1.data.images.picture import PLANES
from medvlm_r1.data.images.windowing import HOUNSFIELD, PRESETS
from medvlm_r1.errors import UserError

AUTOMATIC, OWN = "automatic", "own"
ONLY_AUTOMATIC = (("Automatic", AUTOMATIC),)
"""Window choices of a file without windows; gradio rejects a value that is not a choice."""
_LEAST_WIDTH = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An opened file in memory.

    Attributes:
        file: In-memory file for the image loader.
        name: File name, for the page only: it may identify the patient.
        view: Initial view: middle slice, first frame, default window.
        frames: Number of frames.
        slices: Number of slices by plane; empty unless a volume.
        windows: Label and value of each available window; may be empty.
        low: Smallest value of the first image, for the window sliders.
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
        """Whether center and width can be set; the loader needs a width of at least 1."""
        return bool(self.windows) and self.high - self.low >= _LEAST_WIDTH

    def show(self, view: View) -> Picture:
        """Load the image in a view.

        Raises:
            UserError, UsageError: As `medvlm_r1.data.images.load_picture`.
        """
        return load_picture(self.file, view)


class Choice(NamedTuple):
    """Values of the page's view controls."""

    plane: str | None
    slice: float
    frame: float
    window: str | None
    center: float
    width: float

    def view(self, source: Source) -> View:
        """Return the selected view, limited to what the file supports."""
        window: str | None = None
        if source.windows and self.window not in (None, AUTOMATIC):
            # A cleared field arrives as None.
            own = f"{self.center or 0:.12g}/{max(self.width or 0, _LEAST_WIDTH):.12g}"
            window = own if self.window == OWN else self.window
        view = View(frame=_bounded(self.frame, source.frames), window=window)
        if source.slices:
            plane = self.plane if self.plane in source.slices else next(iter(source.slices))
            view = replace(view, plane=plane, slice=_bounded(self.slice, source.slices[plane]))
        return view


def open_source(data: bytes, name: str) -> tuple[Source, Picture]:
    """Open a file dropped on the page.

    Args:
        data: Its content.
        name: Its name, for messages.

    Returns:
        The source and its initial image.

    Raises:
        UserError: As `medvlm_r1.data.images.load_picture`.
    """
    file = InMemoryFile.of(data, name)
    view, picture, slices = _first_view(file)
    note = picture.note
    described = note.window and (note.plane or note.format == "DICOM")
    full = _window_of(file, replace(view, window="full")) if described else None
    low, high = full or (0.0, 0.0)
    return Source(
        file=file,
        name=name,
        view=view,
        frames=note.frames,
        slices=slices,
        windows=_windows(file, view, picture) if full else (),
        low=low,
        high=high,
    ), picture


def _first_view(file: InMemoryFile) -> tuple[View, Picture, dict[str, int]]:
    first = View(frame=0)
    try:
        return first, load_picture(file, first), {}
    except UserError as error:
        refused = error
    # A volume needs plane and slice; any other file is refused again for the same reason.
    try:
        slices = {plane: load_picture(file, replace(first, plane=plane, slice=0)).note.slices or 1 for plane in PLANES}
    except UserError:
        raise refused from None
    view = replace(first, plane=PLANES[0], slice=slices[PLANES[0]] // 2)
    return view, load_picture(file, view), slices


def _window_of(file: InMemoryFile, view: View) -> tuple[float, float] | None:
    """Return the values that become black and white; None if the view is refused or has no window."""
    try:
        window = load_picture(file, view).note.window
    except UserError:
        return None
    if window is None or window.centre is None or window.width is None:
        return None
    return window.centre - window.width / 2, window.centre + window.width / 2


def _windows(file: InMemoryFile, view: View, picture: Picture) -> tuple[tuple[str, str], ...]:
    note = picture.note
    assert note.window is not None
    choices = [(f"Automatic: {note.window.name}", AUTOMATIC)]
    if note.window.unit == HOUNSFIELD or note.plane:
        choices += [
            (f"{name.capitalize()} {center:.0f}/{width:.0f} HU", name) for name, (center, width) in PRESETS.items()
        ]
    choices += [("Percentile 1 to 99", "percentile"), ("Full range", "full")]
    if note.window.name != "stored" and _window_of(file, replace(view, window="stored")) is not None:
        choices.append(("Stored in the file", "stored"))
    return (*choices, ("Set below", OWN))


def _bounded(number: float | None, count: int) -> int:
    return min(max(int(number or 0), 0), count - 1)
