"""Anatomy of the phantom: head, chest, abdomen and knee, drawn at random for each subject.

`anatomy.tsv` has the shapes of fixed size by part, and `regions.yaml` the constants of each body.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from medvlm_r1.phantom.body import LABEL, REGIONS, Array, Body, Builder, Ellipsoid, Waves, rotation


def head(rng: np.random.Generator) -> Body:
    """Draw a random head. Coordinates are LPS in mm, with the origin near the center of the brain."""
    b = Builder(rng)
    width, length, height = rng.normal(68, 2.5), rng.normal(84, 3), rng.normal(66, 2)
    scalp, skull = rng.uniform(4, 7), rng.uniform(5, 8)

    def vault(grow: float) -> tuple[float, float, float]:
        return (width + grow, length + grow, height + grow)

    b.table("neck and face")
    b.add("skin", (0, 0, 0), vault(skull + scalp + 2), "air", exact=True)
    b.add("fat", (0, 0, 0), vault(skull + scalp), "skin", exact=True)
    b.add("cortical_bone", (0, 0, 0), vault(skull), "fat", exact=True)
    b.add("marrow", (0, 0, 0), vault(skull * 0.68), "cortical_bone", exact=True)
    b.add("cortical_bone", (0, 0, 0), vault(skull * 0.32), "marrow", exact=True)
    b.add("csf", (0, 0, 0), vault(0), "cortical_bone", exact=True)
    brain = b.add("grey_matter", (0, 0, 2), (width - 2.5, length - 3, height - 3), "csf", exact=True)
    for side in (-1, 1):  # cortical ribbon: white matter of each hemisphere
        b.add("white_matter", (side * width * 0.46, 0, 4), (width * 0.44, length * 0.84, height * 0.78), "grey_matter")
    b.table("base of the brain")
    # Lateral ventricles: frontal horn, body, occipital horn; third and fourth ventricle.
    swell = rng.uniform(0.75, 1.35)
    for side in (-1, 1):
        b.add("csf", (side * 11, -22, 12), (5 * swell, 18, 9), "white_matter", tilt=rotation(0, 0, side * 14))
        b.add("csf", (side * 13, 6, 17), (6 * swell, 24, 6.5), "white_matter", tilt=rotation(0, 0, -side * 8))
        b.add("csf", (side * 21, 34, 8), (5.5 * swell, 17, 7), "white_matter", tilt=rotation(0, 0, -side * 16))
        b.add("grey_matter", (side * 10, 4, 3), (7.5, 13, 8.5), "white_matter")
        b.add("grey_matter", (side * 24, -8, 2), (6, 15, 10), "white_matter", tilt=rotation(0, 0, side * 12))
        b.add("grey_matter", (side * 15, -22, 8), (4, 8, 8), "white_matter")
    b.add("csf", (0, 3, 0), (2.2 * swell, 13, 9), "grey_matter")
    b.table("orbits, nose and jaw")
    # Cervical spine.
    for level in range(4):
        b.table("cervical vertebra", z=-19 * level)
    b.table("spinal canal")
    b.tube("dura", (0, -length * 0.96, 8), (0, length * 0.9, 20), 1.1, "csf")
    return b.finish("head", **REGIONS["head"], folds=Waves.draw(rng, 48, 19, 0.25), fold=partial(_cortex, brain))


def _cortex(brain: Ellipsoid, labels: Array, folds: Array, x: Array, y: Array, z: Array) -> None:
    """Repaint the smooth brain with gyri and sulci. Sulci, lined with cortex, follow the zeros of the fold field."""
    level = brain.level(x, y, z)
    # Sulci are widest at the surface and end in the white matter.
    near = np.clip((np.sqrt(level) - 0.66) / 0.34, 0, 1)
    grey, white, csf = LABEL["grey_matter"], LABEL["white_matter"], LABEL["csf"]
    tissue = (labels == grey) | (labels == white)
    line = np.abs(folds)
    cortex = tissue & (near > 0)
    labels[cortex & (line > 0.16 + 0.95 * (near > 0.86) + 0.5 * near) & (near < 0.9)] = white
    labels[cortex & (line < 0.16 + 0.5 * near) & (near > 0.05)] = grey
    labels[cortex & (line < 0.13 * near) & (near > 0.3)] = csf
    # The interhemispheric fissure.
    gap = 1.0 + 1.2 * np.clip((np.sqrt(level) - 0.75) / 0.25, 0, 1)
    labels[(np.abs(x) < gap) & tissue & (level > 0.42) & (z > 0)] = csf


def chest(rng: np.random.Generator) -> Body:
    """Draw a random chest. Coordinates are LPS in mm, with the origin in the middle of the thorax."""
    b = Builder(rng, spread=0.035)
    width, depth = rng.normal(160, 7), rng.normal(108, 6)
    fat = rng.uniform(8, 18)
    tall = 260.0
    b.add("skin", (0, 0, -20), (width + fat + 3, depth + fat + 3, tall + 6), "air", exact=True)
    b.add("fat", (0, 0, -20), (width + fat, depth + fat, tall), "skin", exact=True)
    b.add("muscle", (0, 0, -20), (width, depth, tall - 6), "fat", exact=True)
    b.table("arms")
    b.add("fat", (0, -6, 0), (width * 0.86, depth * 0.84, tall * 0.74), "muscle", exact=True)
    b.table("lungs and upper abdomen")
    # Heart and great vessels.
    tilt = rotation(0, float(rng.normal(-28, 5)), float(rng.normal(30, 5)))
    b.add("heart", (24, -26, -44), (50, 48, 64), "lung", tilt=tilt, jitter=3)
    b.add("vessel", (36, -30, -54), (22, 21, 34), "heart", tilt=tilt)
    b.add("vessel", (2, -34, -38), (23, 20, 30), "heart", tilt=tilt)
    b.table("mediastinum")
    # Spine: bodies, discs, canal, spinous processes.
    for level in range(-8, 8):
        b.table("thoracic vertebra", z=level * 25.0 + rng.normal(0, 0.6))
    b.table("thoracic canal")
    b.tube("marrow", (0, -depth * 0.93, 84), (0, -depth * 0.97, -50), 8, "muscle", core="marrow")
    for side in (-1, 1):
        b.tube("cortical_bone", (side * 12, -78, 122), (side * 140, -20, 138), 6, "muscle", core="marrow")
        b.curve("cortical_bone", *_scapula(side), "muscle")
    for level in range(10):
        for side in (-1, 1):
            b.curve("cortical_bone", *_rib(rng, side, level, width, depth), "muscle", core="marrow")
    for side in (-1, 1):
        _vessel_tree(b, rng, side)
    return b.finish("chest", **REGIONS["chest"])


def _rib(rng: np.random.Generator, side: int, level: int, width: float, depth: float) -> tuple[Array, Array]:
    """Rib that slopes down from the spine around to the front. Returns bead centers (n, 3) and radii (n,), mm."""
    t = np.linspace(0.06, 0.86, 110)
    angle = np.pi * t
    shrink = 1.0 - 0.012 * (level - 5) ** 2 - (0.16 if level == 0 else 0.0)
    slope = 58 + rng.normal(0, 3)
    x = side * width * 0.91 * shrink * np.sin(angle)
    y = depth * 0.86 * shrink * np.cos(angle) + 4
    z = 132 - 27.0 * level - slope * t + 14 * np.sin(angle) + rng.normal(0, 0.8)
    return np.stack([x, y, z], axis=1), np.full(len(t), 5.0 + rng.normal(0, 0.2))


def _scapula(side: int) -> tuple[Array, Array]:
    t = np.linspace(0, 1, 50)
    x, y, z = side * (104 + 34 * t), 84 - 26 * t, -10 + 120 * t
    return np.stack([x, y, z], axis=1), np.full(len(t), 4.0)


def _vessel_tree(b: Builder, rng: np.random.Generator, side: int) -> None:
    """Add pulmonary vessels that branch from the hilum into the lung."""
    stack = []
    for vertical in (-1.5, -0.6, 0.5, 1.4):
        direction = np.array([side * 1.0, rng.normal(0, 0.5), vertical])
        stack.append((np.array([side * 30.0, 10.0, 4.0]), direction / np.linalg.norm(direction), 4.6, 0))
    while stack:
        start, direction, radius, depth = stack.pop()
        length = rng.uniform(24, 38) * 0.86**depth
        end = start + direction * length
        n = max(3, int(length / (radius * 0.6)))
        points = start + (end - start) * np.linspace(0, 1, n)[:, None]
        b.curve("vessel", points, np.linspace(radius, radius * 0.75, n), "lung")
        if depth < 2:
            for _ in range(2):
                turned = direction + rng.normal(0, 0.42, 3)
                stack.append((end, turned / np.linalg.norm(turned), radius * 0.66, depth + 1))


def abdomen(rng: np.random.Generator) -> Body:
    """Draw a random abdomen. Coordinates are LPS in mm, with the origin in front of the second lumbar vertebra."""
    b = Builder(rng, spread=0.045)
    width, depth = rng.normal(150, 7), rng.normal(100, 6)
    fat = rng.uniform(9, 24)
    tall = 300.0
    b.add("skin", (0, 0, 0), (width + fat + 3, depth + fat + 3, tall + 6), "air", exact=True)
    b.add("fat", (0, 0, 0), (width + fat, depth + fat, tall), "skin", exact=True)
    b.add("muscle", (0, 0, 0), (width, depth, tall), "fat", exact=True)
    b.add("fat", (0, -6, 0), (width - 13, depth - 16, tall), "muscle", exact=True)
    b.table("upper organs")
    b.table("kidneys and muscles")
    for level in range(-7, 7):
        b.table("lumbar vertebra", z=level * 33.0 + rng.normal(0, 1))
    b.table("lumbar canal and vessels")
    for side in (-1, 1):
        b.tube("vessel", (side * 10, 36, 10), (side * 46, 42, 2), 4.5, "fat")
        for level in range(3):
            t = np.linspace(0.1, 0.62, 70)
            a = np.pi * t
            x, y = side * (width - 6) * np.sin(a), (depth - 8) * np.cos(a)
            points = np.stack([x, y, 128 - 34 * level - 62 * t], axis=1)
            b.curve("cortical_bone", points, np.full(len(t), 5.0), "muscle", core="marrow")
    return b.finish("abdomen", **REGIONS["abdomen"], folds=Waves.draw(rng, 40, 62, 0.3), fold=_loops)


def _loops(labels: Array, folds: Array, x: Array, y: Array, z: Array) -> None:
    """Cut the bowel block into loops: fat between the loops, gas or fluid in some of them."""
    bowel = (labels == LABEL["bowel"]) & (z < 34)
    labels[bowel & (np.abs(folds) < 0.28)] = LABEL["fat"]
    labels[bowel & (folds > 1.15) & (y < -30)] = LABEL["air"]
    labels[bowel & (folds < -1.3)] = LABEL["csf"]


def knee(rng: np.random.Generator) -> Body:
    """Draw a random knee. Coordinates are LPS in mm, with the origin in the middle of the joint line."""
    b = Builder(rng, spread=0.05)
    lateral = float(rng.choice([-1, 1]))
    fat = rng.uniform(4, 11)
    for z, length in ((70, 120), (-74, 116)):
        b.add("skin", (0, 6, z), (56 + fat, 58 + fat, length + 22), "air")
    b.add("skin", (0, 0, 0), (57 + fat, 58 + fat, 78), "air")
    for z, length in ((70, 120), (-74, 116)):
        b.add("fat", (0, 6, z), (53 + fat, 55 + fat, length + 20), "skin")
    b.add("fat", (0, 0, 0), (54 + fat, 55 + fat, 76), "skin")
    # Muscle bellies with fat between them.
    b.table("thigh")
    for x, y, r in ((-20, 38, 19), (20, 38, 19), (lateral * 32, 4, 14), (-lateral * 30, 10, 11)):
        b.add("muscle", (x, y, -86), (r, r, 80), "fat", jitter=2)
    b.add("vessel", (6, 46, 0), (5, 5, 150), "fat")
    # Femur: shaft and condyles; cortex, cartilage, marrow.
    for tissue, grow, inside in (
        ("cartilage", 3.0, "fat"),
        ("cortical_bone", 0.6, "cartilage"),
        ("marrow", -1.4, "cortical_bone"),
    ):
        for side in (-1, 1):
            b.add(tissue, (side * 20, 4, 23), (21 + grow, 29 + grow, 21 + grow), inside, exact=True)
        b.add(tissue, (0, -8, 26), (24 + grow, 18 + grow, 18 + grow), inside, exact=True)
        if tissue != "cartilage":
            b.add(tissue, (0, -4, 48), (27 + grow, 21 + grow, 30 + grow), inside, exact=True)
            b.add(tissue, (0, -4, 118), (15 + 2 * grow, 15 + 2 * grow, 86 + grow), inside, exact=True)
    b.add("fat", (0, 24, 14), (7, 15, 13), "marrow")  # intercondylar notch
    # Tibia and fibula.
    for tissue, grow, inside in (
        ("cartilage", 2.6, "fat"),
        ("cortical_bone", 0.6, "cartilage"),
        ("marrow", -1.4, "cortical_bone"),
    ):
        for side in (-1, 1):
            b.add(tissue, (side * 18, 3, -15), (22 + grow, 25 + grow, 11 + grow), inside, exact=True)
        if tissue != "cartilage":
            b.add(tissue, (0, 1, -30), (31 + grow, 24 + grow, 25 + grow), inside, exact=True)
            b.add(tissue, (0, -1, -110), (14 + 2 * grow, 15 + 2 * grow, 92 + grow), inside, exact=True)
    b.add("cortical_bone", (lateral * 37, 20, -38), (9.5, 10, 14), "muscle")
    b.add("marrow", (lateral * 37, 20, -38), (7.5, 8, 12), "cortical_bone")
    b.tube("cortical_bone", (lateral * 37, 20, -46), (lateral * 34, 18, -150), 5.6, "muscle", core="marrow")
    # Joint: fluid line, menisci, cruciates; extensor mechanism.
    b.table("joint")
    return b.finish("knee", **REGIONS["knee"])


BODIES: dict[str, Callable[[np.random.Generator], Body]] = {
    body.__name__: body for body in (head, chest, abdomen, knee)
}
