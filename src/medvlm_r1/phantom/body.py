"""Model of one body: ellipsoids, curves and smooth random fields in millimeters, tissues, and sites for findings.

Patient coordinates are LPS: x to the patient's left, y to the back, z to the head. The same body serves all modalities:
MRI and CT use the points of a plane that lie inside a shape. X-ray uses the length of each ray inside the shape.

Physical constants of the tissues are in `tissues.csv`. Columns: relaxation times `t1` and `t2` in milliseconds near 1.5
T, proton density `pd` relative to water, CT number `hu` in Hounsfield units, X-ray attenuation `mu` (about 60 keV
effective) relative to water, and `texture`, the relative amplitude of the grain. The values are rounded from textbook
ranges. Findings have enough contrast to distinguish their kinds: masses and rims enhance, as after a contrast agent.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from medvlm_r1.disk import read_table

Array = npt.NDArray[Any]
Vector = tuple[float, float, float]


@dataclass(slots=True)
class Ellipsoid:
    """A solid ellipsoid of one tissue.

    Attributes:
        centre: Center (x, y, z), mm.
        radii: Semi-axes, mm.
        label: Label of the tissue inside the ellipsoid.
        inside_of: Label of the tissue that the ellipsoid replaces, for the line integrals of X-ray.
        tilt: Rotation matrix (3, 3) of the axes, or None if they are parallel to the coordinate axes.
        matrix: Matrix (3, 3) that maps offsets from the center to the unit sphere.
        extent: Half side lengths (3,) of the bounding box, mm.
    """

    centre: Vector
    radii: Vector
    label: int
    inside_of: int
    tilt: Array | None = None
    matrix: Array = field(init=False)
    extent: Array = field(init=False)

    def __post_init__(self) -> None:
        tilt = np.eye(3) if self.tilt is None else self.tilt
        radii = np.asarray(self.radii, dtype=np.float64)
        self.matrix = (tilt.T / radii[:, None]).astype(np.float32)
        self.extent = np.sqrt(((tilt * radii) ** 2).sum(axis=1))

    def level(self, x: Array, y: Array, z: Array) -> Array:
        """Squared normalized radius of points: below 1 inside the ellipsoid. The arrays x, y, z are in mm."""
        dx, dy, dz = x - np.float32(self.centre[0]), y - np.float32(self.centre[1]), z - np.float32(self.centre[2])
        if self.tilt is None:
            kx, ky, kz = (np.float32(1.0 / r) for r in self.radii)
            plain: Array = (dx * kx) ** 2 + (dy * ky) ** 2 + (dz * kz) ** 2
            return plain
        total: Array = sum((kx * dx + ky * dy + kz * dz) ** 2 for kx, ky, kz in self.matrix)
        return total

    def interval(self, u: Array, v: Array, axes: tuple[int, int, int]) -> tuple[Array, Array]:
        """Intersect axis-parallel rays with the ellipsoid.

        Args:
            u: Coordinate of each ray along axis `axes[0]`, mm.
            v: Coordinate of each ray along axis `axes[1]`, mm, in the shape of `u`.
            axes: Indices of the u axis, the v axis and the ray axis.

        Returns:
            Midpoint of each chord along the ray axis, and half the length of the chord (0 if the ray misses), in mm.
        """
        m = self.matrix.astype(np.float64)
        du, dv = u - np.float32(self.centre[axes[0]]), v - np.float32(self.centre[axes[1]])
        mu, mv, mw = m[:, axes[0]], m[:, axes[1]], m[:, axes[2]]
        a = mw @ mw
        bu, bv = mw @ mu / a, mw @ mv / a
        # The squared half length is a quadratic form in (du, dv). Its terms are grouped, because X-ray spends most
        # of its time here.
        form = bu * bu - mu @ mu / a, 2 * (bu * bv - mu @ mv / a), bv * bv - mv @ mv / a
        uu, uv, vv = (np.float32(q) for q in form)
        half = uu * du
        if self.tilt is not None:
            half += uv * dv
        half *= du
        half += vv * dv * dv
        half += np.float32(1 / a)
        np.maximum(half, 0, out=half)
        np.sqrt(half, out=half)
        middle = np.float32(self.centre[axes[2]])
        if self.tilt is None:
            return np.asarray(middle), half
        return middle - (np.float32(bu) * du + np.float32(bv) * dv), half


@dataclass(slots=True)
class Curve:
    """A thin structure along a space curve, such as a rib or vessel, made of overlapping beads.

    Attributes:
        points: Bead centers, shape (n, 3), mm.
        radius: Bead radii, shape (n,), mm.
        label: Tissue label of the structure, or of its wall if it has a core.
        inside_of: Label of the tissue that the structure replaces.
        core: Tissue label of the core, or None if the structure is solid.
    """

    points: Array
    radius: Array
    label: int
    inside_of: int
    core: int | None = None


@dataclass(slots=True)
class Waves:
    """A smooth random field in space: a sum of plane waves. Its values on a plane take only two matrix products.

    Attributes:
        k: Wave vectors, shape (n, 3), rad/mm.
        phase: Phases, shape (n,), rad.
    """

    k: Array
    phase: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int, wavelength: float, spread: float = 0.35) -> Waves:
        """Draw n plane waves with random directions and with wavelengths of about `wavelength` mm."""
        direction = rng.normal(size=(n, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = wavelength * np.exp(rng.uniform(-spread, spread, size=(n, 1)))
        return cls((2 * np.pi / length) * direction, rng.uniform(0, 2 * np.pi, n))

    def on_plane(self, origin: Array, rows: Array, columns: Array, row_axis: Array, column_axis: Array) -> Array:
        """Values of the field on a grid in a plane. Over space, the field has zero mean and unit variance.

        Args:
            origin: A point of the plane, shape (3,), mm.
            rows: Offsets along `row_axis`, shape (h,), mm.
            columns: Offsets along `column_axis`, shape (w,), mm.
            row_axis: Direction of increasing row, shape (3,).
            column_axis: Direction of increasing column, shape (3,).

        Returns:
            float32 array of shape (h, w).
        """
        down = np.outer(rows, self.k @ row_axis) + (self.k @ origin + self.phase)
        across = np.outer(self.k @ column_axis, columns)
        cos, sin = np.cos, np.sin
        value: Array = cos(down).astype(np.float32) @ cos(across).astype(np.float32)
        value -= sin(down).astype(np.float32) @ sin(across).astype(np.float32)
        value = value * np.float32(np.sqrt(2.0 / len(self.phase)))
        return value


def rotation(rx: float, ry: float, rz: float) -> Array:
    """Rotation matrix (3, 3) about the fixed x, y and z axes, in this order (`Rz @ Ry @ Rx`). Angles are in degrees."""
    ax, ay, az = np.deg2rad([rx, ry, rz])
    cx, sx, cy, sy, cz, sz = np.cos(ax), np.sin(ax), np.cos(ay), np.sin(ay), np.cos(az), np.sin(az)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    product: Array = about_z @ about_y @ about_x
    return product


WATER_ATTENUATION = 0.0195
"""Linear attenuation of water, 1/mm."""

with Path(__file__).with_name("tissues.csv").open(encoding="utf-8", newline="") as _file:
    _ROWS = list(csv.DictReader(_file))

_PARTS = read_table(Path(__file__).with_name("anatomy.tsv"))

LABEL: dict[str, int] = {row["name"]: index for index, row in enumerate(_ROWS)}
"""Label of each tissue by name: its number in label images."""


def lookup(column: str) -> np.ndarray:
    """Values of one column for all tissues: float32 array of shape (number of tissues,), indexed by label."""
    return np.array([float(row[column]) for row in _ROWS], dtype=np.float32)


Fold = Callable[[Array, Array, Array, Array, Array], None]
"""Function `fold(labels, folds, x, y, z)` that changes the tissue labels of an image plane in place.

`folds` has the values of the fold field, and x, y, z are the pixel coordinates in mm. All arrays have the same shape.
"""

_JOINED = ("skin", "fat", "muscle", "cartilage", "cortical_bone", "marrow", "liver", "lung", "mass")


@dataclass(frozen=True, slots=True)
class Site:
    """A box inside one tissue in which the center of a finding may be placed.

    Attributes:
        low: Lower corner (x, y, z) of the box, mm.
        high: Upper corner (x, y, z) of the box, mm.
        host: Name of the surrounding tissue.
    """

    low: Vector
    high: Vector
    host: str


@dataclass(slots=True, kw_only=True)
class Body:
    """One body region of one subject.

    Attributes:
        region: "head", "chest", "abdomen" or "knee".
        fov: Side length of the square field of view, mm.
        shapes: Ellipsoids, in the order in which they are painted.
        curves: Ribs, vessels and other thin structures, painted after the shapes.
        sites: Sites where findings may be placed, by side of the patient ("left" or "right").
        slices: Range (low, high) of slice positions for each of "axial", "coronal" and "sagittal", mm.
        middle: Point (x, y, z) at the center of the field of view, mm.
        pose: Rotation matrix (3, 3) from scanner to patient coordinates.
        warp: Three random fields (x, y, z) that displace the coordinates, to bend the shapes.
        warp_mm: Amplitude of the displacement, mm.
        grain: Random field of the tissue texture.
        joined: Labels of tissues whose overlapping shapes form one object. X-ray counts the overlap once.
        folds: Random field that shapes sulci or bowel loops; None if the region has neither.
        fold: Function that paints the sulci or bowel loops; None if the region has neither.
    """

    region: str
    fov: float
    shapes: list[Ellipsoid]
    curves: list[Curve]
    sites: dict[str, list[Site]]
    slices: dict[str, tuple[float, float]]
    pose: Array
    warp: tuple[Waves, Waves, Waves]
    warp_mm: float
    grain: Waves
    joined: frozenset[int]
    middle: Vector = (0.0, 0.0, 0.0)
    folds: Waves | None = None
    fold: Fold | None = None


@dataclass(slots=True)
class Builder:
    """Builder of a `Body`: collects its shapes, with random variation of their radii and centers.

    Attributes:
        rng: Random generator of the subject.
        spread: Relative standard deviation of the radii.
        shapes: Ellipsoids added so far.
        curves: Curves added so far.
    """

    rng: np.random.Generator
    spread: float = 0.05
    shapes: list[Ellipsoid] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def add(
        self,
        tissue: str,
        centre: Vector,
        radii: Vector,
        inside_of: str,
        *,
        tilt: Array | None = None,
        exact: bool = False,
        jitter: float = 1.0,
    ) -> Ellipsoid:
        """Add an ellipsoid. Its radii and center, in mm, are varied at random unless `exact` is true."""
        if not exact:
            radii = tuple(r * float(np.exp(self.rng.normal(0, self.spread))) for r in radii)  # type: ignore[assignment]
            centre = tuple(c + float(self.rng.normal(0, jitter)) for c in centre)  # type: ignore[assignment]
        shape = Ellipsoid(centre, radii, LABEL[tissue], LABEL[inside_of], tilt)
        self.shapes.append(shape)
        return shape

    def table(self, part: str, *, z: float = 0.0) -> None:
        """Add the shapes of a part of the body in `anatomy.tsv`, moved by `z` mm to the head.

        Adjacent rows with the same text under `mirrored` are added on the right, then mirrored to the left.
        """
        rows = [row for name, *row in _PARTS if name == part]
        for mirrored, group in groupby(rows, key=itemgetter(0)):
            shapes = list(group)
            for side in (-1, 1) if mirrored else (1,):
                for _, shape, tissue, inside, *cells, size in shapes:
                    (x, y, height), (a, b, c), turn = (tuple(map(float, cell.split())) for cell in cells)
                    centre = (side * x, y, height + z)
                    if shape == "tube":
                        self.tube(tissue, centre, (side * a, b, c + z), float(size), inside)
                    else:
                        tilt = rotation(turn[0], side * turn[1], side * turn[2]) if turn else None
                        self.add(tissue, centre, (a, b, c), inside, tilt=tilt, jitter=float(size))

    def tube(
        self, tissue: str, start: Vector, end: Vector, radius: float, inside_of: str, *, core: str | None = None
    ) -> None:
        """Add a straight tube. The end points and the radius are in mm."""
        a, b = np.asarray(start, float), np.asarray(end, float)
        n = max(2, int(np.linalg.norm(b - a) / max(radius * 0.35, 1.0)))
        points = a + (b - a) * np.linspace(0, 1, n)[:, None]
        self.curve(tissue, points, np.full(n, radius), inside_of, core=core)

    def curve(self, tissue: str, points: Array, radius: Array, inside_of: str, *, core: str | None = None) -> None:
        """Add a curve made of beads. `points` (n, 3) are the bead centers and `radius` (n,) the bead radii, in mm."""
        self.curves.append(
            Curve(points, radius, LABEL[tissue], LABEL[inside_of], None if core is None else LABEL[core])
        )

    def finish(self, region: str, *, fov: float, warp_wavelength: float, tilt: float = 4.0, **fields: Any) -> Body:
        """Draw the pose, bending and grain, and return the finished body.

        Args:
            region: Name of the region, as in `Body`.
            fov: Nominal side length of the field of view, mm. It is scaled by a random factor from 0.95 to 1.07.
            warp_wavelength: Wavelength of the bending, mm.
            tilt: Standard deviation of the patient's rotation about each axis, degrees.
            **fields: Other fields of `Body`: `sites`, `slices` and `warp_mm`; optionally `middle`, `folds` and `fold`.
        """
        rng = self.rng
        # Another order of the draws would change every subject.
        x, y, z = (Waves.draw(rng, 6, warp_wavelength) for _ in range(3))
        side = fov * float(rng.uniform(0.95, 1.07))
        pose = rotation(*rng.normal(0, tilt, 3))
        return Body(
            region=region,
            fov=side,
            shapes=self.shapes,
            curves=self.curves,
            pose=pose,
            warp=(x, y, z),
            grain=Waves.draw(rng, 40, fov / 32, 0.8),
            joined=frozenset(LABEL[name] for name in _JOINED),
            **fields,
        )


REGIONS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("regions.yaml").read_text(encoding="utf-8")
)
"""Arguments of `Builder.finish` by region."""
for _facts in REGIONS.values():
    _facts["sites"] = {side: [Site(**site) for site in sites] for side, sites in _facts["sites"].items()}
