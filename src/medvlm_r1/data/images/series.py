"""DICOM series in folders and ZIP archives: order their slices, check that they form one volume, and show a slice.

Headers are enough for the order and the checks. Pixels are decoded only when they are needed. UIDs group the files, but
are neither stored nor shown. Messages name files instead.
"""

import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from nibabel.spatialimages import SpatialImage
from pydicom import dcmread
from pydicom.dataset import Dataset

from medvlm_r1.data.images import files
from medvlm_r1.data.images.dicom import decode_frame, header_warnings, rescale, show_grey
from medvlm_r1.data.images.dicom_header import Header, code_of, first_number
from medvlm_r1.data.images.picture import Picture, View
from medvlm_r1.data.images.volume import check_shape, show_volume
from medvlm_r1.data.images.windowing import Array
from medvlm_r1.data.paths import explain_os_error
from medvlm_r1.errors import UsageError, UserError

_GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
_SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_TAGS: list[Any] = [
    *("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "ImageType", "NumberOfFrames"),
    *("Rows", "Columns", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "ImageOrientationPatient", *_SEQUENCES),
]
# As in highdicom: a distance between slices may differ from the median by 1 %.
_TOLERANCE = 0.01
# Direction cosines are often stored with three decimals.
_COSINE_TOLERANCE = 2e-3
# In mm. Two slices that are closer lie at one position.
_SAME_POSITION = 1e-3
# Share of the spacing by which a slice may lie off the line through the first and the last.
_OFF_LINE = 0.1
_TILT_DEGREES = 1.0
_NAMED_FILES = 5
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


MAX_FILES = 20_000
"""Maximum number of files in an archive, and in a folder of DICOM files."""


def read_archive(path: Path) -> list[files.InMemoryFile]:
    """Read all files of a ZIP archive, except hidden ones.

    Returns:
        The files, each named `path` / its name in the archive, sorted by name.

    Raises:
        UserError: The archive is damaged or encrypted, compressed by another method than deflate, or holds
            over `MAX_FILES` files or `MAX_INFLATED` bytes.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = sorted((i for i in archive.infolist() if not i.is_dir()), key=lambda info: info.filename)
            _check(path, members)
            # `read` returns at most the declared size, and fails if the content is longer.
            return [
                files.InMemoryFile.of(archive.read(info), f"{path}/{info.filename}")
                for info in members
                if not is_hidden(PurePosixPath(info.filename))
            ]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError):
        message = f"{path}: the ZIP archive is damaged or cut short; copy it again"
    raise UserError(message)


def is_hidden(name: PurePosixPath | Path) -> bool:
    """Whether a file, or a folder above it, is hidden or holds macOS metadata."""
    return any(part.startswith((".", "__MACOSX")) for part in name.parts)


def _check(path: Path, members: list[zipfile.ZipInfo]) -> None:
    size = sum(info.file_size for info in members)
    if len(members) > MAX_FILES:
        raise UserError(f"{path}: the ZIP archive holds {len(members)} files; at most {MAX_FILES}, unpack it")
    if size > files.MAX_INFLATED:
        raise UserError(f"{path}: the ZIP archive holds over {files.MAX_INFLATED // 2**20} MB; unpack it")
    for info in members:
        if info.flag_bits & 1:
            raise UserError(f"{path}: the ZIP archive is encrypted; unpack it with its password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path}: the ZIP archive is compressed by another method than deflate; unpack it")


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One slice: a file, or a frame of a multi-frame file.

    Attributes:
        path: The file.
        name: Its path in the folder or archive.
        frame: Index of the frame, from 0; None for a file with one frame.
        position: Center of the first pixel in DICOM patient coordinates (left, back, head), in mm; shape (3,).
        orientation: Direction cosines of a row and of a column, shape (2, 3).
        size: Columns and rows.
        spacing: Distance between columns and between rows, in mm.
        thickness: Distance to the next slice as stored, in mm; it is used only if the series has one slice.
    """

    path: Path
    name: str
    frame: int | None
    position: Array
    orientation: Array
    size: tuple[int, int]
    spacing: tuple[float, float]
    thickness: float


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The slices of one DICOM series.

    Attributes:
        slices: The slices, in ascending order along their normal.
        modality: Modality code such as CT; empty if it is not stored.
        affine: Matrix from (column, row, slice) to patient coordinates (right, front, head) in mm, shape (4, 4).
        faults: Reasons why the slices are not one volume, as full sentences.
        warnings: Omitted files and unusual properties of a series that can be read, as full sentences.
    """

    slices: tuple[Slice, ...]
    modality: str
    affine: Array
    faults: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files in the order of the slices, each once."""
        return tuple(dict.fromkeys(item.path for item in self.slices))

    @property
    def problems(self) -> tuple[str, ...]:
        """All faults and warnings."""
        return (*self.faults, *self.warnings)

    def __str__(self) -> str:
        columns, rows = self.slices[0].size
        return f"{self.modality} {columns} x {rows} x {len(self.slices)} ({self.slices[0].name})".strip()


class SeriesFound(NamedTuple):
    """The series in a folder.

    Attributes:
        series: The series, ordered by series number and then by file name.
        problems: Files that belong to no volume, by reason, as full sentences.
    """

    series: list[Series]
    problems: list[str]


def find_series(source: str | Path) -> SeriesFound:
    """Find the series in a folder with its subfolders, in a ZIP archive, or in one DICOM file.

    Localizers, files without an image or a position, and files that are not DICOM are left out and reported.

    Raises:
        UserError: The source cannot be read, holds too many files, or is an archive that is refused.
    """
    source = source if isinstance(source, Path) else Path(source)
    groups: dict[str, list[tuple[Dataset, list[Slice]]]] = defaultdict(list)
    left_out: dict[str, list[str]] = defaultdict(list)
    with files.silence_logging():
        for path in _files(source):
            name = str(PurePath(path).relative_to(source)) if path != source else path.name
            try:
                header, slices = files.guarded(path, partial(_read, path, name), "")
            except UserError:
                header, slices = "unreadable or incomplete header", []
            if isinstance(header, str):
                left_out[header].append(name)
            else:
                groups[str(header.get("SeriesInstanceUID", ""))].append((header, slices))
    series = [(_number(group), _build(group)) for group in groups.values()]
    series.sort(key=lambda pair: (pair[0], pair[1].slices[0].name))
    return SeriesFound(
        [item for _, item in series], [f"Left out ({reason}): {_list(names)}." for reason, names in left_out.items()]
    )


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        paths = (path for path in source.rglob("*") if not is_hidden(path.relative_to(source)))
        found = sorted(path for path in paths if path.is_file())
        if len(found) > MAX_FILES:
            raise UserError(f"{source}: the folder holds {len(found)} files; at most {MAX_FILES}, give a subfolder")
        return found
    with explain_os_error(f"{source}: cannot be read"):
        head = files.read_head(source)
    if files.sniff_format(source, head) == "DICOM":
        return [source]
    if not head.startswith(files.ZIP):
        raise UserError(f"{source}: not a folder, a ZIP archive or a DICOM file; give the folder of a series")
    return [*read_archive(source)]


def _read(path: Path, name: str) -> tuple[Dataset | str, list[Slice]]:
    """Read the header and the slices of a file; a reason instead of the header if it is not part of a volume."""
    if files.sniff_format(path, files.read_head(path)) != "DICOM":
        return "not DICOM", []
    with files.LengthCheckedReader(path) as file:
        header = dcmread(file, stop_before_pixels=True, specific_tags=_TAGS, force=True)
    if not (header.get("Rows") and header.get("Columns")):
        return "without an image", []
    if "LOCALIZER" in code_of(header, "ImageType"):
        return "localizer", []
    if not header.get("PerFrameFunctionalGroupsSequence"):
        if int(header.get("NumberOfFrames") or 1) > 1:
            return "several frames without positions", []
        if not (header.get("ImagePositionPatient") and header.get("ImageOrientationPatient")):
            return "without a position in the patient", []
    return header, slices_of(path, name, header)


def slices_of(path: Path, name: str, header: Dataset) -> list[Slice]:
    """Make the slice of a file, or the slices of an enhanced multi-frame file."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    slices = []
    for index, group in enumerate(frames) if frames else [(None, Dataset())]:
        elements = {element.keyword: element.value for element in header}
        for part in (*(shared.get(key, []) for key in _GROUPS), *(group.get(key, []) for key in _GROUPS)):
            elements.update({element.keyword: element.value for item in part[:1] for element in item})
        rows, columns = map(float, elements["PixelSpacing"])
        orientation = np.array(elements["ImageOrientationPatient"], dtype=float).reshape(2, 3)
        position = np.array(elements["ImagePositionPatient"], dtype=float).reshape(3)
        lengths = np.linalg.norm(orientation, axis=1)
        if not (np.isfinite(position).all() and np.allclose(lengths, 1, atol=0.01) and min(rows, columns) > 0):
            raise ValueError("geometry")
        thickness = float(elements.get("SpacingBetweenSlices") or elements.get("SliceThickness") or 1)
        size = int(header.Columns), int(header.Rows)
        slices.append(Slice(path, name, index, position, orientation, size, (columns, rows), abs(thickness)))
    return slices


def _number(group: list[tuple[Dataset, list[Slice]]]) -> float:
    number = first_number(group[0][0], "SeriesNumber")
    return float("inf") if number is None else number


def _build(group: list[tuple[Dataset, list[Slice]]]) -> Series:
    """Order and check the slices of one series."""
    unique: dict[Any, Slice] = {}
    copies = []
    for header, slices in group:
        for item in slices:
            instance = header.get("SOPInstanceUID") or item.name
            first = unique.setdefault((str(instance), item.frame, *item.position), item)
            if first is not item:
                copies.append(f"{item.name} (of {first.name})")
    warnings = [f"Left out (copy of another file): {_list(copies)}."] if copies else []
    items = list(unique.values())
    orientation, faults = _mixed(items)
    normal = np.cross(*orientation)
    items.sort(key=lambda item: (float(item.position @ normal), item.name))
    positions = np.array([item.position for item in items])
    # Distances are checked only among slices of one orientation.
    if not faults:
        faults = _spacing_faults(items, positions @ normal)
    step = (positions[-1] - positions[0]) / (len(items) - 1) if len(items) > 1 else normal * items[0].thickness
    if not faults:
        offsets = np.linalg.norm(positions - positions[0] - np.arange(len(items))[:, None] * step, axis=1)
        worst = int(offsets.argmax())
        if offsets[worst] > _OFF_LINE * float(np.linalg.norm(step)):
            faults = [f"The slices are not stacked on a line: {items[worst].name} is off by {offsets[worst]:.3g} mm."]
        tilt = np.degrees(np.arccos(min(1.0, abs(step @ normal) / (np.linalg.norm(step) or 1))))
        if tilt > _TILT_DEGREES:
            warnings.append(f"The gantry was tilted by {tilt:.0f} degrees: coronal and sagittal slices are skewed.")
    columns, rows = items[0].spacing
    affine = np.eye(4)
    affine[:3] = LPS_TO_RAS @ np.column_stack([orientation[0] * columns, orientation[1] * rows, step, positions[0]])
    return Series(tuple(items), code_of(group[0][0], "Modality"), affine, tuple(faults), tuple(warnings))


def _mixed(items: list[Slice]) -> tuple[Array, list[str]]:
    """Return the orientation of most slices, and faults that name the slices of another orientation or grid."""
    rounded = [tuple(item.orientation.round(2).ravel()) for item in items]
    orientation = items[rounded.index(Counter(rounded).most_common(1)[0][0])].orientation
    grids = [(item.size, *(round(side, 4) for side in item.spacing)) for item in items]
    [(grid, _)] = Counter(grids).most_common(1)
    tilted = [i.name for i in items if not np.allclose(i.orientation, orientation, atol=_COSINE_TOLERANCE)]
    other = [item.name for item, own in zip(items, grids, strict=True) if own != grid]
    problems = {"Mixed orientation": tilted, "Mixed image sizes or pixel spacings": other}
    return orientation, [f"{what}: {_list(names)} differ from the others." for what, names in problems.items() if names]


def _spacing_faults(items: list[Slice], distances: Array) -> list[str]:
    """Name several images at one position, missing slices and unequal spacing."""
    gaps = np.diff(distances)
    pairs = [f"{one.name} and {two.name}" for one, two in pairwise(items)]
    same = [pair for pair, gap in zip(pairs, gaps, strict=True) if gap < _SAME_POSITION]
    if same:
        return [f"Several images at one position, such as another phase, echo or time: {_list(same)}."]
    median = float(np.median(gaps)) if len(gaps) else 1.0
    faults = []
    for pair, gap in zip(pairs, gaps, strict=True):
        steps = round(gap / median)
        if steps >= 2 and abs(gap / median - steps) <= _TOLERANCE * steps:
            missing = "1 slice is" if steps == 2 else f"{steps - 1} slices are"
            faults.append(f"{missing} missing between {pair} (gap {gap:.4g} mm, spacing {median:.4g} mm).")
        elif abs(gap / median - 1) > _TOLERANCE:
            faults.append(f"Unequal spacing: {gap:.4g} mm between {pair}, and {median:.4g} mm between most slices.")
    extra = len(faults) - _NAMED_FILES
    return faults if extra <= 0 else [*faults[:_NAMED_FILES], f"{extra} more faults of this kind."]


def _list(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _NAMED_FILES} more" if len(names) > _NAMED_FILES else ""
    return ", ".join(names[:_NAMED_FILES]) + more


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
        number: Index of the series, from 0; it may be None if there is only one.

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
            The window is chosen as for a DICOM file, from the header of the middle slice.

    Raises:
        UserError: See `open_series`. Also if a file is damaged, or a plane or slice must be chosen.
        UsageError: The window is invalid.
    """
    volume, series, warnings = open_series(path, view.series)
    with files.silence_logging():
        middle = series.slices[len(series.slices) // 2]
        header, _ = _decode(middle)
        grey = partial(show_grey, path, header)

        def show() -> Picture:
            picture = show_volume(path, volume, view, "DICOM series", grey)
            all_warnings = (*picture.note.warnings, *warnings, *header.warnings, *header_warnings(header))
            return replace(picture, note=replace(picture.note, burned_in=header.burned_in, warnings=all_warnings))

        return files.guarded(path, show, f"the DICOM header of {middle.name} contradicts the series")


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
    with files.silence_logging():
        header, pixels, _ = decode_frame(path, View(frame=item.frame))
        if header.colour != "MONOCHROME2" or pixels.shape != item.size[::-1]:
            raise UserError(f"{path}: not a slice of gray values (MONOCHROME2); open it as a single image")
        values = files.guarded(path, lambda: rescale(path, header, pixels), "the DICOM header contradicts its pixels")
    return header, values.astype(np.float32).T
