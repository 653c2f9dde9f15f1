"""Tissues of the phantom, with their physical constants for MRI, CT and X-ray, from `tissues.csv`.

Columns: relaxation times `t1` and `t2` in milliseconds near 1.5 T, proton density `pd` relative to water, CT number
`hu` in Hounsfield units, X-ray attenuation `mu` (about 60 keV effective) relative to water, and `texture`, the relative
amplitude of the grain. The values are rounded from textbook ranges. Findings have enough contrast to distinguish their
kinds: masses and rims enhance, as after a contrast agent.
"""

import csv
from pathlib import Path

import numpy as np

WATER_ATTENUATION = 0.0195
"""Linear attenuation of water, 1/mm."""

with Path(__file__).with_name("tissues.csv").open(encoding="utf-8", newline="") as _file:
    _ROWS = list(csv.DictReader(_file))

LABEL: dict[str, int] = {row["name"]: index for index, row in enumerate(_ROWS)}
"""Label of each tissue by name: its number in label images."""


def lookup(column: str) -> np.ndarray:
    """Values of one column for all tissues: float32 array of shape (number of tissues,), indexed by label."""
    return np.array([float(row[column]) for row in _ROWS], dtype=np.float32)
