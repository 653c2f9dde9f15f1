"""Facts about the slices of a study: where each structure lies in the written picture, and what is clearly visible."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from medvlm_r1.data.images.volume import WORLD_AXES, cut_slice
from medvlm_r1.data.images.volumes import filled_slices, spread
from medvlm_r1.data.images.windowing import Array, isotropic_resample
from medvlm_r1.volumes.structures import Structure
from medvlm_r1.volumes.study import Study

MIN_ORGAN, MIN_LESION = 1e-3, 2e-4
"""Smallest share of the picture of a clearly visible organ or lesion."""
MIN_OF_LARGEST = 0.2
"""Smallest area of a clearly visible organ, as a fraction of its largest area in the chosen slices of the plane."""
MIN_FILL = 0.3
"""Smallest share of its box that a structure must fill for a question about the box."""
REGION_SHARE = 0.9
"""Smallest share of the area of structures with a body region that belongs to the region of the slice."""
RING, HOST_SHARE = 3, 0.5
"""Width of the surroundings of a lesion in pixels, and the smallest share of them that belongs to its host."""

Edges = tuple[int, int, int, int]


class Seen(NamedTuple):
    """An organ or a connected lesion in a slice.

    Attributes:
        structure: The structure.
        box: Edges x1, y1, x2, y2 in pixels of the picture; x2 and y2 are exclusive.
        area: Area in mm².
        clear: Whether it is clearly visible: large enough, and not cut off by the edge of the picture.
        filled: Whether it fills enough of its box.
        half: Side of the patient in the half of an axial or coronal picture that contains the whole box; empty if the
            box extends into both halves.
        diameter: Longest diameter of a lesion in the slice, mm; 0 for an organ.
        host: The organ that surrounds a lesion; None if there is none.
    """

    structure: Structure
    box: Edges
    area: float
    clear: bool
    filled: bool
    half: str
    diameter: float = 0.0
    host: Structure | None = None

    @property
    def side(self) -> str:
        """Side of the patient that the name of the structure or of its host states; otherwise empty."""
        return self.structure.side or (self.host.side if self.host else "")


class Slice(NamedTuple):
    """The facts about one slice.

    Attributes:
        study: Folder of the study.
        modality: Its modality.
        plane: axial, coronal or sagittal.
        number: Index of the slice, from 0 at the feet, back or left.
        segmented: Names of the organs that were segmented in the study.
        organs: The organs with a pixel in the slice.
        lesions: Its lesions; None if no lesion was segmented in the study.
    """

    study: Path
    modality: str
    plane: str
    number: int
    segmented: frozenset[str]
    organs: tuple[Seen, ...]
    lesions: tuple[Seen, ...] | None

    @property
    def region(self) -> str:
        """Body region of nearly all organs with a region, if one of them is clearly visible; otherwise empty."""
        areas = Counter[str]()
        for seen in self.organs:
            areas[seen.structure.group] += seen.area  # type: ignore[assignment]
        del areas[""]
        region = max(areas, key=areas.__getitem__, default="")
        clear = any(seen.clear and seen.structure.group == region for seen in self.organs)
        return region if clear and areas[region] >= REGION_SHARE * areas.total() else ""


def slice_facts(folder: Path, modality: str, study: Study, planes: Sequence[str], n: int) -> Iterator[Slice]:
    """Facts about slices of a study, from its label map.

    Args:
        folder: Folder of the study.
        modality: Modality of the study.
        study: The study.
        planes: axial, coronal or sagittal.
        n: Number of slices per plane, spread over the part of the volume that is not empty. Up to `n` slices with a
            lesion are added.

    Raises:
        UserError: All voxels of the image have the same value.
    """
    segmented = frozenset(item.name for item in study.structures if not item.lesion)
    lesions = [number for number, item in enumerate(study.structures, start=1) if item.lesion]
    diseased = np.isin(study.labels.dataobj, lesions)
    every = filled_slices(study.image)
    for plane in planes:
        filled = every[plane]
        with_lesion = np.flatnonzero(diseased.any(axis=tuple({0, 1, 2} - {WORLD_AXES[plane]})))
        chosen = {filled[i] for i in spread(len(filled), n)} | {
            int(with_lesion[i]) for i in spread(len(with_lesion), n)
        }
        facts = {index: _seen(folder, study, plane, index, lesions) for index in sorted(chosen)}
        largest: dict[Structure, float] = {}
        for seen in (seen for organs, _ in facts.values() for seen in organs):
            largest[seen.structure] = max(seen.area, largest.get(seen.structure, 0.0))
        for index, (organs, found) in facts.items():
            clear = [seen.clear and seen.area >= MIN_OF_LARGEST * largest[seen.structure] for seen in organs]
            organs = [seen._replace(clear=value) for seen, value in zip(organs, clear, strict=True)]
            yield Slice(folder, modality, plane, index, segmented, tuple(organs), tuple(found) if lesions else None)


def _seen(folder: Path, study: Study, plane: str, index: int, lesions: list[int]) -> tuple[list[Seen], list[Seen]]:
    """The organs and the connected lesions of a slice."""
    values, up, across = cut_slice(folder, study.labels, plane, index)
    picture = Image.fromarray(values.astype(np.int32))
    labels = np.asarray(isotropic_resample(folder, picture, up, across, smooth=False)[0])
    # The finer side of a pixel keeps its length.
    side = min(up, across)
    positions = ndimage.find_objects(labels, len(study.structures))
    organs = [
        _measured(study.structures[number - 1], labels[position] == number, position, labels, side)
        for number, position in enumerate(positions, start=1)
        if position and number not in lesions
    ]
    found = []
    components, n = ndimage.label(np.isin(labels, lesions), np.ones((3, 3)))
    for number, position in enumerate(ndimage.find_objects(components, n), start=1):
        mask = components[position] == number
        name = study.structures[int(np.bincount(labels[position][mask]).argmax()) - 1]
        seen = _measured(name, mask, position, labels, side)
        frame = tuple(slice(max(0, part.start - RING), part.stop + RING) for part in position)
        lesion = components[frame] == number
        around = labels[frame][ndimage.binary_dilation(lesion, np.ones((3, 3), bool), RING) & ~lesion]
        counts = np.bincount(around[~np.isin(around, lesions)], minlength=1)
        host = int(counts.argmax())
        surrounds = host and counts[host] >= HOST_SHARE * len(around)
        diameter = longest_diameter(mask) * side
        found.append(seen._replace(diameter=diameter, host=study.structures[host - 1] if surrounds else None))
    return organs, found


def _measured(structure: Structure, mask: Array, position: tuple[slice, ...], labels: Array, side: float) -> Seen:
    """Measure a structure that has the given mask at a position of the label picture."""
    (top, bottom), (left, right) = ((part.start, part.stop) for part in position)
    count = int(np.count_nonzero(mask))
    whole = top > 0 and left > 0 and bottom < labels.shape[0] and right < labels.shape[1]
    large = count >= (MIN_LESION if structure.lesion else MIN_ORGAN) * labels.size
    # The patient's right is on the left of the picture.
    middle = labels.shape[1] / 2
    half = "right" if right <= middle else "left" if left >= middle else ""
    box, filled = (left, top, right, bottom), count >= MIN_FILL * mask.size
    return Seen(structure, box, count * side**2, whole and large, filled, half)


def longest_diameter(mask: Array) -> float:
    """Largest distance between two corners of the pixels of a mask, in pixels."""
    rows, columns = np.nonzero(mask)
    corners = np.concatenate([np.column_stack([rows + down, columns + right]) for down in (0, 1) for right in (0, 1)])
    return float(pdist(corners[ConvexHull(corners).vertices]).max())
