"""Anatomy of the phantom: head, chest, abdomen and knee, drawn at random for each subject."""

from collections.abc import Callable
from functools import partial

import numpy as np

from medvlm_r1.phantom.body import LABEL, Array, Body, Builder, Ellipsoid, Site, Waves, rotation


def head(rng: np.random.Generator) -> Body:
    """Draw a random head. Coordinates are LPS in mm, with the origin near the center of the brain."""
    b = Builder(rng)
    width, length, height = rng.normal(68, 2.5), rng.normal(84, 3), rng.normal(66, 2)
    scalp, skull = rng.uniform(4, 7), rng.uniform(5, 8)

    def vault(grow: float) -> tuple[float, float, float]:
        return (width + grow, length + grow, height + grow)

    # Neck and face lie below the vault.
    b.add("skin", (0, 10, -132), (58, 60, 110), "air")
    b.add("skin", (0, -36, -66), (57, 50, 66), "air")
    b.add("fat", (0, 10, -132), (55, 57, 107), "skin")
    b.add("fat", (0, -36, -66), (54, 47, 63), "skin")
    b.add("muscle", (0, 12, -132), (49, 50, 104), "fat")
    b.add("muscle", (0, -30, -70), (47, 45, 56), "fat")
    b.add("skin", (0, 0, 0), vault(skull + scalp + 2), "air", exact=True)
    b.add("fat", (0, 0, 0), vault(skull + scalp), "skin", exact=True)
    b.add("cortical_bone", (0, 0, 0), vault(skull), "fat", exact=True)
    b.add("marrow", (0, 0, 0), vault(skull * 0.68), "cortical_bone", exact=True)
    b.add("cortical_bone", (0, 0, 0), vault(skull * 0.32), "marrow", exact=True)
    b.add("csf", (0, 0, 0), vault(0), "cortical_bone", exact=True)
    brain = b.add("grey_matter", (0, 0, 2), (width - 2.5, length - 3, height - 3), "csf", exact=True)
    for side in (-1, 1):  # cortical ribbon: white matter of each hemisphere
        b.add("white_matter", (side * width * 0.46, 0, 4), (width * 0.44, length * 0.84, height * 0.78), "grey_matter")
    b.add("white_matter", (0, 0, 10), (14, 30, 9), "grey_matter")
    # Posterior fossa.
    for side in (-1, 1):
        b.add("grey_matter", (side * 21, 48, -44), (26, 24, 19), "grey_matter")
        b.add("white_matter", (side * 18, 46, -43), (13, 11, 8), "grey_matter")
    b.add("white_matter", (0, 20, -38), (13, 14, 22), "grey_matter")
    b.add("white_matter", (0, 26, -68), (8, 8, 24), "grey_matter")
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
    b.add("csf", (0, 33, -40), (5, 4, 8), "white_matter")
    # Orbits, sinuses, nose, jaw.
    for side in (-1, 1):
        b.add("fat", (side * 32, -70, -34), (17, 19, 15), "muscle")
        b.add("csf", (side * 32, -74, -34), (11.5, 11.5, 11.5), "fat")
        b.add("air", (side * 26, -62, -62), (12, 14, 14), "muscle")
        b.add("cortical_bone", (side * 44, -44, -88), (7, 26, 22), "muscle")
        b.add("marrow", (side * 44, -44, -88), (4, 22, 18), "cortical_bone")
    b.add("air", (0, -66, -50), (9, 22, 17), "muscle")
    b.add("air", (0, -30, -76), (9, 16, 24), "muscle")
    b.add("air", (0, -14, -104), (8, 7, 26), "muscle")
    b.add("cortical_bone", (0, -66, -84), (26, 18, 8), "muscle")
    # Cervical spine.
    for level in range(4):
        b.add("cortical_bone", (0, 22, -76 - 19 * level), (13, 11, 8.6), "muscle")
        b.add("marrow", (0, 22, -76 - 19 * level), (11, 9, 7), "cortical_bone")
    b.tube("csf", (0, 42, -66), (0, 44, -150), 7, "muscle")
    b.tube("white_matter", (0, 42, -62), (0, 44, -150), 4, "csf")
    b.tube("dura", (0, -length * 0.96, 8), (0, length * 0.9, 20), 1.1, "csf")

    sites = {
        "right": [Site((-40, -42, 4), (-25, 44, 30), "white_matter")],
        "left": [Site((25, -42, 4), (40, 44, 30), "white_matter")],
    }
    return b.finish(
        "head",
        fov=222,
        middle=(0.0, 0.0, -20.0),
        sites=sites,
        slices={"axial": (-8, 40), "coronal": (-40, 44), "sagittal": (-34, 34)},
        warp_mm=1.7,
        warp_wavelength=100,
        folds=Waves.draw(rng, 48, 19, 0.25),
        fold=partial(_cortex, brain),
    )


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
    for side in (-1, 1):  # shoulders and arms
        b.add("muscle", (side * 150, 10, 130), (52, 48, 60), "fat")
        b.add("cortical_bone", (side * 158, 8, 124), (24, 23, 24), "muscle")
        b.add("marrow", (side * 158, 8, 124), (20, 19, 20), "cortical_bone")
    b.add("fat", (0, -6, 0), (width * 0.86, depth * 0.84, tall * 0.74), "muscle", exact=True)
    for side in (-1, 1):
        b.add("lung", (side * 70, 2, 8), (57, 82, 132), "fat", tilt=rotation(0, side * 7, 0), jitter=2)
    # Liver dome under the right lung, stomach and spleen under the left.
    b.add("liver", (-48, -2, -134), (92, 78, 62), "lung", jitter=3)
    b.add("spleen", (82, 40, -140), (44, 40, 46), "lung", jitter=3)
    b.add("bowel", (56, -26, -140), (52, 48, 46), "lung", jitter=3)
    b.add("air", (62, -34, -116), (26, 26, 13), "bowel", jitter=4)
    # Heart and great vessels.
    tilt = rotation(0, float(rng.normal(-28, 5)), float(rng.normal(30, 5)))
    b.add("heart", (24, -26, -44), (50, 48, 64), "lung", tilt=tilt, jitter=3)
    b.add("vessel", (36, -30, -54), (22, 21, 34), "heart", tilt=tilt)
    b.add("vessel", (2, -34, -38), (23, 20, 30), "heart", tilt=tilt)
    b.add("vessel", (10, -8, -8), (26, 18, 20), "heart")
    b.add("fat", (0, -2, 62), (30, 42, 62), "lung", jitter=2)
    b.add("vessel", (9, -6, 48), (25, 34, 14), "fat")
    b.tube("vessel", (-12, -24, 40), (-10, -16, 4), 15, "fat")
    b.tube("vessel", (20, 38, 46), (14, 46, -160), 12, "fat")
    b.tube("vessel", (-24, -14, 100), (-22, -10, 10), 9, "fat")
    b.tube("air", (0, 14, 150), (0, 18, 34), 8.5, "fat")
    for side in (-1, 1):
        b.tube("air", (0, 18, 34), (side * 34, 22, 6), 6.5, "fat")
        b.tube("muscle", (side * 4, 32, 120), (side * 3, 36, -120), 4, "fat")
    # Spine: bodies, discs, canal, spinous processes.
    for level in range(-8, 8):
        z = level * 25.0 + rng.normal(0, 0.6)
        b.add("cortical_bone", (0, 72, z), (18, 15, 11.6), "muscle", jitter=0.4)
        b.add("marrow", (0, 72, z), (16.4, 13.4, 10.2), "cortical_bone", jitter=0.4)
        b.add("cortical_bone", (0, 100, z - 6), (5, 16, 7), "muscle", jitter=0.5)
    b.tube("csf", (0, 90, 190), (0, 90, -210), 7.5, "muscle")
    b.tube("white_matter", (0, 90, 190), (0, 90, -210), 4.2, "csf")
    b.tube("marrow", (0, -depth * 0.93, 84), (0, -depth * 0.97, -50), 8, "muscle", core="marrow")
    for side in (-1, 1):
        b.tube("cortical_bone", (side * 12, -78, 122), (side * 140, -20, 138), 6, "muscle", core="marrow")
        b.curve("cortical_bone", *_scapula(side), "muscle")
    for level in range(10):
        for side in (-1, 1):
            b.curve("cortical_bone", *_rib(rng, side, level, width, depth), "muscle", core="marrow")
    for side in (-1, 1):
        _vessel_tree(b, rng, side)
    sites = {
        "right": [Site((-100, -28, -22), (-62, 34, 72), "lung")],
        "left": [Site((66, -18, 10), (100, 40, 76), "lung")],
    }
    return b.finish(
        "chest",
        fov=372,
        sites=sites,
        slices={"axial": (-60, 70), "coronal": (-30, 40), "sagittal": (-84, 84)},
        warp_mm=3.0,
        warp_wavelength=150,
        tilt=2.5,
    )


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
    b.add("bowel", (0, -34, -60), (112, 48, 92), "fat")  # folded into loops below
    # Lung bases.
    for side in (-1, 1):
        b.add("lung", (side * 74, 14, 146), (58, 72, 52), "fat")
    b.add("liver", (-60, -6, 62), (76, 78, 76), "fat", tilt=rotation(0, 10, 0), jitter=3)
    b.add("liver", (-4, -38, 70), (68, 38, 44), "fat", tilt=rotation(0, 14, 0), jitter=3)
    b.add("vessel", (-44, -8, 66), (34, 4.5, 5), "liver", tilt=rotation(0, 18, 24))
    b.add("vessel", (-64, 12, 76), (5, 30, 5), "liver", tilt=rotation(16, 0, 30))
    b.add("csf", (-46, -58, 26), (12, 16, 19), "liver", jitter=3)
    b.add("spleen", (90, 24, 58), (44, 54, 58), "fat", tilt=rotation(0, -12, 20), jitter=3)  # enlarged
    b.add("bowel", (52, -34, 62), (44, 36, 42), "fat", jitter=4)
    b.add("air", (54, -50, 70), (28, 16, 24), "bowel", jitter=4)
    for side in (-1, 1):
        tilt = rotation(0, side * 12, side * 22)
        z = -4.0 if side < 0 else 8.0
        b.add("kidney", (side * 66, 46, z), (29, 26, 56), "fat", tilt=tilt, jitter=2)
        b.add("kidney_medulla", (side * 64, 45, z), (18, 16, 42), "kidney", tilt=tilt)
        b.add("fat", (side * 52, 42, z), (15, 10, 20), "kidney_medulla", tilt=tilt)
        b.add("muscle", (side * 40, 66, -70), (24, 23, 96), "fat", tilt=rotation(0, side * 9, 0))
        b.add("muscle", (side * 44, 96, 0), (40, 19, tall), "muscle")
    b.add("bowel", (14, -2, 26), (56, 13, 14), "fat", tilt=rotation(0, -16, 0), jitter=3)
    for level in range(-7, 7):
        z = level * 33.0 + rng.normal(0, 1)
        b.add("cortical_bone", (0, 62, z), (23, 18, 14.5), "muscle", jitter=0.5)
        b.add("marrow", (0, 62, z), (21.2, 16.2, 12.9), "cortical_bone", jitter=0.4)
        b.add("disc", (0, 62, z + 16.5), (21, 17, 4.0), "muscle", jitter=0.5)
        b.add("cortical_bone", (0, 98, z - 8), (5, 16, 10), "muscle", jitter=0.5)
        for side in (-1, 1):
            b.add("cortical_bone", (side * 26, 80, z), (16, 5, 5), "muscle", jitter=1)
    b.tube("csf", (0, 85, 220), (0, 85, -220), 9, "muscle")
    b.tube("vessel", (8, 34, 200), (8, 34, -110), 10.5, "fat")
    b.tube("vessel", (-20, 32, 200), (-18, 34, -110), 11.5, "fat")
    for side in (-1, 1):
        b.tube("vessel", (side * 10, 36, 10), (side * 46, 42, 2), 4.5, "fat")
        b.add("cortical_bone", (side * 92, 40, -176), (56, 46, 62), "muscle", tilt=rotation(0, side * 24, 0))
        b.add("marrow", (side * 92, 40, -176), (50, 40, 57), "cortical_bone", tilt=rotation(0, side * 24, 0))
        for level in range(3):
            t = np.linspace(0.1, 0.62, 70)
            a = np.pi * t
            x, y = side * (width - 6) * np.sin(a), (depth - 8) * np.cos(a)
            points = np.stack([x, y, 128 - 34 * level - 62 * t], axis=1)
            b.curve("cortical_bone", points, np.full(len(t), 5.0), "muscle", core="marrow")

    sites = {
        "right": [Site((-86, -16, 40), (-50, 26, 84), "liver")],
        "left": [Site((74, 4, 38), (98, 40, 78), "spleen")],
    }
    return b.finish(
        "abdomen",
        fov=368,
        sites=sites,
        slices={"axial": (-30, 96), "coronal": (-36, 52), "sagittal": (-90, 90)},
        warp_mm=3.4,
        warp_wavelength=130,
        folds=Waves.draw(rng, 40, 62, 0.3),
        fold=_loops,
        tilt=2.5,
    )


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
    for x, y, r in ((-30.0, 20, 21), (30, 20, 21), (0, -32, 24), (-34, -8, 17), (34, -8, 17)):
        b.add("muscle", (x, y, 92), (r, r, 82), "fat", jitter=2)
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
    for side in (-1, 1):
        b.add("tendon", (side * 33, 3, 0), (7, 18, 3.2), "cartilage")
        b.tube("tendon", (side * 45, 4, 26), (side * 42, 2, -28), 2.4, "fat")
    b.tube("tendon", (6, 14, 14), (-4, -4, -8), 4, "fat")
    b.tube("tendon", (-6, 16, 10), (4, 22, -12), 4.5, "fat")
    b.add("csf", (0, -34, 34), (16, 4, 14), "fat")
    b.add("cortical_bone", (0, -45, 22), (21, 10.5, 21), "fat")
    b.add("marrow", (0, -45, 22), (19, 8.6, 19), "cortical_bone")
    b.tube("tendon", (0, -50, 2), (0, -34, -42), 4.2, "fat")
    b.tube("tendon", (0, -50, 40), (0, -42, 96), 4.6, "fat")
    sites = {
        "right": [Site((-26, -6, 22), (-17, 8, 34), "marrow"), Site((-22, -5, -30), (-15, 7, -22), "marrow")],
        "left": [Site((17, -6, 22), (26, 8, 34), "marrow"), Site((15, -5, -30), (22, 7, -22), "marrow")],
    }
    return b.finish(
        "knee",
        fov=158,
        sites=sites,
        slices={"axial": (14, 34), "coronal": (-8, 12), "sagittal": (-25, 25)},
        warp_mm=1.8,
        warp_wavelength=60,
        tilt=3.5,
    )


BODIES: dict[str, Callable[[np.random.Generator], Body]] = {
    body.__name__: body for body in (head, chest, abdomen, knee)
}
