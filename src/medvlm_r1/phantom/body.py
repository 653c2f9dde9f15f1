"""Model of one body, the input of the imaging: shapes, curves, random fields, and sites for findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medvlm_r1.phantom.geometry import Array, Curve, Ellipsoid, Vector, Waves, rotation
from medvlm_r1.phantom.tissue import LABEL

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
