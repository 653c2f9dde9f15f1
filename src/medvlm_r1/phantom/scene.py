"""A scene: the content of one image. `draw` draws a random scene, and `render` computes its image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medvlm_r1.phantom.anatomy import BODIES
from medvlm_r1.phantom.body import Body
from medvlm_r1.phantom.findings import KINDS, NONE, SIDES, SIZES, Finding, place_finding
from medvlm_r1.phantom.geometry import Array
from medvlm_r1.phantom.imaging import PLANES, ct, line_integrals, mri, slice_labels, xray
from medvlm_r1.phantom.tissue import LABEL

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
        """The scene as an entry of `truth["images"]` of a `Sample`."""
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
    """Compute where the finding lies in the image, from its shapes: in CT and MRI in the slice, in X-ray in projection.

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
