"""The knee: femur, tibia, fibula, patella, cartilage, menisci, ligaments, muscles; right or left."""

from __future__ import annotations

import numpy as np

from medvlm_r1.phantom.anatomy.body import Body, Builder, Site


def knee(rng: np.random.Generator) -> Body:
    """Draws one knee. The origin is the middle of the joint line; x left, y back, z up, mm."""
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
