"""Imaging physics: MRI by the signal equation, CT by HU and window, X-ray by Beer-Lambert."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from medvlm_r1.phantom.anatomy import Body
from medvlm_r1.phantom.geometry import Array, Ellipsoid
from medvlm_r1.phantom.imaging import SIZE, line_integrals, slice_labels
from medvlm_r1.phantom.tissue import TISSUES, lookup

# Repetition, echo and inversion time, ms (inversion 0: plain spin echo). FLAIR's inversion nulls CSF.
SEQUENCES: dict[str, tuple[float, float, float]] = {
    "T1-weighted": (500.0, 12.0, 0.0),
    "T2-weighted": (4500.0, 95.0, 0.0),
    "FLAIR": (9000.0, 110.0, 2400.0),
    "proton density": (2000.0, 16.0, 0.0),
}

# Center and width, HU.
WINDOWS: dict[str, tuple[float, float]] = {
    "brain window": (45.0, 130.0),
    "soft-tissue window": (40.0, 400.0),
    "lung window": (-600.0, 1500.0),
    "bone window": (400.0, 1800.0),
}

_T1, _T2, _PD, _HU = (lookup(name) for name in ("t1", "t2", "pd", "hu"))
_TEXTURE = np.array([tissue.texture for tissue in TISSUES], dtype=np.float32)

# Linear interpolation from an eighth of the resolution, shape (SIZE, SIZE / 8).
_COARSE = np.clip((np.arange(SIZE, dtype=np.float32) + 0.5) / 8 - 0.5, 0, SIZE // 8 - 1)
_UPSAMPLE = np.maximum(1 - np.abs(_COARSE[:, None] - np.arange(SIZE // 8, dtype=np.float32)), 0)


def spin_echo(sequence: str) -> Array:
    """Signal of every tissue by the spin-echo equation, with inversion recovery where the sequence has one.

    S = PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2), and PD (1 - exp(-TR/T1)) exp(-TE/T2) without inversion.

    Returns:
        float32 array of shape (number of tissues,).
    """
    tr, te, ti = SEQUENCES[sequence]
    recovery = 1 - np.exp(-tr / _T1)
    if ti:
        recovery = np.abs(1 - 2 * np.exp(-ti / _T1) + np.exp(-tr / _T1))
    signal: Array = (_PD * recovery * np.exp(-te / _T2)).astype(np.float32)
    return signal


def mri(
    body: Body, extra: Sequence[Ellipsoid], plane: str, position: float, sequence: str, rng: np.random.Generator
) -> Array:
    """An MR image: signal equation, point spread, coil bias and Rician noise. Returns uint8 (SIZE, SIZE)."""
    labels, grain = slice_labels(body, extra, plane, position)
    signal = spin_echo(sequence)[labels] * (1 + _TEXTURE[labels] * grain)
    signal = gaussian_filter(signal, rng.uniform(0.7, 1.0), truncate=2.5)
    axis = np.linspace(-1, 1, SIZE, dtype=np.float32)
    a, b, c, d, e = rng.normal(0, 0.10, 5).astype(np.float32)
    bias = np.exp(a * axis[:, None] + b * axis[None, :] + c * axis[:, None] * axis[None, :])
    bias *= np.exp(d * axis[:, None] ** 2 + e * axis[None, :] ** 2)
    signal = signal * bias
    # The display maximum ignores the brightest thousandth, as a viewer's percentile window does.
    top = float(np.partition(signal[::4, ::4].ravel(), -8)[-8])
    sigma = np.float32(top * rng.uniform(0.012, 0.035))
    noise = rng.standard_normal((2, SIZE, SIZE), dtype=np.float32) * sigma
    magnitude = np.sqrt((signal + noise[0]) ** 2 + noise[1] ** 2)
    return _to_8bit(magnitude / np.float32(top * rng.uniform(0.88, 1.05)))


def ct(
    body: Body, extra: Sequence[Ellipsoid], plane: str, position: float, window: str, rng: np.random.Generator
) -> Array:
    """A CT image: HU with grain and reconstruction noise, seen through a window. Returns uint8 (SIZE, SIZE)."""
    labels, grain = slice_labels(body, extra, plane, position)
    hu = _HU[labels] + 90 * _TEXTURE[labels] * grain
    hu = gaussian_filter(hu, rng.uniform(0.6, 0.9), truncate=2.5)
    centre, width = WINDOWS[window]
    level = rng.uniform(3.0, 6.5) if window == "brain window" else rng.uniform(9.0, 22.0)
    noise = gaussian_filter(rng.standard_normal((SIZE, SIZE), dtype=np.float32), 0.8, truncate=2)
    hu += noise * np.float32(level / 0.35)
    centre += rng.normal(0, 0.02) * width
    return _to_8bit((hu - centre) / np.float32(width) + np.float32(0.5))


def xray(body: Body, extra: Sequence[Ellipsoid], view: str, rng: np.random.Generator) -> Array:
    """A radiograph: Beer-Lambert, scatter, quantum noise, logarithmic display. Returns uint8 (SIZE, SIZE)."""
    integral = line_integrals(body, extra, view)
    primary = np.exp(-integral)
    fraction = np.float32(rng.uniform(0.10, 0.22))
    # Scatter comes from the patient and not from the open beam, so it follows the attenuation of the surroundings; an
    # eighth of the resolution holds it.
    transmitted = (1 - fraction) * primary + fraction * np.exp(-_smooth(integral, 3.0))
    photons = 10 ** rng.uniform(5.0, 5.6)
    # Poisson counts this large are normal to within a per cent.
    counts = transmitted * photons
    counts += np.sqrt(counts) * rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    density = -np.log(np.maximum(counts, 1) / photons)
    density = gaussian_filter(density, rng.uniform(0.5, 0.8), truncate=2.5)
    # Dynamic range compression, as digital radiography displays do: three quarters of the coarse shading go.
    density -= np.float32(0.75) * _smooth(density, 3.0)
    sample = np.sort(density[::4, ::4][integral[::4, ::4] > 0.05])
    low, high = (sample[int(q * (len(sample) - 1))] for q in (0.02, 0.997))
    shade = np.clip((density - low) / max(high - low, 1e-3), 0, 1.2)
    return _to_8bit(shade ** np.float32(rng.uniform(0.9, 1.15)))


def _smooth(image: Array, sigma: float) -> Array:
    """Heavy Gaussian blur by way of an eighth of the resolution; sigma in coarse pixels."""
    coarse = gaussian_filter(image.reshape(SIZE // 8, 8, SIZE // 8, 8).mean(axis=(1, 3)), sigma)
    smooth: Array = _UPSAMPLE @ coarse @ _UPSAMPLE.T
    return smooth


def _to_8bit(unit: Array) -> Array:
    return (np.clip(unit, 0, 1) * 255 + 0.5).astype(np.uint8)
