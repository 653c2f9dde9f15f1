"""The abdomen: wall, liver, spleen, kidneys, stomach, pancreas, bowel, great vessels, spine and psoas."""

from __future__ import annotations

import numpy as np

from medvlm_r1.phantom.anatomy.body import Body, Builder, Site
from medvlm_r1.phantom.geometry import Array, Waves, rotation
from medvlm_r1.phantom.tissue import LABEL


def abdomen(rng: np.random.Generator) -> Body:
    """Draws one abdomen. The origin lies in front of the second lumbar vertebra; x left, y back, z up, mm."""
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
    b.add("liver", (-60, -6, 62), (76, 78, 76), "fat", turn=rotation(0, 10, 0), jitter=3)
    b.add("liver", (-4, -38, 70), (68, 38, 44), "fat", turn=rotation(0, 14, 0), jitter=3)
    b.add("vessel", (-44, -8, 66), (34, 4.5, 5), "liver", turn=rotation(0, 18, 24))
    b.add("vessel", (-64, 12, 76), (5, 30, 5), "liver", turn=rotation(16, 0, 30))
    b.add("csf", (-46, -58, 26), (12, 16, 19), "liver", jitter=3)
    b.add("spleen", (90, 24, 58), (44, 54, 58), "fat", turn=rotation(0, -12, 20), jitter=3)  # enlarged
    b.add("bowel", (52, -34, 62), (44, 36, 42), "fat", jitter=4)
    b.add("air", (54, -50, 70), (28, 16, 24), "bowel", jitter=4)
    for side in (-1, 1):
        turn = rotation(0, side * 12, side * 22)
        z = -4.0 if side < 0 else 8.0
        b.add("kidney", (side * 66, 46, z), (29, 26, 56), "fat", turn=turn, jitter=2)
        b.add("kidney_medulla", (side * 64, 45, z), (18, 16, 42), "kidney", turn=turn)
        b.add("fat", (side * 52, 42, z), (15, 10, 20), "kidney_medulla", turn=turn)
        b.add("muscle", (side * 40, 66, -70), (24, 23, 96), "fat", turn=rotation(0, side * 9, 0))
        b.add("muscle", (side * 44, 96, 0), (40, 19, tall), "muscle")
    b.add("bowel", (14, -2, 26), (56, 13, 14), "fat", turn=rotation(0, -16, 0), jitter=3)
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
        b.add("cortical_bone", (side * 92, 40, -176), (56, 46, 62), "muscle", turn=rotation(0, side * 24, 0))
        b.add("marrow", (side * 92, 40, -176), (50, 40, 57), "cortical_bone", turn=rotation(0, side * 24, 0))
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
    """Cuts the bowel block into loops with fat between, gas on top of some."""
    bowel = (labels == LABEL["bowel"]) & (z < 34)
    line = np.abs(folds)
    labels[bowel & (line < 0.28)] = LABEL["fat"]
    labels[bowel & (folds > 1.15) & (y < -30)] = LABEL["air"]
    labels[bowel & (folds < -1.3)] = LABEL["csf"]
