"""Findings and their placement in a body. Each kind of finding is built from ellipsoids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medvlm_r1.phantom.body import Body
from medvlm_r1.phantom.geometry import Ellipsoid, Vector, rotation
from medvlm_r1.phantom.tissue import LABEL

KINDS = ("mass", "cyst", "ring-enhancing lesion", "calcification")
NONE = "none"
SIDES = ("right", "left")
SIZES = ("small", "medium", "large")

# Diameter as a fraction of the field of view. Gaps between the ranges keep the size classes distinct.
DIAMETER: dict[str, tuple[float, float]] = {"small": (0.088, 0.102), "medium": (0.142, 0.165), "large": (0.215, 0.250)}


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding placed in a body.

    Attributes:
        kind: One of `KINDS`.
        side: Side of the patient on which the finding is, "right" or "left".
        size: One of `SIZES`.
        centre: Center (x, y, z), mm.
        diameter: Nominal diameter, mm.
        shapes: Ellipsoids of the finding, in the order in which they are painted.
    """

    kind: str
    side: str
    size: str
    centre: Vector
    diameter: float
    shapes: tuple[Ellipsoid, ...]


def place_finding(body: Body, kind: str, side: str, size: str, rng: np.random.Generator) -> Finding:
    """Place a finding of the given kind, side and size at a random site of the body."""
    sites = body.sites[side]
    site = sites[int(rng.integers(len(sites)))]
    centre = tuple(float(c) for c in rng.uniform(site.low, site.high))
    diameter = body.fov * float(rng.uniform(*DIAMETER[size]))
    shapes = _BUILDERS[kind](np.array(centre), diameter / 2, site.host, body.region, rng)
    return Finding(kind, side, size, centre, diameter, tuple(shapes))  # type: ignore[arg-type]


def _blob(
    centre: np.ndarray, radius: float, label: str, inside_of: str, rng: np.random.Generator, squeeze: float = 0.10
) -> Ellipsoid:
    radii = radius * np.exp(rng.normal(0, squeeze, 3))
    tilt = rotation(*rng.uniform(-40, 40, 3))
    return Ellipsoid(tuple(centre), tuple(radii), LABEL[label], LABEL[inside_of], tilt)


def _mass(c: np.ndarray, r: float, host: str, region: str, rng: np.random.Generator) -> list[Ellipsoid]:
    """A solid, lobulated, enhancing mass."""
    shapes = [_blob(c, 0.80 * r, "mass", host, rng)]
    for _ in range(6):
        d = rng.normal(size=3)
        d /= np.linalg.norm(d)
        # A lobe displaces mostly mass, so it adds little to a line integral.
        shapes.append(_blob(c + d * r * 0.58, r * rng.uniform(0.32, 0.46), "mass", "mass", rng))
    return shapes


def _cyst(c: np.ndarray, r: float, host: str, region: str, rng: np.random.Generator) -> list[Ellipsoid]:
    """A smooth thin-walled cyst: fluid, or air in the lung."""
    wall = _blob(c, r, "cyst_wall", host, rng, 0.05)
    inner = tuple(x * 0.87 for x in wall.radii)
    content = "air_cyst" if host == "lung" else "cyst"
    return [wall, Ellipsoid(wall.centre, inner, LABEL[content], LABEL["cyst_wall"], wall.tilt)]  # type: ignore[arg-type]


def _ring(c: np.ndarray, r: float, host: str, region: str, rng: np.random.Generator) -> list[Ellipsoid]:
    """A thick enhancing rim around a necrotic center. In the head, edema surrounds the rim."""
    shapes = []
    if region == "head":
        shapes.append(_blob(c, r * 1.4, "oedema", host, rng, 0.12))
    rim = _blob(c, r, "ring", "oedema" if shapes else host, rng, 0.07)
    inner = tuple(x * rng.uniform(0.58, 0.66) for x in rim.radii)
    content = "air_necrosis" if host == "lung" else "necrosis"
    return [*shapes, rim, Ellipsoid(rim.centre, inner, LABEL[content], LABEL["ring"], rim.tilt)]  # type: ignore[arg-type]


def _calcification(c: np.ndarray, r: float, host: str, region: str, rng: np.random.Generator) -> list[Ellipsoid]:
    """A cluster of coarse calcified grains that fills the given radius."""
    shapes = []
    n = 15
    golden = np.pi * (3 - np.sqrt(5))
    for i in range(n):  # spread over shells, so that every plane through the center meets some
        h = 1 - 2 * (i + 0.5) / n
        d = np.array([np.sqrt(1 - h * h) * np.cos(golden * i), np.sqrt(1 - h * h) * np.sin(golden * i), h])
        at = c + d * r * float(rng.choice([0.30, 0.78])) + rng.normal(0, 0.06 * r, 3)
        shapes.append(_blob(at, r * rng.uniform(0.20, 0.30), "calcium", host, rng, 0.25))
    return shapes


_BUILDERS = {"mass": _mass, "cyst": _cyst, "ring-enhancing lesion": _ring, "calcification": _calcification}
