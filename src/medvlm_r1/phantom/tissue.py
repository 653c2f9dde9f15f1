"""Tissues of the phantom, with their physical constants for MRI, CT and X-ray.

T1 and T2 are in milliseconds near 1.5 T, proton density is relative to water, CT numbers are in Hounsfield units, and
the attenuation of X-rays (about 60 keV effective) is relative to water. The values are rounded from textbook ranges.
Findings have enough contrast to distinguish their kinds (masses and rims enhance, as after contrast agent).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WATER_ATTENUATION = 0.0195
"""Linear attenuation of water, 1/mm."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """Physical constants of one tissue.

    Attributes:
        name: Name used by the anatomy.
        t1: Longitudinal relaxation time, ms.
        t2: Transverse relaxation time, ms.
        pd: Proton density relative to water.
        hu: CT number, HU.
        mu: X-ray attenuation relative to water.
        texture: Relative amplitude of the natural grain inside the tissue.
    """

    name: str
    t1: float
    t2: float
    pd: float
    hu: float
    mu: float
    texture: float = 0.04


TISSUES: tuple[Tissue, ...] = (
    Tissue("air", 1.0, 1.0, 0.0, -1000.0, 0.0, 0.0),
    Tissue("skin", 600.0, 35.0, 0.75, 50.0, 1.05),
    Tissue("fat", 260.0, 85.0, 0.95, -100.0, 0.92, 0.06),
    Tissue("muscle", 900.0, 42.0, 0.80, 55.0, 1.05, 0.08),
    Tissue("cortical_bone", 250.0, 2.0, 0.08, 1150.0, 2.6, 0.03),
    Tissue("marrow", 480.0, 62.0, 0.66, 70.0, 1.28, 0.10),
    Tissue("white_matter", 600.0, 76.0, 0.70, 29.0, 1.03, 0.03),
    Tissue("grey_matter", 960.0, 98.0, 0.83, 38.0, 1.04, 0.03),
    Tissue("csf", 4000.0, 1600.0, 1.0, 6.0, 1.0, 0.02),
    Tissue("vessel", 1400.0, 60.0, 0.22, 130.0, 1.07, 0.02),
    Tissue("lung", 1200.0, 25.0, 0.16, -830.0, 0.27, 0.16),
    Tissue("liver", 560.0, 46.0, 0.80, 72.0, 1.06, 0.06),
    Tissue("spleen", 900.0, 78.0, 0.85, 74.0, 1.06, 0.05),
    Tissue("kidney", 820.0, 88.0, 0.86, 120.0, 1.05, 0.04),
    Tissue("kidney_medulla", 1250.0, 120.0, 0.90, 85.0, 1.04, 0.05),
    Tissue("bowel", 950.0, 85.0, 0.80, 38.0, 1.03, 0.14),
    Tissue("cartilage", 1000.0, 44.0, 0.88, 95.0, 1.10, 0.03),
    Tissue("disc", 1000.0, 70.0, 0.72, 80.0, 1.08, 0.05),
    Tissue("tendon", 500.0, 9.0, 0.35, 90.0, 1.08, 0.03),
    Tissue("heart", 950.0, 50.0, 0.78, 75.0, 1.06, 0.05),
    Tissue("dura", 700.0, 30.0, 0.60, 55.0, 1.06, 0.02),
    Tissue("mass", 480.0, 150.0, 0.98, 135.0, 2.2, 0.09),
    Tissue("cyst_wall", 800.0, 32.0, 0.60, 60.0, 1.25, 0.02),
    Tissue("cyst", 3600.0, 1300.0, 1.0, 4.0, 0.30, 0.01),
    Tissue("air_cyst", 3600.0, 1300.0, 1.0, -965.0, 0.02, 0.01),
    Tissue("ring", 440.0, 90.0, 0.98, 150.0, 2.7, 0.04),
    Tissue("necrosis", 2600.0, 320.0, 0.95, 14.0, 1.0, 0.05),
    Tissue("air_necrosis", 2600.0, 320.0, 0.95, -650.0, 0.4, 0.05),
    Tissue("oedema", 1150.0, 160.0, 0.88, 20.0, 1.03, 0.04),
    Tissue("calcium", 300.0, 2.0, 0.03, 650.0, 4.6, 0.02),
)

LABEL: dict[str, int] = {tissue.name: index for index, tissue in enumerate(TISSUES)}


def lookup(attribute: str) -> np.ndarray:
    """One constant of every tissue.

    Args:
        attribute: Field name of `Tissue`.

    Returns:
        float32 array of shape (number of tissues,), indexed by label.
    """
    return np.array([getattr(tissue, attribute) for tissue in TISSUES], dtype=np.float32)
