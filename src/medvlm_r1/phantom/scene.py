"""A scene: the content of one image. `draw` draws a random scene, and `render` computes its image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medvlm_r1.phantom.anatomy import BODIES
from medvlm_r1.phantom.body import Body
from medvlm_r1.phantom.findings import KINDS, NONE, SIDES, SIZES, Finding, place_finding
from medvlm_r1.phantom.geometry import Array
from medvlm_r1.phantom.imaging import PLANES, SIZE, ct, mri, xray

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
    position = float(rng.uniform(*body.slices[scene.plane]))
    if finding is not None:  # choose the plane, rotated by the pose, that passes near the center of the finding
        middle, normal = np.asarray(body.middle), PLANES[scene.plane][2]
        position = float(middle @ normal + (np.asarray(finding.centre) - middle) @ (body.pose @ normal))
        position += float(rng.uniform(-0.12, 0.12)) * finding.diameter
    image = mri if scene.modality == "MRI" else ct
    return image(body, extra, scene.plane, position, scene.technique, rng)


def locate(scene: Scene) -> tuple[float, float, float] | None:
    """Position of the finding in the image.

    Returns:
        Row, column and diameter of the finding in pixels, or None if there is no finding. The bending of the anatomy
        is ignored, so the position has an error of a few pixels.
    """
    body, finding = _subject(scene, np.random.default_rng(scene.seed))
    if finding is None:
        return None
    row_axis, column_axis, _ = PLANES[{"frontal": "coronal", "lateral": "sagittal"}.get(scene.plane, scene.plane)]
    step = body.fov / SIZE
    offset = np.asarray(finding.centre) - np.asarray(body.middle)
    # Radiographs are rotated only within their plane. For small angles, the full rotation gives the same position.
    offset = body.pose.T @ offset
    return (
        float(offset @ row_axis) / step + (SIZE - 1) / 2,
        float(offset @ column_axis) / step + (SIZE - 1) / 2,
        finding.diameter / step,
    )


def _subject(scene: Scene, rng: np.random.Generator) -> tuple[Body, Finding | None]:
    body = BODIES[scene.region](rng)
    if scene.side is None or scene.size is None:
        return body, None
    return body, place_finding(body, scene.finding, scene.side, scene.size, rng)
