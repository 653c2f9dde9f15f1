"""Read a DICOM series as a volume, and convert one of its slices to 8-bit RGB.

The volume is a nibabel image, the type that the other volumes have: it holds an array, an affine and a spacing, decodes
only the slices that are used, and is a core dependency. highdicom's `Volume` was compared: its
`get_volume_from_series` decodes all slices and refuses an incomplete series without naming a file.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage

from medvlm_r1.data.images.dicom import decode_frame, header_warnings, rescale, show_grey
from medvlm_r1.data.images.dicom_header import Header
from medvlm_r1.data.images.files import guarded, silence_logging
from medvlm_r1.data.images.picture import Picture, View
from medvlm_r1.data.images.series import Series, SeriesFound, Slice, find_series
from medvlm_r1.data.images.volume import check_shape, show_volume
from medvlm_r1.data.images.windowing import Array
from medvlm_r1.errors import UsageError, UserError


@dataclass(frozen=True, slots=True)
class _Slices:
    """Array proxy of nibabel: the values of a series, float32, shape (columns, rows, slices), decoded when indexed."""

    slices: tuple[Slice, ...]
    is_proxy = True
    ndim = 3
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.slices[0].size, len(self.slices))

    def __getitem__(self, key: Any) -> Array:
        # The key of one slice. Any other is looked up in the whole volume.
        if isinstance(key, tuple) and len(key) == 2 and key[0] is Ellipsis and isinstance(key[1], int):
            return _decode(self.slices[key[1]])[1]
        return np.asarray(np.asarray(self)[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        values = np.empty(self.shape, self.dtype, order="F")
        for index in range(len(self.slices)):
            values[..., index] = self[..., index]
        return values if dtype is None else values.astype(dtype, copy=False)


def open_series(path: Path, number: int | None = None) -> tuple[SpatialImage, Series, tuple[str, ...]]:
    """Open one series as a volume.

    Args:
        path: A folder, a ZIP archive, or a DICOM file.
        number: Index of the series, from 0; it may be None if there is one.

    Returns:
        A lazy nibabel image in patient coordinates (right, front, head; mm), the series, and warnings. CT values are
        Hounsfield units.

    Raises:
        UserError: No series was found, one must be chosen, or the series is not one volume. The message names files.
    """
    found = find_series(path)
    series = _choose(path, found, number)
    if series.faults:
        raise UserError(f"{path}: the series is not one volume. {' '.join(series.faults)} Export the series again.")
    values = _Slices(series.slices)
    check_shape(path, values.shape, values.dtype)
    return SpatialImage(values, series.affine), series, (*series.warnings, *found.problems)


def load_series(path: Path, view: View) -> Picture:
    """Load one slice of a series in a folder or ZIP archive.

    Args:
        path: The folder or archive.
        view: `plane` and `slice` are required unless the volume has a single slice, and `series` if there are several.
            The window is chosen as for a DICOM file, by the header of the slice in the middle.

    Raises:
        UserError: See `open_series`. Also if a file is damaged, or a plane or slice must be chosen.
        UsageError: The window is invalid.
    """
    volume, series, warnings = open_series(path, view.series)
    with silence_logging():
        middle = series.slices[len(series.slices) // 2]
        header, _ = _decode(middle)
        grey = partial(show_grey, path, header)

        def show() -> Picture:
            picture = show_volume(path, volume, view, "DICOM series", grey)
            all_warnings = (*picture.note.warnings, *warnings, *header.warnings, *header_warnings(header))
            return replace(picture, note=replace(picture.note, burned_in=header.burned_in, warnings=all_warnings))

        return guarded(path, show, f"the DICOM header of {middle.name} contradicts the series")


def _choose(path: Path, found: SeriesFound, number: int | None) -> Series:
    left_out = " ".join(found.problems)
    if not found.series:
        raise UserError(f"{path}: no DICOM series that is a volume. {left_out or 'The folder has no files.'}")
    last = len(found.series) - 1
    if number is None and last:
        names = "; ".join(f"{index}: {item}" for index, item in enumerate(found.series))
        raise UserError(f"{path}: {last + 1} series; choose one (--series N): {names}. {left_out}".strip())
    if number is not None and number > last:
        raise UsageError(f"{path}: series {number} of {last + 1}; wanted 0 to {last}")
    return found.series[number or 0]


def _decode(item: Slice) -> tuple[Header, Array]:
    """Header and values of a slice, float32, shape (columns, rows)."""
    path = item.path
    with silence_logging():
        header, pixels, _ = decode_frame(path, View(frame=item.frame))
        if header.colour != "MONOCHROME2" or pixels.shape != item.size[::-1]:
            raise UserError(f"{path}: not a slice of gray values (MONOCHROME2); open it as a single image")
        values = guarded(path, lambda: rescale(path, header, pixels), "the DICOM header contradicts its pixels")
    return header, values.astype(np.float32).T
