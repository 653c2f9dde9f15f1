"""A scene: the content of one image, with findings placed in a body.

`draw` draws a random scene, and `render` computes its image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medvlm_r1.phantom.anatomy import BODIES
from medvlm_r1.phantom.body import LABEL, Array, Body, Ellipsoid, Vector, rotation
from medvlm_r1.phantom.imaging import PLANES, ct, line_integrals, mri, slice_labels, xray

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


MODALITIES = ("MRI", "CT", "X-ray")
REGIONS = tuple(BODIES)
VIEWS = ("frontal", "lateral")


@dataclass(frozen=True, slots=True)
class Scene:
    """The ground truth of one image.

    Attributes:
        modality: "MRI", "CT" or "X-ray".
        region: Key of `BODIES`.
        plane: Key of `PLANES`; for X-ray, "frontal" or "lateral".
        technique: MR sequence or CT window; for X-ray, the same as `plane`.
        finding: One of `KINDS`, or "none".
        side: Side of the patient on which the finding is, or None if there is no finding.
        size: Size class of the finding, or None if there is no finding.
        seed: Seed of the subject, which determines the anatomy, the position of the finding and the noise.
    """

    modality: str
    region: str
    plane: str
    technique: str
    finding: str
    side: str | None
    size: str | None
    seed: tuple[int, ...]

    @property
    def side_is_seen(self) -> bool:
        """Whether the plane or view shows the left and the right side of the patient separately."""
        return self.plane in ("axial", "coronal", "frontal")

    def truth(self) -> dict[str, Any]:
        """Convert the scene to an entry of `truth["images"]` of a `Sample`."""
        found = [] if self.finding == NONE else [{"name": self.finding, "side": self.side, "size": self.size}]
        names = ("modality", "region", "plane", "technique")
        return {**{name: getattr(self, name) for name in names}, "findings": found}

    @classmethod
    def from_truth(cls, truth: Mapping[str, Any]) -> Scene:
        """The scene of an entry of `truth["images"]`, without its seed; the inverse of `truth`."""
        finding: Mapping[str, Any] = {"name": NONE, "side": None, "size": None}
        if truth["findings"]:
            finding = truth["findings"][0]
        known = {name: truth[name] for name in ("modality", "region", "plane", "technique")}
        return cls(**known, finding=finding["name"], side=finding["side"], size=finding["size"], seed=())


def techniques(modality: str, region: str) -> tuple[str, ...]:
    """Techniques available for a modality and a region: MR sequences, CT windows or X-ray views."""
    if modality == "MRI":
        plain = ("T1-weighted", "T2-weighted", "proton density")
        return (*plain, "FLAIR") if region == "head" else plain
    if modality == "CT":
        own = {"head": ("bone window", "brain window"), "chest": ("soft-tissue window", "bone window", "lung window")}
        return own.get(region, ("soft-tissue window", "bone window"))
    return VIEWS


def unseen_kinds(modality: str, region: str) -> tuple[str, ...]:
    """Kinds of finding that a modality cannot show in a region. In MRI, calcium in the lung looks like air."""
    return ("calcification",) if (modality, region) == ("MRI", "chest") else ()


def draw(modality: str, wishes: Mapping[str, Any], seed: tuple[int, ...], rng: np.random.Generator) -> Scene:
    """Draw a scene with the requested values. All other attributes are random.

    Args:
        modality: "MRI", "CT" or "X-ray".
        wishes: Requested values, by name: region, plane, technique, finding, side or size. `"side_seen": True`
            requests a plane or view that shows the left and the right side separately.
        seed: Seed of the subject.
        rng: Random generator of the attributes that are not requested.
    """

    def pick(name: str, choices: tuple[str, ...]) -> str:
        return str(wishes[name]) if name in wishes else str(choices[int(rng.integers(len(choices)))])

    regions = (r for r in REGIONS if wishes.get("technique", techniques(modality, r)[0]) in techniques(modality, r))
    region = pick("region", tuple(r for r in regions if wishes.get("finding") not in unseen_kinds(modality, r)))
    if modality == "X-ray":
        plane = pick("plane", ("frontal",) if wishes.get("side_seen") else VIEWS)
        plane = technique = str(wishes.get("technique", plane))
    else:
        plane = pick("plane", ("axial", "coronal") if wishes.get("side_seen") else tuple(PLANES))
        options = techniques(modality, region)
        if wishes.keys() & {"finding", "side", "size"}:  # soft findings do not show in the bone window
            options = tuple(t for t in options if t != "bone window")
        technique = pick("technique", options)
    kinds = tuple(kind for kind in KINDS if kind not in unseen_kinds(modality, region))
    if technique == "bone window":
        kinds = ("calcification",)
    finding = pick("finding", kinds if "side" in wishes or "size" in wishes else (NONE, *kinds))
    if finding == NONE:
        return Scene(modality, region, plane, technique, NONE, None, None, seed)
    return Scene(modality, region, plane, technique, finding, pick("side", SIDES), pick("size", SIZES), seed)


def render(scene: Scene) -> Array:
    """Compute the image of a scene. The same scene always gives the same bytes.

    Returns:
        Gray values, uint8 (SIZE, SIZE).
    """
    rng = np.random.default_rng(scene.seed)
    body, finding = _subject(scene, rng)
    extra = finding.shapes if finding is not None else ()
    if scene.modality == "X-ray":
        return xray(body, extra, scene.plane, rng)
    image = mri if scene.modality == "MRI" else ct
    return image(body, extra, scene.plane, _position(scene, body, finding, rng), scene.technique, rng)


def finding_box(scene: Scene) -> tuple[int, int, int, int] | None:
    """Compute the bounding box of the finding in the image, from its shapes.

    In CT and MRI, it covers the part of the finding in the slice. In X-ray, it covers the projection.
    The edema around a ring-enhancing lesion does not count.

    Returns:
        Edges x1, y1, x2, y2 in pixels of the image (x2 and y2 exclusive). None if there is no finding, or, in about one
        of 10,000 images, if the slice passes between the grains of a calcification.
    """
    rng = np.random.default_rng(scene.seed)
    body, finding = _subject(scene, rng)
    if finding is None:
        return None
    shapes = [shape for shape in finding.shapes if shape.label != LABEL["oedema"]]
    if scene.modality == "X-ray":
        effect = np.abs(line_integrals(body, shapes, scene.plane) - line_integrals(body, (), scene.plane))
        mask = effect > 0.05 * effect.max()
    else:
        empty = replace(body, shapes=[], curves=[], folds=None)
        mask = slice_labels(empty, shapes, scene.plane, _position(scene, body, finding, rng))[0] > 0
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _subject(scene: Scene, rng: np.random.Generator) -> tuple[Body, Finding | None]:
    body = BODIES[scene.region](rng)
    if scene.side is None or scene.size is None:
        return body, None
    return body, place_finding(body, scene.finding, scene.side, scene.size, rng)


def _position(scene: Scene, body: Body, finding: Finding | None, rng: np.random.Generator) -> float:
    """Draw the position of the slice along its normal, mm. With a finding, the slice passes near its center."""
    position = float(rng.uniform(*body.slices[scene.plane]))
    if finding is None:
        return position
    middle, normal = np.asarray(body.middle), PLANES[scene.plane][2]
    # The plane is rotated by the pose.
    position = float(middle @ normal + (np.asarray(finding.centre) - middle) @ (body.pose @ normal))
    return position + float(rng.uniform(-0.12, 0.12)) * finding.diameter
