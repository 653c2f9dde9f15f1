"""One slice of a volume (NIfTI, MGH, MINC 1, AFNI, PAR/REC) to 8-bit RGB, in radiological convention.

The affine decides where a slice lies, whatever the order and direction of the stored axes: axial and coronal slices are
shown with the patient's right on the left of the picture, sagittal ones with the front on the left; up is the front
(axial) or the head (coronal, sagittal). Of the header only geometry, data type, scale and display range are used.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import obliquity, voxel_sizes
from nibabel.nifti1 import Nifti1Header
from nibabel.orientations import aff2axcodes, apply_orientation, io_orientation
from PIL import Image

from medvlm_r1.data.images.dicom_header import guarded
from medvlm_r1.data.images.files import silence_logging
from medvlm_r1.data.images.picture import (
    PLANES,
    ImageNote,
    NeedsChoice,
    Picture,
    View,
    Window,
    check_frame,
    check_pixels,
)
from medvlm_r1.data.images.volume_file import Volume, open_volume
from medvlm_r1.data.images.windowing import (
    PRESETS,
    Array,
    full_range,
    given,
    isotropic_resample,
    parse_window,
    percentile_window,
    preset,
    to_grey,
    unique_values,
)
from medvlm_r1.errors import UsageError, UserError

# The world axis (left to right, back to front, feet to head) that each plane is cut across.
_ACROSS = {"sagittal": 0, "coronal": 1, "axial": 2}
_CONVENTION = {
    "axial": "patient's right on the left, front up",
    "coronal": "patient's right on the left, head up",
    "sagittal": "front on the left, head up",
}
_OBLIQUE_DEGREES = 1.0
_FLAT = 1e-3


@dataclass(frozen=True, slots=True)
class _Cut:
    """One slice: the plane, where it lies, and the axis and place in the stored array."""

    plane: str
    slice: int
    slices: int
    axis: int
    place: int
    frame: int
    frames: int


def load_volume(path: Path, view: View, kind: str = "NIfTI") -> Picture:
    """Show one slice of a volume.

    Args:
        path: 2-D, 3-D or 4-D (then `view.frame` chooses the volume). Of a format with two files, either of them.
        view: `plane` and `slice` must be given unless the volume has one slice; `window` is percentile (1 to 99 of the
            slice) unless given, and the presets take the values for Hounsfield units.
        kind: The format: NIfTI, MGH, MINC, AFNI or PAR/REC.

    Returns:
        The picture and its note.

    Raises:
        UserError: Damaged or cut short, without a usable affine, of complex numbers or of more than 4 dimensions, over
            8 GB or 100 megapixels a slice, or plane, slice or frame must be chosen. The message tells the shape.
        UsageError: The window cannot be understood, or is asked of a colour volume.
    """
    with silence_logging():
        volume = guarded(path, lambda: open_volume(path, kind), f"the {kind} header is damaged")
        cut = guarded(path, lambda: _choose(path, volume, view, kind), f"the {kind} affine is damaged")
        reason = f"the {kind} voxels are damaged or cut short"
        pixels = guarded(path, lambda: _oriented(volume, cut), reason)
        return guarded(path, lambda: _picture(path, volume, cut, pixels, view, kind), reason)


def _shape(volume: Volume) -> tuple[int, int, int, int]:
    """Three spatial lengths and the number of volumes."""
    lengths: tuple[int, ...] = volume.shape
    x, y, z, frames, *_ = (*lengths, 1, 1, 1, 1)
    return x, y, z, frames


def _choose(path: Path, volume: Volume, view: View, kind: str) -> _Cut:
    shape = _shape(volume)
    affine = volume.affine
    sides = voxel_sizes(affine)
    # A determinant far under the product of the sides: two axes of the volume run the same way.
    if not (np.isfinite(sides).all() and abs(np.linalg.det(affine[:3, :3])) > _FLAT * sides.prod()):
        raise UserError(f"{path}: its affine is not usable; the orientation of the volume is unknown")
    orientation = io_orientation(affine)
    lengths = {plane: shape[_axis(orientation, plane)] for plane in PLANES}
    told = ", ".join(f"{plane} {lengths[plane]}" for plane in PLANES)
    frame = check_frame(path, view.frame, shape[3])
    single = [plane for plane in PLANES if lengths[plane] == 1]
    plane = view.plane or (single[0] if len(single) == 1 else None)
    number = 0 if view.slice is None and plane is not None and lengths[plane] == 1 else view.slice
    if plane is None or number is None:
        raise NeedsChoice(
            f"{path}: {kind} volume with slices: {told}; choose a plane and a slice, counted from 0 "
            "(--plane axial --slice N)"
        )
    if number >= lengths[plane]:
        raise UserError(
            f"{path}: {plane} slice {number} of a volume with {lengths[plane]}; wanted 0 to {lengths[plane] - 1}"
        )
    axis = _axis(orientation, plane)
    place = number if orientation[axis, 1] > 0 else lengths[plane] - 1 - number
    width, height = (length for name, length in lengths.items() if name != plane)
    check_pixels(path, width, height, what="slice")
    check_pixels(path, shape[0], shape[1], what="plane in which the slice is stored")
    return _Cut(plane, number, lengths[plane], axis, place, frame, shape[3])


def _axis(orientation: Array, plane: str) -> int:
    """The stored axis that runs across a plane."""
    return int(np.flatnonzero(orientation[:, 0] == _ACROSS[plane])[0])


def _oriented(volume: Volume, cut: _Cut) -> Array:
    """The slice as it is displayed: (rows, columns), or with R, G, B as fields for a colour volume."""
    shape = _shape(volume)
    # Of a fifth and further dimension there is one place.
    rest = (cut.frame, 0, 0, 0)[: max(0, len(volume.shape) - 3)]

    def plane_of(z: int) -> Array:
        spatial = (slice(None), slice(None), z)[: len(volume.shape)]
        return np.asarray(volume.dataobj[(*spatial, *rest)]).reshape(shape[0], shape[1])

    if cut.axis == 2:
        block = plane_of(cut.place)[:, :, None]
    else:
        # Stored with x running fastest: plane by plane is one pass through the file, with one plane in memory.
        lines = [plane_of(z).take([cut.place], axis=cut.axis).copy() for z in range(shape[2])]
        block = np.stack(lines, axis=2)
    canonical = apply_orientation(block, io_orientation(volume.affine)).squeeze(_ACROSS[cut.plane])
    # What is left runs right or forward, and forward or up; the picture runs from the right or front, and from the top.
    return np.ascontiguousarray(canonical[::-1, ::-1].T)


def _picture(path: Path, volume: Volume, cut: _Cut, pixels: Array, view: View, kind: str) -> Picture:
    window: Window | None = None
    colour: str | None = None
    said: list[str] = []
    if pixels.dtype.fields:
        if view.window is not None:
            raise UsageError(f"{path}: a window can be chosen for a grey volume only; this one is in colour")
        pixels = np.stack([pixels[name] for name in ("R", "G", "B")], axis=-1)
        colour = "stored as RGB"
    elif pixels.dtype.kind not in "iuf":
        raise UserError(f"{path}: its voxels are not real numbers; take their magnitude or phase first")
    else:
        pixels, window, said = _grey(path, volume, pixels, view)
    image = Image.fromarray(pixels).convert("RGB")
    sides = voxel_sizes(volume.affine)
    # Rows follow the later of the two world axes in the slice, columns the earlier.
    across, up = (sides[_axis(io_orientation(volume.affine), name)] for name in _in_plane(cut.plane))
    image, aspect, warnings = isotropic_resample(path, image, up, across)
    note = ImageNote(
        format=kind,
        size=image.size,
        window=window,
        frame=cut.frame,
        frames=cut.frames,
        plane=cut.plane,
        slice=cut.slice,
        slices=cut.slices,
        aspect=aspect,
        colour=colour,
        orientation=f"{_CONVENTION[cut.plane]}; stored {''.join(aff2axcodes(volume.affine))}",
        warnings=(*said, *warnings, *_geometry_warnings(volume)),
    )
    return Picture(image=image, note=note)


def _in_plane(plane: str) -> list[str]:
    """The planes across the picture's columns and rows: their world axes, in order."""
    return sorted((name for name in PLANES if name != plane), key=_ACROSS.__getitem__)


def _grey(path: Path, volume: Volume, pixels: Array, view: View) -> tuple[Array, Window, list[str]]:
    unique = unique_values(pixels)
    finite = np.isfinite(unique.values)
    said = [] if finite.all() else ["Voxels that are not numbers are shown black."]
    table = np.zeros(unique.values.shape, dtype=np.uint8)
    if not finite.any():
        return table[unique.index], full_range(0, 0, "value", "no voxel is a number"), said
    values = unique.values[finite]
    window = _window(path, volume, view.window, values, unique.counts[finite])
    table[finite] = to_grey(values, window)
    if window.width == 0:
        said.append("All voxels of the slice have the same value.")
    if window.name in PRESETS:
        said.append("The file does not say what its values are: they were taken for Hounsfield units.")
    return table[unique.index], window, said


def _window(path: Path, volume: Volume, asked: str | None, values: Array, counts: Array) -> Window:
    choice = parse_window(asked or "percentile")
    if isinstance(choice, tuple):
        return given(choice, "value")
    if choice in PRESETS:
        return preset(choice, "HU")
    if choice == "stored":
        header = volume.header if isinstance(volume.header, Nifti1Header) else {"cal_min": 0, "cal_max": 0}
        low, high = float(header["cal_min"]), float(header["cal_max"])
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise UserError(f"{path}: no display range is stored; give a preset, percentile, full, or CENTRE/WIDTH")
        return Window(
            name="stored", centre=(low + high) / 2, width=high - low, unit="value", source="stored: cal_min to cal_max"
        )
    if choice == "full":
        there = values[counts > 0]
        return full_range(float(there.min()), float(there.max()), "value", "smallest to largest value of the slice")
    return percentile_window(values, counts, "value")


def _geometry_warnings(volume: Volume) -> list[str]:
    said = []
    header = volume.header
    if not isinstance(header, Nifti1Header):
        pass
    elif header["qform_code"] == 0 and header["sform_code"] == 0:
        said.append("No orientation is stored: left and right are a guess.")
    elif header["qform_code"] > 0 and header["sform_code"] > 0:
        codes = [aff2axcodes(affine) for affine in (header.get_qform(), header.get_sform())]
        if codes[0] != codes[1]:
            said.append("The two orientations that are stored (qform and sform) disagree; the sform was used.")
    tilt = float(np.degrees(obliquity(volume.affine).max()))
    if tilt > _OBLIQUE_DEGREES:
        said.append(f"The slices are oblique by {tilt:.0f} degrees and are shown along the stored axes.")
    return said
