"""Simulated imaging: MRI by the signal equation, CT by HU and window, X-ray by the Beer-Lambert law.

MRI and CT use the tissue labels on a plane through the body. X-ray integrates the attenuation along rays.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from medvlm_r1.disk import read_table
from medvlm_r1.phantom.body import LABEL, WATER_ATTENUATION, Array, Body, Curve, Ellipsoid, lookup

SIZE = 224
"""Side length of every image, pixels."""

# (row axis, column axis, normal). Radiological convention: the patient's right is on the left of the image.
PLANES: dict[str, tuple[Array, Array, Array]] = {
    "axial": (np.array([0.0, 1, 0]), np.array([1.0, 0, 0]), np.array([0.0, 0, 1])),
    "coronal": (np.array([0.0, 0, -1]), np.array([1.0, 0, 0]), np.array([0.0, 1, 0])),
    "sagittal": (np.array([0.0, 0, -1]), np.array([0.0, 1, 0]), np.array([1.0, 0, 0])),
}

# Repetition, echo and inversion time, ms. Inversion time 0 is a plain spin echo. The inversion of FLAIR nulls CSF.
SEQUENCES = {name: tuple(map(float, times)) for name, *times in read_table(Path(__file__).with_name("sequences.tsv"))}
# Center and width, HU.
WINDOWS = {name: tuple(map(float, ends)) for name, *ends in read_table(Path(__file__).with_name("windows.tsv"))}

_T1, _T2, _PD, _HU, _MU, _TEXTURE = (lookup(name) for name in ("t1", "t2", "pd", "hu", "mu", "texture"))

# Matrix of linear upsampling from an eighth of the resolution, shape (SIZE, SIZE / 8).
_COARSE = np.clip((np.arange(SIZE, dtype=np.float32) + 0.5) / 8 - 0.5, 0, SIZE // 8 - 1)
_UPSAMPLE = np.maximum(1 - np.abs(_COARSE[:, None] - np.arange(SIZE // 8, dtype=np.float32)), 0)

# Tissues that differ so much from their surroundings that the part of a shape outside them is computed separately.
_PARTIAL = frozenset({LABEL["lung"]})


def slice_labels(body: Body, extra: Sequence[Ellipsoid], plane: str, position: float) -> tuple[Array, Array]:
    """Compute the tissue labels and the grain on a plane through the body.

    Args:
        body: The body.
        extra: Shapes of a finding, painted last.
        plane: Key of `PLANES`.
        position: Offset of the plane along its normal in patient coordinates, mm.

    Returns:
        Tissue labels, uint8 (SIZE, SIZE), and values of the grain field, float32 (SIZE, SIZE).
    """
    row_axis, column_axis, normal = PLANES[plane]
    step = body.fov / SIZE
    offsets = (np.arange(SIZE) - (SIZE - 1) / 2) * step
    middle = np.asarray(body.middle)
    origin = middle + normal * (position - middle @ normal)
    # The patient is rotated in the scanner. In patient coordinates, the plane is rotated about the middle instead.
    origin = middle + body.pose @ (origin - middle)
    row_axis, column_axis = body.pose @ row_axis, body.pose @ column_axis
    grid = (origin, offsets, offsets, row_axis, column_axis)
    down, across = offsets[:, None], offsets[None, :]
    coords = []
    for axis in range(3):
        plain = (origin[axis] + down * row_axis[axis] + across * column_axis[axis]).astype(np.float32)
        bend = body.warp[axis].on_plane(*grid)
        coords.append(plain + np.float32(body.warp_mm * 0.7) * bend)
    x, y, z = coords
    labels = np.zeros((SIZE, SIZE), dtype=np.uint8)
    view = _View(origin, row_axis, column_axis, step, margin=body.warp_mm * 2.5)
    for shape in body.shapes:
        view.paint(labels, shape, x, y, z)
    if body.folds is not None and body.fold is not None:
        body.fold(labels, body.folds.on_plane(*grid), x, y, z)
    for curve in body.curves:
        view.paint_curve(labels, curve, x, y, z)
    for shape in extra:
        view.paint(labels, shape, x, y, z)
    return labels, body.grain.on_plane(*grid)


class _View:
    """Image plane that finds the pixels a shape can touch, so that only those are computed."""

    def __init__(self, origin: Array, row_axis: Array, column_axis: Array, step: float, margin: float) -> None:
        self.origin, self.row_axis, self.column_axis, self.step = origin, row_axis, column_axis, step
        self.normal = np.cross(row_axis, column_axis)
        self.margin = margin

    def window(self, centre: Array, extent: Array) -> tuple[slice, slice] | None:
        d = centre - self.origin
        if abs(d @ self.normal) > extent @ np.abs(self.normal) + self.margin:
            return None
        spans = []
        for axis in (self.row_axis, self.column_axis):
            mid, half = d @ axis / self.step + (SIZE - 1) / 2, (extent @ np.abs(axis) + self.margin) / self.step
            low, high = max(0, int(mid - half)), min(SIZE, int(mid + half) + 2)
            if low >= high:
                return None
            spans.append(slice(low, high))
        return spans[0], spans[1]

    def paint(self, labels: Array, shape: Ellipsoid, x: Array, y: Array, z: Array) -> None:
        window = self.window(np.asarray(shape.centre), shape.extent)
        if window is not None:
            labels[window][shape.level(x[window], y[window], z[window]) < 1] = shape.label

    def paint_curve(self, labels: Array, curve: Curve, x: Array, y: Array, z: Array) -> None:
        reach = curve.radius + self.margin
        for shrink, label in ((1.0, curve.label), (0.62, curve.core)):
            if label is None:
                continue
            near = np.abs((curve.points - self.origin) @ self.normal) < reach
            # Beads overlap several times; every second one covers the shaft.
            for index in np.flatnonzero(near)[::2]:
                centre, radius = curve.points[index], float(curve.radius[index]) * shrink
                window = self.window(centre, np.full(3, radius))
                if window is not None:
                    dx, dy, dz = x[window] - centre[0], y[window] - centre[1], z[window] - centre[2]
                    labels[window][dx * dx + dy * dy + dz * dz < radius * radius] = label


def line_integrals(body: Body, extra: Sequence[Ellipsoid], view: str) -> Array:
    """Integrate the attenuation along the rays of a radiograph.

    Args:
        body: The body.
        extra: Shapes of a finding.
        view: "frontal" (rays along y) or "lateral" (rays along x).

    Returns:
        Integral of the linear attenuation along each ray, dimensionless, float32 (SIZE, SIZE).
    """
    plane = "coronal" if view == "frontal" else "sagittal"
    row_axis, column_axis, _ = PLANES[plane]
    u_axis, ray_axis = (0, 1) if view == "frontal" else (1, 0)
    step = body.fov / SIZE
    offsets = (np.arange(SIZE) - (SIZE - 1) / 2) * step
    middle = np.asarray(body.middle)
    in_plane = np.array(
        [[body.pose[u_axis, u_axis], body.pose[u_axis, 2]], [-body.pose[u_axis, 2], body.pose[u_axis, u_axis]]]
    )
    down, across = -offsets[:, None], offsets[None, :]
    u = (middle[u_axis] + in_plane[0, 0] * across + in_plane[0, 1] * down).astype(np.float32)
    v = (middle[2] + in_plane[1, 0] * across + in_plane[1, 1] * down).astype(np.float32)
    for field, grid in ((body.warp[u_axis], u), (body.warp[2], v)):
        grid += np.float32(body.warp_mm * 0.7) * field.on_plane(middle, offsets, offsets, row_axis, column_axis)
    total = np.zeros((SIZE, SIZE), dtype=np.float32)
    turned_row, turned_column = np.zeros(3), np.zeros(3)
    turned_row[[u_axis, 2]], turned_column[[u_axis, 2]] = -in_plane[:, 1], in_plane[:, 0]
    # The pose also rotates slightly out of the plane, which shortens these axes by about 1 %.
    frame = _View(middle, turned_row, turned_column, step, margin=body.warp_mm * 2.5 + 0.015 * body.fov)
    # For every tissue, the interval of each ray that it fills. Overlapping shapes of one tissue count once. A shape
    # replaces its parent tissue only where the parent is; elsewhere it replaces the parent of the parent.
    stretch: dict[tuple[int, int], tuple[Array, Array]] = {}
    partial: dict[int, tuple[int, int]] = {}
    for shape in (*body.shapes, *extra):
        centre = np.asarray(shape.centre, dtype=np.float64).copy()
        centre[ray_axis] = middle[ray_axis]
        window = frame.window(centre, shape.extent)
        contrast = _MU[shape.label] - _MU[shape.inside_of]
        hidden = abs(contrast) < 0.02 and shape.label not in body.joined and shape.inside_of not in partial
        if window is None or hidden or shape.label == shape.inside_of:
            continue
        mid, half = shape.interval(u[window], v[window], (u_axis, 2, ray_axis))
        kind = (shape.label, shape.inside_of)
        length = 2 * half
        around = partial.get(shape.inside_of)
        if shape.label not in body.joined and around is None:
            total[window] += contrast * length
            continue
        low, high = mid - half, mid + half
        if around is not None:
            outside = length - _overlap(low, high, stretch[around], window)
            total[window] += np.float32(_MU[shape.inside_of] - _MU[around[1]]) * outside
        if shape.label in body.joined:
            if kind in stretch:
                length -= _overlap(low, high, stretch[kind], window)
            else:
                stretch[kind] = (np.full((SIZE, SIZE), 1e4, np.float32), np.full((SIZE, SIZE), -1e4, np.float32))
            own, hit = stretch[kind], half > 0
            np.minimum(own[0][window], low, out=own[0][window], where=hit)
            np.maximum(own[1][window], high, out=own[1][window], where=hit)
            if shape.label in _PARTIAL:
                partial[shape.label] = kind
        total[window] += contrast * length
    total += _curves(body, u_axis, step, middle)
    integral: Array = np.maximum(total, 0) * np.float32(WATER_ATTENUATION)
    return integral


def _overlap(low: Array, high: Array, stretch: tuple[Array, Array], window: tuple[slice, slice]) -> Array:
    """Length of the overlap of the intervals (low, high) with the intervals `stretch` that are already filled, mm."""
    shared: Array = np.maximum(np.minimum(high, stretch[1][window]) - np.maximum(low, stretch[0][window]), 0)
    return shared


def _curves(body: Body, u_axis: int, step: float, middle: Array) -> Array:
    """Line integrals of ribs and vessels, in mm of water. The mass of each bead is blurred over its radius."""
    total = np.zeros((SIZE, SIZE), dtype=np.float32)
    layers: dict[float, tuple[list[Array], list[Array]]] = {}
    for curve in body.curves:
        contrast = float(_MU[curve.label])
        if curve.core is not None:
            contrast = 0.62 * contrast + 0.38 * float(_MU[curve.core])
        contrast -= float(_MU[curve.inside_of])
        length = np.linalg.norm(np.diff(curve.points, axis=0), axis=1)
        length = np.append(length, length[-1])
        mass = contrast * np.pi * curve.radius**2 * length / step**2
        blur = 2.0 ** round(np.log2(float(curve.radius.mean()) * 0.5 / step))
        points, masses = layers.setdefault(blur, ([], []))
        points.append(curve.points[:, [u_axis, 2]])
        masses.append(mass)
    for blur, (points, masses) in layers.items():
        at = np.concatenate(points) - middle[[u_axis, 2]]
        column, row = at[:, 0] / step + SIZE / 2, -at[:, 1] / step + SIZE / 2
        inside = (column >= 0) & (column < SIZE) & (row >= 0) & (row < SIZE)
        index = row[inside].astype(int) * SIZE + column[inside].astype(int)
        layer = np.bincount(index, weights=np.concatenate(masses)[inside], minlength=SIZE * SIZE)
        total += gaussian_filter(layer.reshape(SIZE, SIZE).astype(np.float32), blur, truncate=2.5)
    return total


def spin_echo(sequence: str) -> Array:
    """Signal of every tissue by the spin-echo equation, with inversion recovery if the sequence has an inversion time.

    Spin echo:          S = PD (1 - exp(-TR/T1)) exp(-TE/T2)
    Inversion recovery: S = PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)

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
    """Simulate an MR image: signal equation, point spread, coil bias and Rician noise. Returns uint8 (SIZE, SIZE)."""
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
    """Simulate a CT image: HU with grain and reconstruction noise, shown in a window. Returns uint8 (SIZE, SIZE)."""
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
    """Simulate a radiograph: Beer-Lambert, scatter, quantum noise, logarithmic display. Returns uint8 (SIZE, SIZE)."""
    integral = line_integrals(body, extra, view)
    primary = np.exp(-integral)
    fraction = np.float32(rng.uniform(0.10, 0.22))
    # Scatter comes from the patient and not from the open beam, so it follows the attenuation of the surroundings. It
    # is smooth, so an eighth of the resolution is enough.
    transmitted = (1 - fraction) * primary + fraction * np.exp(-_smooth(integral, 3.0))
    photons = 10 ** rng.uniform(5.0, 5.6)
    # For counts this large, the normal approximation of the Poisson distribution is accurate to 1 %.
    counts = transmitted * photons
    counts += np.sqrt(counts) * rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    density = -np.log(np.maximum(counts, 1) / photons)
    density = gaussian_filter(density, rng.uniform(0.5, 0.8), truncate=2.5)
    # Dynamic range compression, as in digital radiography displays: remove three quarters of the coarse shading.
    density -= np.float32(0.75) * _smooth(density, 3.0)
    sample = np.sort(density[::4, ::4][integral[::4, ::4] > 0.05])
    low, high = (sample[int(q * (len(sample) - 1))] for q in (0.02, 0.997))
    shade = np.clip((density - low) / max(high - low, 1e-3), 0, 1.2)
    return _to_8bit(shade ** np.float32(rng.uniform(0.9, 1.15)))


def _smooth(image: Array, sigma: float) -> Array:
    """Strong Gaussian blur, computed at an eighth of the resolution. `sigma` is in pixels of that resolution."""
    coarse = gaussian_filter(image.reshape(SIZE // 8, 8, SIZE // 8, 8).mean(axis=(1, 3)), sigma)
    smooth: Array = _UPSAMPLE @ coarse @ _UPSAMPLE.T
    return smooth


def _to_8bit(unit: Array) -> Array:
    return (np.clip(unit, 0, 1) * 255 + 0.5).astype(np.uint8)
