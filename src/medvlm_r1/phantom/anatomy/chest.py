"""The chest: wall, ribs, lungs with branching vessels, heart, great vessels, airways, spine, upper abdomen."""

from __future__ import annotations

import numpy as np

from medvlm_r1.phantom.anatomy.body import Body, Builder, Site
from medvlm_r1.phantom.geometry import Array, rotation


def chest(rng: np.random.Generator) -> Body:
    """Draws one chest. The origin is the middle of the thorax; x left, y back, z up, mm."""
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
        b.add("lung", (side * 70, 2, 8), (57, 82, 132), "fat", turn=rotation(0, side * 7, 0), jitter=2)
    # Liver dome under the right lung, stomach and spleen under the left.
    b.add("liver", (-48, -2, -134), (92, 78, 62), "lung", jitter=3)
    b.add("spleen", (82, 40, -140), (44, 40, 46), "lung", jitter=3)
    b.add("bowel", (56, -26, -140), (52, 48, 46), "lung", jitter=3)
    b.add("air", (62, -34, -116), (26, 26, 13), "bowel", jitter=4)
    # Heart and great vessels.
    tilt = rotation(0, float(rng.normal(-28, 5)), float(rng.normal(30, 5)))
    b.add("heart", (24, -26, -44), (50, 48, 64), "lung", turn=tilt, jitter=3)
    b.add("vessel", (36, -30, -54), (22, 21, 34), "heart", turn=tilt)
    b.add("vessel", (2, -34, -38), (23, 20, 30), "heart", turn=tilt)
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
    """A rib from the spine round to the front, sloping down. Returns points (n, 3) and radii (n,), mm."""
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
    """Pulmonary vessels that branch from the hilum into the lung."""
    stack = [(np.array([side * 30.0, 10.0, 4.0]), d, 4.6, 0) for d in _directions(rng, side)]
    while stack:
        start, direction, radius, depth = stack.pop()
        length = rng.uniform(24, 38) * 0.86**depth
        end = start + direction * length
        n = max(3, int(length / (radius * 0.6)))
        t = np.linspace(0, 1, n)[:, None]
        points = start + (end - start) * t
        b.curve("vessel", points, np.linspace(radius, radius * 0.75, n), "lung")
        if depth < 2:
            for _ in range(2):
                turned = direction + rng.normal(0, 0.42, 3)
                stack.append((end, turned / np.linalg.norm(turned), radius * 0.66, depth + 1))


def _directions(rng: np.random.Generator, side: int) -> list[Array]:
    out = []
    for vertical in (-1.5, -0.6, 0.5, 1.4):
        d = np.array([side * 1.0, rng.normal(0, 0.5), vertical])
        out.append(d / np.linalg.norm(d))
    return out
