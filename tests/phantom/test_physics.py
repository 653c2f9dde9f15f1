"""The three kinds of imaging against numbers worked out by hand, on bodies of one or two ellipsoids."""

import numpy as np
import pytest

from medvlm_r1.phantom import imaging
from medvlm_r1.phantom.body import LABEL, Body, Builder, Ellipsoid, Waves, rotation
from medvlm_r1.phantom.imaging import SIZE, line_integrals, slice_labels, spin_echo

MUSCLE = 1.05 * 0.0195  # 1/mm
FAT = 0.92 * 0.0195


class Quiet:
    """A generator without chance: no noise, and the middle of every range."""

    def uniform(self, low, high):
        return (low + high) / 2

    def normal(self, mean, deviation, size=None):
        return mean if size is None else np.full(size, float(mean))

    def standard_normal(self, size, dtype):
        return np.zeros(size, dtype)


def ellipsoid(tissue, centre, radii, inside_of="air", tilt=None):
    return Ellipsoid(centre, radii, LABEL[tissue], LABEL[inside_of], tilt)


def body(*shapes, middle=(0.0, 0.0, 0.0), fov=224.0):
    """A body of the given shapes, straight in the scanner, without bending or grain; a pixel is 1 mm."""
    still = Waves(np.zeros((1, 3)), np.array([np.pi / 2]))
    plain = Builder(np.random.default_rng(0)).finish(
        "test", fov=fov, sites={}, slices={}, warp_mm=0.0, warp_wavelength=100.0
    )
    values = {name: getattr(plain, name) for name in ("joined", "curves", "sites", "slices")}
    return Body(
        region="test",
        fov=fov,
        shapes=list(shapes),
        middle=middle,
        pose=np.eye(3),
        warp=(still, still, still),
        warp_mm=0.0,
        grain=still,
        **values,
    )


@pytest.mark.parametrize(
    ("sequence", "tissue", "signal"),
    [
        # 0.70 (1 - exp(-500/600)) exp(-12/76)
        ("T1-weighted", "white_matter", 0.337973),
        # 1.00 (1 - exp(-4500/4000)) exp(-95/1600)
        ("T2-weighted", "csf", 0.636416),
        # 0.83 (1 - exp(-2000/960)) exp(-16/98)
        ("proton density", "grey_matter", 0.617194),
        # 0.70 |1 - 2 exp(-2400/600) + exp(-9000/600)| exp(-110/76)
        ("FLAIR", "white_matter", 0.158601),
        # 1.00 |1 - 2 exp(-2400/4000) + exp(-9000/4000)| exp(-110/1600)
        ("FLAIR", "csf", 0.007259),
        ("T1-weighted", "air", 0.0),
    ],
)
def test_spin_echo(sequence, tissue, signal):
    assert spin_echo(sequence)[LABEL[tissue]] == pytest.approx(signal, abs=1e-6)


@pytest.mark.parametrize(
    ("window", "tissue", "grey"),
    [
        ("soft-tissue window", "liver", 148),  # ((72 - 40) / 400 + 1/2) 255 = 147.9
        ("soft-tissue window", "air", 0),
        ("soft-tissue window", "cortical_bone", 255),
        ("lung window", "lung", 88),  # ((-830 + 600) / 1500 + 1/2) 255 = 88.4
        ("bone window", "cortical_bone", 234),  # ((1150 - 400) / 1800 + 1/2) 255 = 233.75
        ("brain window", "white_matter", 96),  # ((29 - 45) / 130 + 1/2) 255 = 96.1
    ],
)
def test_ct_window(window, tissue, grey):
    everywhere = body(ellipsoid(tissue, (0, 0, 0), (1e4, 1e4, 1e4)))
    image = imaging.ct(everywhere, (), "axial", 0.0, window, Quiet())
    assert image.shape == (SIZE, SIZE)
    assert image.dtype == np.uint8
    assert (image == grey).all()


def test_mri_shows_the_signal_equation():
    brain = body(
        ellipsoid("white_matter", (0, 0, 0), (1e4, 1e4, 1e4)), ellipsoid("csf", (0, 0, 0), (40, 40, 40), "white_matter")
    )
    image = imaging.mri(brain, (), "axial", 0.0, "T2-weighted", Quiet())
    # CSF is the display's maximum, shown at 1 / 0.965 and clipped; white matter is 0.200442 / 0.636416 of it.
    assert image[112, 112] == 255
    assert image[5, 5] == round(0.200442 / 0.636416 / 0.965 * 255)
    flair = imaging.mri(brain, (), "axial", 0.0, "FLAIR", Quiet())
    assert flair[5, 5] == 255
    assert flair[112, 112] == round(0.007259 / 0.158601 / 0.965 * 255)


def test_later_shapes_are_painted_over_earlier_ones():
    nested = body(
        ellipsoid("muscle", (0, 0, 0), (60, 60, 60)),
        ellipsoid("fat", (0, 0, 0), (30, 30, 30), "muscle"),
    )
    finding = ellipsoid("cyst", (0, 0, 0), (10, 10, 10), "fat")
    labels, _ = slice_labels(nested, (finding,), "axial", 0.0)
    names = [list(LABEL)[labels[112, column]] for column in (112, 112 + 20, 112 + 45, 112 + 80)]
    assert names == ["cyst", "fat", "muscle", "air"]


def grid(middle=(0.0, 0.0)):
    """Patient coordinates (across, up) of the pixels of a radiograph."""
    offsets = np.arange(SIZE) - (SIZE - 1) / 2
    return middle[0] + offsets[None, :], middle[1] - offsets[:, None]


@pytest.mark.parametrize(("view", "across", "along"), [("frontal", 0, 1), ("lateral", 1, 0)])
def test_integral_of_an_ellipsoid(view, across, along):
    centre, radii, middle = (12.0, -7.0, 20.0), (50.0, 34.0, 61.0), (5.0, -3.0, -8.0)
    u, z = grid((middle[across], middle[2]))
    level = ((u - centre[across]) / radii[across]) ** 2 + ((z - centre[2]) / radii[2]) ** 2
    chord = 2 * radii[along] * np.sqrt(np.maximum(1 - level, 0))
    integral = line_integrals(body(ellipsoid("muscle", centre, radii), middle=middle), (), view)
    np.testing.assert_allclose(integral, MUSCLE * chord, atol=MUSCLE * 0.2)
    assert integral.max() == pytest.approx(MUSCLE * 2 * radii[along], rel=1e-3)


def test_integral_of_a_turned_ellipsoid():
    centre, radii, tilt = np.array([8.0, 4.0, -10.0]), np.array([55.0, 22.0, 35.0]), rotation(25, -30, 40)
    x, z = np.broadcast_arrays(*grid())
    # Solves (p - c)^T A (p - c) = 1 for y along p = (x, y, z).
    a = tilt @ np.diag(1 / radii**2) @ tilt.T
    start = np.stack([x, np.zeros_like(x), z], axis=-1) - centre
    square, linear = a[1, 1], start @ a[1]
    constant = np.einsum("...i,ij,...j->...", start, a, start) - 1
    chord = 2 * np.sqrt(np.maximum(linear**2 - square * constant, 0)) / square
    shape = ellipsoid("muscle", tuple(centre), tuple(radii), tilt=tilt)
    np.testing.assert_allclose(line_integrals(body(shape), (), "frontal"), MUSCLE * chord, atol=MUSCLE * 0.3)


def test_overlapping_shapes_of_one_tissue_count_once():
    front, back = (ellipsoid("muscle", (0, y, 0), (30, 30, 30)) for y in (-10, 10))
    alone = line_integrals(body(front), (), "frontal")
    np.testing.assert_allclose(line_integrals(body(front, front), (), "frontal"), alone, atol=1e-5)
    # From y = -40 to y = 40 on the middle ray.
    both = line_integrals(body(front, back), (), "frontal")
    assert both[111:113, 111:113].mean() == pytest.approx(MUSCLE * 80, rel=1e-3)


def test_a_shape_displaces_what_it_lies_in():
    nested = body(ellipsoid("muscle", (0, 0, 0), (60, 60, 60)), ellipsoid("fat", (0, 0, 0), (20, 20, 20), "muscle"))
    integral = line_integrals(nested, (), "frontal")
    assert integral[111:113, 111:113].mean() == pytest.approx(MUSCLE * 80 + FAT * 40, rel=1e-3)


def test_a_radiograph_is_bright_where_much_is_absorbed():
    chest = body(ellipsoid("muscle", (0, 0, 0), (90, 60, 90)))
    bead = ellipsoid("calcium", (20, 0, 0), (12, 12, 12), "muscle")
    image = imaging.xray(chest, (bead,), "frontal", Quiet()).astype(int)
    assert image[112, 112 + 20] > image[112, 112 - 20] + 40
