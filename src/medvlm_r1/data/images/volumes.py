"""Read whole volumes, and cut and sample their slices."""

from pathlib import Path

import numpy as np
from nibabel.spatialimages import SpatialImage
from PIL import Image

from medvlm_r1.data.images.files import silence_logging
from medvlm_r1.data.images.load import find_kind
from medvlm_r1.data.images.picture import View
from medvlm_r1.data.images.series import open_series
from medvlm_r1.data.images.volume import WORLD_AXES, StoredAxis, cut_slice, open_volume, stored_axes
from medvlm_r1.data.images.windowing import Array, isotropic_resample
from medvlm_r1.errors import UsageError, UserError

# Voxels above this share of the range from the 1st to the 99th percentile are tissue, not background.
_TISSUE = 0.2
# A slice with less of the tissue of the fullest slice counts as empty.
_EMPTY = 0.05
# For messages of functions that are given an open volume.
_VOLUME = Path("volume")


def read_volume(path: str | Path, *, series: int | None = None) -> SpatialImage:
    """Open a volume: a DICOM series in a folder or ZIP archive, a multi-frame DICOM file, NIfTI or NRRD.

    Args:
        path: The folder or file.
        series: Index of the DICOM series, from 0; needed if there are several.

    Returns:
        A nibabel image. `affine` maps voxel indices to patient coordinates (right, front, head; mm). `get_fdata()`
        returns the values, for CT in Hounsfield units. Values are decoded only when they are read.

    Raises:
        UserError: The path is no volume, is damaged, or is a series with missing slices or mixed orientations.
        UsageError: A series is requested that does not exist.
    """
    path, kind = find_kind(path if isinstance(path, Path) else Path(path))
    if kind in ("DICOM", "series"):
        return open_series(path, series)[0]
    if kind is None:
        raise UserError(f"{path}: not a volume; give a folder of DICOM files, a NIfTI or an NRRD file")
    if series is not None:
        raise UsageError(f"{path}: a series can be chosen in a folder or ZIP archive of DICOM files only")
    with silence_logging():
        return open_volume(path, kind)


def slice_of(
    volume: SpatialImage, plane: str, index: int | None = None, *, position: float | None = None, frame: int = 0
) -> Array:
    """Cut one slice in radiological convention, with square pixels.

    Axial and coronal slices have the patient's right on the left. Sagittal slices have the front on the left. Up is the
    front (axial) or the head (coronal, sagittal). An oblique volume is cut along its stored axes.

    Args:
        volume: A volume of `read_volume`, or any nibabel image.
        plane: axial, coronal or sagittal.
        index: Index of the slice, from 0 at the feet (axial), back (coronal) or left (sagittal).
        position: Instead of an index: coordinate of the slice in mm, toward the head, the front or the right. In an
            oblique volume it is that of the center of the slice.
        frame: Index of the frame of a 4-D volume.

    Returns:
        Values, float32, shape (rows, columns). The coarser side was enlarged (bicubic).

    Raises:
        UsageError: The plane is unknown, not exactly one of `index` and `position` is given, or there is no such slice.
        UserError: The slice cannot be read.
    """
    axis = _axis(volume, plane)
    if (index is None) == (position is None):
        raise UsageError("give either the index of a slice or its position")
    if index is None:
        # Coordinates of the centers of the first slice and of the whole volume.
        center = (np.array((*volume.shape, 1)[:3]) - 1) / 2
        first = np.where(np.arange(3) == axis.axis, axis.index(0), center)
        start, middle = (float((volume.affine @ [*voxel, 1])[WORLD_AXES[plane]]) for voxel in (first, center))
        spacing = abs(float(volume.affine[WORLD_AXES[plane], axis.axis]))
        index = round((float(position or 0) - start) / spacing)
        if not 0 <= index < axis.length:
            raise UsageError(f"{plane} position {position:g} mm; wanted {start:g} to {2 * middle - start:g} mm")
    frames = (*volume.shape, 1, 1, 1)[3]
    for name, number, count in ((f"{plane} slice", index, axis.length), ("frame", frame, frames)):
        if not 0 <= number < count:
            raise UsageError(f"{name} {number} of a volume with {count}; wanted 0 to {count - 1}")
    values, up, across = cut_slice(_VOLUME, volume, plane, index, frame)
    if values.dtype.kind not in "iuf":
        raise UserError("the voxels of the volume are not real numbers; take one channel first")
    image, _, _ = isotropic_resample(_VOLUME, Image.fromarray(values.astype(np.float32)), up, across)
    return np.asarray(image)


def sample_slices(volume: SpatialImage, plane: str, n: int, *, frame: int = 0) -> list[int]:
    """Choose slices spread evenly over the part of a volume that is not empty (see `filled_slices`).

    Args:
        volume: A volume of `read_volume`, or any nibabel image.
        plane: axial, coronal or sagittal.
        n: Number of slices, at least 1.
        frame: Index of the frame of a 4-D volume.

    Returns:
        Ascending indices for `slice_of`: the middle slice of each of `n` equal parts.

    Raises:
        UsageError: Fewer than `n` slices are not empty, or the plane is unknown.
        UserError: All voxels have the same value.
    """
    _axis(volume, plane)
    filled = filled_slices(volume, frame)[plane]
    if not 1 <= n <= len(filled):
        raise UsageError(
            f"{n} {plane} slices of a volume with {len(filled)} that are not empty; wanted 1 to {len(filled)}"
        )
    return [filled[index] for index in spread(len(filled), n)]


def spread(count: int, n: int) -> list[int]:
    """Choose at most `n` evenly spaced indices below `count`: the middle of each of `n` equal parts."""
    n = min(n, count)
    return [(2 * part + 1) * count // (2 * n) for part in range(n)]


def filled_slices(volume: SpatialImage, frame: int = 0) -> dict[str, range]:
    """For each plane, the range of slices that are not empty, as indices for `slice_of`.

    Tissue is every voxel above the lowest fifth of the range from the 1st to the 99th percentile. A range starts and
    ends with a slice that has at least 5 % of the tissue of the fullest slice.

    Raises:
        UserError: All voxels have the same value.
    """
    values = np.asarray(volume.dataobj)
    values = values[..., frame] if values.ndim > 3 else values.reshape((*values.shape, 1)[:3])
    finite = np.isfinite(values)
    inside = values[finite]
    low, high = np.percentile(inside, (1, 99)) if inside.size else (0, 0)
    # A small mask: both percentiles are background.
    if low == high and inside.size:
        low, high = inside.min(), inside.max()
    if low == high:
        raise UserError("all voxels of the volume have the same value; no slice can be chosen")
    tissue = finite & (values > low + _TISSUE * (high - low))
    filled = {}
    for plane, axis in stored_axes(_VOLUME, volume).items():
        per_slice = tissue.sum(axis=tuple({0, 1, 2} - {axis.axis}))[:: -1 if axis.backward else 1]
        used = np.flatnonzero(per_slice >= max(1, _EMPTY * per_slice.max()))
        filled[plane] = range(int(used[0]), int(used[-1]) + 1)
    return filled


def _axis(volume: SpatialImage, plane: str) -> StoredAxis:
    View(plane=plane)  # refuses an unknown plane
    return stored_axes(_VOLUME, volume)[plane]
