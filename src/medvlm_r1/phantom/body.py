"""Input of the imaging: shapes in paint order, curves, fields, and sites for findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medvlm_r1.phantom.geometry import Array, Curve, Ellipsoid, Vector, Waves, rotation
from medvlm_r1.phantom.tissue import LABEL

Fold = Callable[[Array, Array, Array, Array, Array], None]
"""From labels, the field of the folds and x, y, z (mm) of a plane's pixels, all of one shape; changes the labels."""

_JOINED = ("skin", "fat", "muscle", "cartilage", "cortical_bone", "marrow", "liver", "lung", "mass")


@dataclass(frozen=True, slots=True)
class Site:
    """A possible site of a finding: a box of centers in one host tissue.

    Attributes:
        low: Lower corner (x, y, z) of the centers, mm.
        high: Upper corner, mm.
        host: Name of the tissue around it.
    """

    low: Vector
    high: Vector
    host: str


@dataclass(slots=True, kw_only=True)
class Body:
    """One subject's region.

    Attributes:
        region: "head", "chest", "abdomen" or "knee".
        fov: Side of the square field of view, mm.
        shapes: Ellipsoids in the order they are painted.
        curves: Ribs and vessels, painted after the shapes.
        sites: Where findings may be placed, by the patient's side ("left", "right").
        slices: Range of slice positions used for "axial", "coronal" and "sagittal", mm.
        middle: Point (x, y, z) shown in the middle of the field of view, mm.
        pose: Rotation (3, 3) of the patient in the scanner.
        warp: Three fields (x, y, z) that bend the analytic shapes.
        warp_mm: Amplitude of the bending, mm.
        grain: Field of tissue texture.
        joined: Labels whose overlapping shapes form one piece (their line integrals count once).
        folds: Field that makes sulci and bowel loops, or None.
        fold: Repaints labels where the folds call for it.
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
    """Collects shapes by tissue name, with a common random scale per subject.

    Attributes:
        rng: The subject's generator.
        spread: Relative standard deviation of every radius.
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
        """Adds an ellipsoid; radii and center (mm) vary unless `exact`."""
        if not exact:
            radii = tuple(r * float(np.exp(self.rng.normal(0, self.spread))) for r in radii)  # type: ignore[assignment]
            centre = tuple(c + float(self.rng.normal(0, jitter)) for c in centre)  # type: ignore[assignment]
        shape = Ellipsoid(centre, radii, LABEL[tissue], LABEL[inside_of], tilt)
        self.shapes.append(shape)
        return shape

    def tube(
        self, tissue: str, start: Vector, end: Vector, radius: float, inside_of: str, *, core: str | None = None
    ) -> None:
        """Adds a straight tube (mm)."""
        a, b = np.asarray(start, float), np.asarray(end, float)
        n = max(2, int(np.linalg.norm(b - a) / max(radius * 0.35, 1.0)))
        points = a + (b - a) * np.linspace(0, 1, n)[:, None]
        self.curve(tissue, points, np.full(n, radius), inside_of, core=core)

    def curve(self, tissue: str, points: Array, radius: Array, inside_of: str, *, core: str | None = None) -> None:
        """Adds a bead curve: points (n, 3) and radius (n,), mm."""
        self.curves.append(
            Curve(points, radius, LABEL[tissue], LABEL[inside_of], None if core is None else LABEL[core])
        )

    def finish(self, region: str, *, fov: float, warp_wavelength: float, tilt: float = 4.0, **fields: Any) -> Body:
        """Closes the body with its pose, bending and grain.

        Args:
            region: As in `Body`.
            fov: Mean side of the field of view, mm; it varies by 6 % either way.
            warp_wavelength: Wavelength of the bending, mm.
            tilt: Standard deviation of the patient's rotation about each axis, degrees.
            **fields: `sites`, `slices`, `warp_mm`, and where needed `middle`, `folds` and `fold` of `Body`.
        """
        rng = self.rng
        # The order of the draws belongs to the subject.
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
