"""The head: scalp, skull, folded cortex, ventricles, deep gray matter, cerebellum, face and neck."""

from __future__ import annotations

import numpy as np

from medvlm_r1.phantom.anatomy.body import Body, Builder, Site
from medvlm_r1.phantom.geometry import Array, Ellipsoid, Waves, rotation
from medvlm_r1.phantom.tissue import LABEL


def head(rng: np.random.Generator) -> Body:
    """Draws one head. The origin is the center of the brain; x left, y back, z up, mm."""
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
        b.add("csf", (side * 11, -22, 12), (5 * swell, 18, 9), "white_matter", turn=rotation(0, 0, side * 14))
        b.add("csf", (side * 13, 6, 17), (6 * swell, 24, 6.5), "white_matter", turn=rotation(0, 0, -side * 8))
        b.add("csf", (side * 21, 34, 8), (5.5 * swell, 17, 7), "white_matter", turn=rotation(0, 0, -side * 16))
        b.add("grey_matter", (side * 10, 4, 3), (7.5, 13, 8.5), "white_matter")
        b.add("grey_matter", (side * 24, -8, 2), (6, 15, 10), "white_matter", turn=rotation(0, 0, side * 12))
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
        name: [Site(low, high, "white_matter")]
        for name, low, high in (
            ("right", (-40.0, -42.0, 4.0), (-25.0, 44.0, 30.0)),
            ("left", (25.0, -42.0, 4.0), (40.0, 44.0, 30.0)),
        )
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
        fold=_Cortex(brain),
    )


class _Cortex:
    """Turns the smooth brain into gyri and sulci: zero lines of the fold field are sulci, their flanks are cortex."""

    def __init__(self, brain: Ellipsoid) -> None:
        self.brain = brain

    def __call__(self, labels: Array, folds: Array, x: Array, y: Array, z: Array) -> None:
        level = self.brain.level(x, y, z)
        # Depth: sulci open towards the surface and end in the white matter.
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
        deep = (np.abs(x) < gap) & tissue & ((level > 0.42) & (z > 0))
        labels[deep] = csf
