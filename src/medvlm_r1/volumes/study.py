"""Find the studies of a source, and read each as an image and a map of its structures on one grid."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.spatialimages import SpatialImage
from pydicom import dcmread
from pydicom.pixels.utils import iter_pixels

from medvlm_r1.data.images.files import guarded, silence_logging
from medvlm_r1.data.images.series import LPS_TO_RAS, find_series, slices_of
from medvlm_r1.data.images.volume import orientation_warnings
from medvlm_r1.data.images.volumes import read_volume
from medvlm_r1.data.images.windowing import Array
from medvlm_r1.data.modality import modality_name
from medvlm_r1.errors import UserError
from medvlm_r1.volumes.structures import Names, Structure, find_structure, read_names

_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mgh", ".mgz")
_WANTED = "wanted image.nii.gz or DICOM files, with segmentation.nii.gz, segmentations/NAME.nii.gz or a DICOM SEG"
# Largest distance of a voxel of a mask from the voxel of the image, as a fraction of a voxel.
_OFF_GRID = 0.1
_DAMAGED = "the voxels are damaged or cut short"


class Study(NamedTuple):
    """A study. Both volumes have their axes in the order right, front, head.

    Attributes:
        image: The image.
        labels: For each voxel, the index of its structure in `structures` plus 1; 0 for no structure.
        structures: All structures that were segmented, also those without a voxel, sorted by `Structure.text`.
    """

    image: SpatialImage
    labels: SpatialImage
    structures: tuple[Structure, ...]


def find_studies(source: Path) -> list[Path]:
    """Find the folders of the studies in a source, sorted by name.

    If the source itself holds the files of a study, it is the only one.

    Raises:
        UserError: The source is not a folder.
    """
    if not source.is_dir():
        raise UserError(f"{source}: not a folder; give a folder with one folder per study: {_WANTED}")
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    is_study = _volumes(source, "image.*") or source / "segmentations" in folders or not folders
    return [source] if is_study else folders


def read_image(folder: Path) -> tuple[SpatialImage, str]:
    """Read the image of a study.

    Returns:
        The image in memory, with its axes in the order right, front, head; and the modality, empty if the files do not
        state it.

    Raises:
        UserError: The folder has no image or several; or the image is damaged, is not a gray volume, or does not store
            its orientation.
    """
    files = _volumes(folder, "image.*")
    series = {} if files else {n: item for n, item in enumerate(find_series(folder).series) if item.modality != "SEG"}
    if len(files) + len(series) != 1:
        raise UserError(f"{folder}: {len(files)} image files and {len(series)} image series; {_WANTED}")
    [(number, item)] = series.items() or [(None, None)]
    file = files[0] if files else folder
    volume, modality = read_volume(file, series=number), item and modality_name(item.modality)
    if warnings := orientation_warnings(volume):
        raise UserError(f"{file}: {warnings[0]} Store the orientation in the file: side questions depend on it.")
    image = _canonical(file, volume)
    if image.ndim != 3 or np.asarray(image.dataobj).dtype.kind not in "iuf":
        raise UserError(f"{file}: not one volume of gray values (shape {image.shape}); give one time point or channel")
    return image, modality or ""


def read_study(folder: Path, image: SpatialImage, names: Names) -> Study:
    """Read the segmentations of a study.

    Args:
        folder: The folder of the study.
        image: Its image, from `read_image`.
        names: The user's names. Those in `names.json` of the study and of its parent folder are used too.

    Raises:
        UserError: A file is missing, damaged, or on another grid than the image; a label has no name; or no voxel is
            labeled. The message names the file.
    """
    for path in (folder / "names.json", folder.parent / "names.json"):
        names = {**(read_names(path) if path.is_file() else {}), **names}
    maps, masks = _volumes(folder, "segmentation.*"), _volumes(folder, "segmentations/*")
    segs = (
        []
        if maps or masks
        else [path for item in find_series(folder).series if item.modality == "SEG" for path in item.files]
    )
    if len(maps) + bool(masks) + len(segs) != 1:
        raise UserError(f"{folder}: {len(maps) + bool(masks) + len(segs)} segmentations; {_WANTED}")
    file = (*maps, *segs, folder / "segmentations")[0]
    read = _mapped(file, image, names) if maps else _segments(file, image)
    if masks:
        stems = {path.name.partition(".")[0]: path for path in masks}
        read = ((stem, stem, np.flatnonzero(_whole_numbers(path, image))) for stem, path in stems.items())
    try:
        parts = [(find_structure(label, stored, names), voxels) for label, stored, voxels in read]
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    if not sum(len(voxels) for _, voxels in parts):
        raise UserError(f"{file}: no voxel is labeled; export the segmentation again, or remove the study")
    return Study(image, *_painted(image, parts))


def _volumes(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.name.endswith(_SUFFIXES))


def _canonical(file: Path, volume: Any) -> SpatialImage:
    with silence_logging():
        canonical = guarded(file, partial(nib.as_closest_canonical, volume), _DAMAGED)
        values = guarded(file, lambda: np.asarray(canonical.dataobj), _DAMAGED)
    if values.dtype.kind == "f":
        # Whole numbers, such as Hounsfield units, are small and fast to show.
        with np.errstate(invalid="ignore"):
            whole = values.astype(np.int16)
        values = whole if np.array_equal(values, whole) else values.astype(np.float32)
    return SpatialImage(values, canonical.affine)


def _whole_numbers(file: Path, image: SpatialImage) -> Array:
    """Values of a mask or label map on the grid of the image."""
    mask = _canonical(file, read_volume(file))
    corners = [(0, 0, 0), np.subtract(image.shape, 1)]
    apart = np.abs(apply_affine(mask.affine, corners) - apply_affine(image.affine, corners)).max()
    if mask.shape != image.shape or not apart <= _OFF_GRID * voxel_sizes(image.affine).min():
        seen = f"{mask.shape} voxels, {apart:.1f} mm away from the {image.shape} voxels of the image"
        raise UserError(f"{file}: {seen}; resample the mask to the image")
    values = np.asarray(mask.dataobj)
    if values.dtype.kind not in "iu":
        raise UserError(f"{file}: holds values that are not whole numbers; save it as a mask or a label map")
    return values


def _mapped(file: Path, image: SpatialImage, names: Names) -> Iterator[tuple[object, str, Array]]:
    """Number, stored name and voxels (indices of the flat image) of each label of a label map."""
    values = _whole_numbers(file, image).ravel()
    voxels = np.flatnonzero(values)
    numbers = values[voxels]
    # A label that has a name and no voxel is known to be absent.
    for number in sorted({int(label) for label in names if label.isdigit()} | {*np.unique(numbers).tolist()} - {0}):
        yield number, "", voxels[numbers == number]


def _segments(file: Path, image: SpatialImage) -> Iterator[tuple[object, str, Array]]:
    """The same for a DICOM SEG: binary, fractional (at least half of the maximum) or label map (PS3.3 C.8.20)."""
    with silence_logging():
        voxels = guarded(file, partial(_segment_voxels, file, image), "the DICOM segmentation is damaged or incomplete")
    for (number, text), parts in voxels.items():
        yield number, text, np.concatenate([np.zeros(0, int), *parts])


def _segment_voxels(file: Path, image: SpatialImage) -> dict[tuple[int, str], list[Array]]:
    header = dcmread(file)
    texts = {int(item.SegmentNumber): str(item.get("SegmentLabel") or "") for item in header.SegmentSequence}
    voxels: dict[tuple[int, str], list[Array]] = {segment: [] for segment in texts.items()}
    shared, groups = header.SharedFunctionalGroupsSequence[0], header.PerFrameFunctionalGroupsSequence
    to_voxel = np.linalg.inv(image.affine)
    for frame, group, pixels in zip(slices_of(file, file.name, header), groups, iter_pixels(header), strict=True):
        axes = to_voxel[:3, :3] @ LPS_TO_RAS @ (frame.orientation * np.array(frame.spacing)[:, None]).T
        rows, columns = np.nonzero(pixels)
        points = np.column_stack([columns, rows]) @ axes.T + apply_affine(to_voxel, LPS_TO_RAS @ frame.position)
        near = np.rint(points).astype(int)
        if (np.abs(points - near) > _OFF_GRID).any() or (near < 0).any() or (near >= image.shape).any():
            raise UserError(f"{file}: frame {frame.frame} is off the grid of the image; export the SEG for this series")
        flat, values = np.ravel_multi_index(tuple(near.T), image.shape), pixels[rows, columns]
        if header.SegmentationType != "LABELMAP":
            part = group if "SegmentIdentificationSequence" in group else shared
            maximum = header.MaximumFractionalValue if header.SegmentationType == "FRACTIONAL" else 1
            flat = flat[2 * values.astype(int) >= maximum]
            values = np.full(len(flat), part.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for number in np.unique(values).tolist():
            voxels[number, texts[number]].append(flat[values == number])
    return voxels


def _painted(
    image: SpatialImage, parts: Iterable[tuple[Structure, Array]]
) -> tuple[SpatialImage, tuple[Structure, ...]]:
    """Paint the parts into one map. Where they overlap, a lesion covers an organ, and the smaller covers the larger."""
    merged: dict[Structure, list[Array]] = {}
    for structure, voxels in parts:
        merged.setdefault(structure, []).append(voxels)
    structures = tuple(sorted(merged, key=lambda structure: structure.text))
    labels = np.zeros(image.shape, np.int16)
    for structure in sorted(structures, key=lambda item: (item.lesion, -sum(map(len, merged[item])))):
        labels.reshape(-1)[np.concatenate(merged[structure])] = structures.index(structure) + 1
    return SpatialImage(labels, image.affine), structures
