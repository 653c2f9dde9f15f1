"""Convert one slice of a volume (NIfTI, NRRD, MGH, MINC 1, AFNI, PAR/REC) to 8-bit RGB, in radiological convention.

The affine determines the orientation, regardless of the order and direction of the stored axes. Axial and coronal
slices are shown with the patient's right on the left of the picture. Sagittal slices are shown with the front on the
left. Up is the front (axial) or the head (coronal, sagittal). Only geometry, data type, scale and display range are
used from the header.
"""

import bz2
import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
from nibabel.affines import obliquity, voxel_sizes
from nibabel.brikhead import AFNIImage
from nibabel.parrec import PARRECImage
from nibabel.spatialimages import SpatialImage
from PIL import Image

from medvlm_r1.data.images import windowing
from medvlm_r1.data.images.files import GZIP, InMemoryFile, LengthCheckedReader, guarded, is_nifti, silence_logging
from medvlm_r1.data.images.picture import ImageNote, Picture, View, Window, check_frame, check_pixels
from medvlm_r1.data.images.windowing import Array
from medvlm_r1.errors import UsageError, UserError

# World axes of each space, as signs of right, front and head.
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "LPS"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "LAS"), (-1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "RAS"), (1, 1, 1)),
}
_UNPACKERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("gzip", "gz"), lambda file: gzip.GzipFile(fileobj=file)),
    **dict.fromkeys(("bzip2", "bz2"), bz2.BZ2File),
}


def open_nrrd(path: Path, check_shape: Callable[[tuple[int, ...], np.dtype[Any]], int]) -> Any:
    """Read an NRRD volume that stores header and values in one file.

    Args:
        path: The file.
        check_shape: Checks the shape and data type of the volume, and returns its size in bytes.

    Returns:
        A nibabel image. An axis that is not in space, such as time, becomes the last.

    Raises:
        UserError: The values do not start right after the header, or the orientation is not stored.
    """
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        if any(
            header.get(name) or header.get(name.replace(" ", "")) for name in ("data file", "byte skip", "line skip")
        ):
            raise UserError(f"{path}: an NRRD header whose values do not follow it; save it again as one .nrrd file")
        directions = np.atleast_2d(header.get("space directions", [[]]))
        origin = np.asarray(header.get("space origin", np.zeros(3)))
        inside = np.isfinite(directions).all(axis=1)
        signs = _SPACES.get(header.get("space", ""))
        if signs is None or directions.shape[1] != 3 or inside.sum() != 3 or origin.shape != (3,):
            raise UserError(
                f"{path}: an NRRD file without a known space and three space directions: left and right are unknown; "
                "save it again with its orientation, for example with 3D Slicer"
            )
        order = [*np.flatnonzero(inside), *np.flatnonzero(~inside)]
        # The widest type is assumed: pynrrd uses as many bytes as the type in the header needs.
        size = check_shape(tuple(int(header["sizes"][axis]) for axis in order), np.dtype(np.float64))
        unpack = _UNPACKERS.get(header["encoding"])
        content = unpack(file).read(size + 1) if unpack else file.read()
        header["encoding"] = "raw" if unpack else header["encoding"]
        values = nrrd.read_data(header, io.BytesIO(content))
    affine = np.eye(4)
    affine[:3] = np.diag(signs) @ np.column_stack([*directions[inside], origin])
    return nib.spatialimages.SpatialImage(values.transpose(order), affine)


# Maximum declared size of all voxels. A gzip file of a few megabytes can inflate to almost any size.
_MOST_BYTES = 8 * 2**30
# Lower limit for an uploaded volume, because it occupies the server process.
_MOST_SENT_BYTES = 2 * 2**30

# Maximum size of the header. nibabel reads all of it, including extensions that may hold a whole DICOM header.
_MOST_HEADER_BYTES = 2**26

# A nibabel image. nibabel's type annotations are incomplete.
Volume = Any

# Maps the requested window, values and counts (see `windowing.percentile_window`) to gray, a window and warnings.
ToGrey = Callable[[str | None, Array, Array], tuple[Array, Window, tuple[str, ...]]]

# The world axis (left to right, back to front, feet to head) perpendicular to each plane.
WORLD_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
_CONVENTION = {
    "axial": "patient's right on the left, front up",
    "coronal": "patient's right on the left, head up",
    "sagittal": "front on the left, head up",
}
_OBLIQUE_DEGREES = 1.0
_FLAT = 1e-3


def load_volume(path: Path, view: View, kind: str) -> Picture:
    """Load one slice of a volume.

    Args:
        path: A 2-D, 3-D or 4-D volume; in 4-D, `view.frame` selects one volume. For a format with two files, either
            file.
        view: `plane` and `slice` are required unless the volume has a single slice. `window` is percentile (1 to 99 of
            the slice) by default. Presets assume Hounsfield units.
        kind: The format: NIfTI, NRRD, MGH, MINC, AFNI or PAR/REC.

    Returns:
        The picture and its note.

    Raises:
        UserError: The file is damaged or truncated, has more than 4 dimensions, contains complex numbers, lacks a
            usable affine, or exceeds 8 GB or 100 megapixels per slice. Also if a plane, slice or frame must be chosen;
            the message then gives the number of slices or frames.
        UsageError: The window is invalid, or is requested for a color volume.
    """
    with silence_logging():
        volume = open_volume(path, kind)
        reason = f"the {kind} voxels are damaged or cut short"
        return guarded(path, lambda: show_volume(path, volume, view, kind), reason)


def open_volume(path: Path, kind: str) -> Volume:
    """Check the header of a volume and open it. For the arguments and errors, see `load_volume`."""
    # The values of an NRRD file are read with its header.
    part = "file" if kind == "NRRD" else "header"
    return guarded(path, lambda: _open_volume(path, kind), f"the {kind} {part} is damaged")


@dataclass(frozen=True, slots=True)
class StoredAxis:
    """A stored axis: its index, its length, and whether it runs against right, front or head."""

    axis: int
    length: int
    backward: bool

    def index(self, number: int) -> int:
        """Convert a slice number, counted from the left, back or feet, to an index of the stored axis."""
        return self.length - 1 - number if self.backward else number


def stored_axes(path: Path, volume: Volume) -> dict[str, StoredAxis]:
    """For each plane, the stored axis perpendicular to it.

    Raises:
        UserError: The affine is not usable.
    """
    sides = voxel_sizes(volume.affine)
    # If the determinant is far below the product of the sides, two axes of the volume are nearly parallel.
    if not (np.isfinite(sides).all() and abs(np.linalg.det(volume.affine[:3, :3])) > _FLAT * sides.prod()):
        raise UserError(f"{path}: its affine is not usable; the orientation of the volume is unknown")
    axes = {}
    for axis, (world, direction) in enumerate(nib.io_orientation(volume.affine)):
        axes[int(world)] = StoredAxis(axis, int((*volume.shape, 1, 1)[axis]), bool(direction < 0))
    return {plane: axes[WORLD_AXES[plane]] for plane in WORLD_AXES}


def cut_slice(path: Path, volume: Volume, plane: str, number: int, frame: int = 0) -> tuple[Array, float, float]:
    """Read one slice, in radiological convention.

    Args:
        path: File named in error messages.
        volume: A volume of up to four dimensions.
        plane: axial, coronal or sagittal.
        number: Index of the slice, from 0 at the feet, back or left.
        frame: Index of the frame of a 4-D volume.

    Returns:
        The values, shape (rows, columns), and the height and width of a pixel in mm.
    """
    axes = stored_axes(path, volume)
    width, height = (axes[name].length for name in WORLD_AXES if name != plane)
    check_pixels(path, width, height, what="slice")
    shape: tuple[int, ...] = volume.shape
    x, y, *_ = (*shape, 1)
    check_pixels(path, x, y, what="plane in which the slice is stored")
    block = _read_slice(volume, axes[plane].axis, axes[plane].index(number), frame)
    canonical = nib.apply_orientation(block, nib.io_orientation(volume.affine)).squeeze(WORLD_AXES[plane])
    # Rows follow the later of the two world axes in the slice, columns the earlier.
    across, up = (float(voxel_sizes(volume.affine)[axes[name].axis]) for name in WORLD_AXES if name != plane)
    # The two remaining axes run right or forward, and forward or up. The picture starts at the right or front, at the
    # top.
    return np.ascontiguousarray(canonical[::-1, ::-1].T), up, across


def show_volume(path: Path, volume: Volume, view: View, kind: str, to_grey: ToGrey | None = None) -> Picture:
    """Convert one slice of an open volume. For the view and the errors, see `load_volume`.

    Args:
        path: File named in error messages.
        volume: A volume of up to four dimensions.
        view: The slice and the window.
        kind: The format in the note.
        to_grey: Maps values to gray by the requested window; by default by percentiles.
    """
    lengths = {plane: axis.length for plane, axis in stored_axes(path, volume).items()}
    frames = (*volume.shape, 1, 1, 1)[3]
    frame = check_frame(path, view.frame, frames)
    plane, number = _choose_slice(path, view, lengths, kind)
    values, up, across = cut_slice(path, volume, plane, number, frame)
    pixels, window, gray_warnings = _to_8_bits(path, values, view, to_grey or partial(_to_grey, path, volume))
    image, aspect, spacing_warnings = windowing.isotropic_resample(
        path, Image.fromarray(pixels).convert("RGB"), up, across
    )
    note = ImageNote(
        format=kind,
        size=image.size,
        window=window,
        frame=frame,
        frames=frames,
        plane=plane,
        slice=number,
        slices=lengths[plane],
        aspect=aspect,
        colour=None if window else "stored as RGB",
        orientation=f"{_CONVENTION[plane]}; stored {''.join(nib.aff2axcodes(volume.affine))}",
        warnings=(*gray_warnings, *spacing_warnings, *_geometry_warnings(volume)),
    )
    return Picture(image=image, note=note)


def _choose_slice(path: Path, view: View, lengths: dict[str, int], kind: str) -> tuple[str, int]:
    single = [plane for plane in _CONVENTION if lengths[plane] == 1]
    plane = view.plane or (single[0] if len(single) == 1 else None)
    number = 0 if view.slice is None and plane in single else view.slice
    if plane is None or number is None:
        slices = ", ".join(f"{name} {lengths[name]}" for name in _CONVENTION)
        raise UserError(
            f"{path}: {kind} volume with slices: {slices}; choose a plane and a slice, counted from 0 "
            "(--plane axial --slice N)"
        )
    if number >= lengths[plane]:
        raise UserError(
            f"{path}: {plane} slice {number} of a volume with {lengths[plane]}; wanted 0 to {lengths[plane] - 1}"
        )
    return plane, number


def _read_slice(volume: Volume, axis: int, index: int, frame: int) -> Array:
    """Read one slice of the stored array, as a three-dimensional array with length 1 along `axis`."""
    shape: tuple[int, ...] = volume.shape
    x, y, depth, *_ = (*shape, 1, 1)
    # A fifth or further dimension has length 1.
    rest = (frame, 0, 0, 0)[: max(0, len(shape) - 3)]

    def plane_of(z: int) -> Array:
        return np.asarray(volume.dataobj[(..., *(z, *rest)[: len(shape) - 2])]).reshape(x, y)

    if axis == 2:
        return plane_of(index)[:, :, None]
    # x varies fastest in the file, so reading plane by plane is one pass with one plane in memory.
    # A copy lets the plane go.
    line = np.s_[index : index + 1, :] if axis == 0 else np.s_[:, index : index + 1]
    return np.stack([plane_of(number)[line].copy() for number in range(depth)], axis=2)


def _to_8_bits(path: Path, pixels: Array, view: View, to_grey: ToGrey) -> tuple[Array, Window | None, list[str]]:
    """Convert the slice to uint8. Return it with the window, which is None for a color slice, and warnings."""
    if pixels.dtype.fields:
        if view.window is not None:
            raise UsageError(f"{path}: a window can be chosen for a gray volume only; this one is in color")
        return np.stack([pixels[name] for name in "RGB"], axis=-1), None, []
    if pixels.dtype.kind not in "iuf":
        raise UserError(f"{path}: its voxels are not real numbers; take their magnitude or phase first")
    unique = windowing.unique_values(pixels)
    finite = np.isfinite(unique.values)
    warnings = [] if finite.all() else ["Voxels that are not numbers are shown black."]
    table = np.zeros(unique.values.shape, dtype=np.uint8)
    window = Window.full(0, 0, "value", "no voxel is a number")
    if finite.any():
        values, counts = unique.values[finite], unique.counts[finite]
        table[finite], window, more = to_grey(view.window, values, counts)
        if window.width == 0:
            warnings.append("All voxels of the slice have the same value.")
        warnings += more
    return table[unique.index], window, warnings


def _to_grey(
    path: Path, volume: Volume, requested: str | None, values: Array, counts: Array
) -> tuple[Array, Window, tuple[str, ...]]:
    # The stored display range is used on request only.
    requested, stored = requested or "percentile", _display_range(volume)
    window = windowing.choose_window(path, requested, values, counts, unit="value", stored=stored, any_unit=True)
    assumed = "The file does not say what its values are: they were taken for Hounsfield units."
    return windowing.to_grey(values, window), window, (assumed,) if window.name in windowing.PRESETS else ()


def _display_range(volume: Volume) -> Window | None:
    if not isinstance(volume.header, nib.Nifti1Header):
        return None
    low, high = float(volume.header["cal_min"]), float(volume.header["cal_max"])
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        return None
    return Window.between("stored", low, high, "value", "stored: cal_min to cal_max")


def orientation_warnings(volume: Volume) -> list[str]:
    """Reasons why left and right of a volume are uncertain, as full sentences."""
    header = volume.header
    if not isinstance(header, nib.Nifti1Header):
        return []
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        return ["No orientation is stored: left and right are a guess."]
    both = header["qform_code"] > 0 and header["sform_code"] > 0
    if both and nib.aff2axcodes(header.get_qform()) != nib.aff2axcodes(header.get_sform()):
        return ["The two orientations that are stored (qform and sform) disagree; the sform was used."]
    return []


def _geometry_warnings(volume: Volume) -> list[str]:
    warnings = orientation_warnings(volume)
    tilt = float(np.degrees(obliquity(volume.affine).max()))
    if tilt > _OBLIQUE_DEGREES:
        warnings.append(f"The slices are oblique by {tilt:.0f} degrees and are shown along the stored axes.")
    return warnings


def _open_volume(path: Path, kind: str) -> Volume:
    """Check the header of a volume, and open it. Only the voxels of MINC are read immediately."""
    if kind == "MINC":
        return _open_minc(path)
    if kind == "NRRD":
        return open_nrrd(path, partial(check_shape, path))
    if kind in ("AFNI", "PAR/REC"):
        return _open_pair(path, AFNIImage if kind == "AFNI" else PARRECImage)
    with _stream(path) as file:
        head = file.read(nib.Nifti2Image.header_class.sizeof_hdr)
    image_class = (
        nib.MGHImage if kind == "MGH" else nib.Nifti2Image if head[4:7] in (b"n+2", b"ni2") else nib.Nifti1Image
    )
    header_size = image_class.header_class.template_dtype.itemsize
    if kind == "NIfTI" and (len(head) < header_size or not is_nifti(head)):
        raise UserError(f"{path}: not a NIfTI file, or cut short in its header; copy it again")
    header = image_class.header_class(head[:header_size], check=False)
    if kind == "NIfTI" and bytes(header["magic"]).startswith(b"ni"):
        raise UserError(f"{path}: the header of a .hdr/.img pair; convert the pair to one .nii file")
    start = int(header.get_data_offset())
    size = check_shape(path, header.get_data_shape(), header.get_data_dtype())
    if start > _MOST_HEADER_BYTES:
        raise UserError(f"{path}: its header says the voxels begin at byte {start}; it is damaged, copy it again")
    _check_length(path, start + size)
    return image_class.from_file_map({"image": nib.FileHolder(fileobj=_stream(path))}, mmap=False)


def _open_minc(path: Path) -> Volume:
    with LengthCheckedReader(path) as file:
        volume = nib.Minc1Image.from_file_map({"image": nib.FileHolder(fileobj=file)})
    check_shape(path, volume.shape, np.dtype(float))
    if volume.dataobj.minc_file._dim_names[0] == "time":
        return SpatialImage(np.moveaxis(np.asanyarray(volume.dataobj), 0, -1), volume.affine)
    return volume


def _open_pair(path: Path, image_class: Any) -> Volume:
    """Open a volume whose header and voxels are two files in one folder. The other file must not be a link."""
    if isinstance(path, InMemoryFile):
        raise UserError(
            f"{path}: one of the two files of a volume; give the path of one, with the other in the same folder"
        )
    holders = image_class.filespec_to_file_map(path)
    files = [Path(holders[name].filename) for name in ("header", "image")]
    for file in files:
        if not file.is_file() or (file != path and file.is_symlink()):
            raise UserError(
                f"{path}: the other file of the volume, {file.name}, is not in the same folder; put it there"
            )
    header, voxels = files
    if header.stat().st_size > _MOST_HEADER_BYTES:
        raise UserError(f"{path}: its header has over {_MOST_HEADER_BYTES} bytes; it is damaged, copy it again")
    holders["image"] = nib.FileHolder(fileobj=_stream(voxels))
    volume = image_class.from_file_map(holders, mmap=False)
    _check_length(voxels, check_shape(path, volume.shape, volume.get_data_dtype()))
    return volume


def _is_zipped(path: Path) -> bool:
    """Whether the content of a file is gzip, regardless of its name."""
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def _stream(path: Path) -> Any:
    """Open a file, through gzip if compressed. One stream serves all planes, so a .gz file is inflated only once."""
    return gzip.open(path.open("rb")) if _is_zipped(path) else path.open("rb")


def _check_length(path: Path, wanted: int) -> None:
    size = path.stat().st_size
    if size < wanted and not _is_zipped(path):
        raise UserError(f"{path}: its voxels are cut short ({size} bytes of {wanted}); copy it again")


def check_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Check the shape of a volume, and return the number of bytes of its voxels."""
    lengths = " x ".join(map(str, shape))
    if not shape or min(shape) < 1:
        raise UserError(f"{path}: a volume of shape ({lengths}) has no voxels")
    if len(shape) > 4 and max(shape[4:]) > 1:
        raise UserError(f"{path}: a volume of {len(shape)} dimensions ({lengths}); wanted 2, 3 or 4")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    most = _MOST_SENT_BYTES if isinstance(path, InMemoryFile) else _MOST_BYTES
    if size > most:
        raise UserError(f"{path}: the volume is too large ({lengths}, {size} bytes); at most {most // 2**30} GB")
    return size
