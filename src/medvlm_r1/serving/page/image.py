"""Image of the reader page: an opened file, its view choices, and the shown image."""

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
"""The only window choice for a file without windows. It is needed because gradio rejects a value that is no choice."""
_LEAST_WIDTH = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An opened file in memory.

    Attributes:
        file: In-memory file for the image loader.
        name: File name. It is shown only on the page, because it may identify the patient.
        view: Initial view: the middle slice, the first frame and the default window.
        frames: Number of frames.
        slices: Number of slices by plane; empty if the file is not a volume.
        windows: (label, value) of each available window; empty if the file has none.
        values: Smallest and largest value of the first image, for the window sliders.
    """

    file: InMemoryFile
    name: str
    view: View
    frames: int
    slices: dict[str, int]
    windows: tuple[tuple[str, str], ...]
    values: tuple[float, float]

    @property
    def own_window(self) -> bool:
        """Whether the reader can set window center and width. The loader requires a width of at least 1."""
        return self.values[1] - self.values[0] >= _LEAST_WIDTH

    def show(self, view: View) -> Picture:
        """Load the image with the given frame, slice and window.

        Raises:
            UserError, UsageError: See `medvlm_r1.data.images.load_picture`.
        """
        return load_picture(self.file, view)


class Choice(NamedTuple):
    """Current values of the page's view controls."""

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
        data: Content of the file.
        name: Name of the file.

    Returns:
        The source and its initial image.

    Raises:
        UserError: See `medvlm_r1.data.images.load_picture`.
    """
    file = InMemoryFile.of(data, name)
    view, picture, slices = _first_view(file)
    note = picture.note
    described = note.window and (note.plane or note.format == "DICOM")
    full = _window_of(file, replace(view, window="full")) if described else None
    windows = _windows(file, view, picture) if full else ()
    values = full or (0.0, 0.0)
    source = Source(file=file, name=name, view=view, frames=note.frames, slices=slices, windows=windows, values=values)
    return source, picture


def _first_view(file: InMemoryFile) -> tuple[View, Picture, dict[str, int]]:
    first = View(frame=0)
    try:
        return first, load_picture(file, first), {}
    except UserError as error:
        refused = error
    # A volume needs a plane and a slice. Any other file fails again, and its first error is raised.
    try:
        slices = {plane: load_picture(file, replace(first, plane=plane, slice=0)).note.slices or 1 for plane in PLANES}
    except UserError:
        raise refused from None
    view = replace(first, plane=PLANES[0], slice=slices[PLANES[0]] // 2)
    return view, load_picture(file, view), slices


def _window_of(file: InMemoryFile, view: View) -> tuple[float, float] | None:
    """Return the values shown as black and as white; None if the view cannot be loaded or has no window."""
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
