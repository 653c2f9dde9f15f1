"""Scenes: what is asked for is drawn, what is drawn is where it should be."""

import numpy as np
import pytest

from medvlm_r1.phantom.anatomy import BODIES
from medvlm_r1.phantom.body import LABEL, lookup
from medvlm_r1.phantom.imaging import PLANES, SIZE, WINDOWS, spin_echo
from medvlm_r1.phantom.scene import (
    KINDS,
    MODALITIES,
    NONE,
    REGIONS,
    SIDES,
    SIZES,
    VIEWS,
    Scene,
    draw,
    finding_box,
    place_finding,
    render,
    techniques,
    unseen_kinds,
)

SIDED = {"MRI": ("axial", "coronal"), "CT": ("axial", "coronal"), "X-ray": ("frontal",)}


def center(scene):
    x1, y1, x2, y2 = finding_box(scene)
    return (y1 + y2) / 2, (x1 + x2) / 2


def many(n=150):
    """Scenes of all modalities, everything else left open."""
    for index in range(n):
        modality = MODALITIES[index % 3]
        yield draw(modality, {}, (50, index), np.random.default_rng((51, index)))


@pytest.mark.parametrize("modality", MODALITIES)
def test_same_scene_same_bytes(modality):
    wishes = {"finding": "mass", "region": "head"}
    scene, again, other = (draw(modality, wishes, (4, seed), np.random.default_rng(0)) for seed in (7, 7, 8))
    image = render(scene)
    assert image.shape == (SIZE, SIZE)
    assert image.dtype == np.uint8
    assert image.std() > 20
    assert image.tobytes() == render(again).tobytes()
    assert image.tobytes() != render(other).tobytes()


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("modality", MODALITIES)
def test_the_patients_right_is_on_the_images_left(modality, region):
    technique = techniques(modality, region)[0]
    for plane in SIDED[modality]:
        name = "frontal" if modality == "X-ray" else technique
        for seed in range(8):
            column = {
                side: center(Scene(modality, region, plane, name, "mass", side, "small", (6, seed)))[1]
                for side in SIDES
            }
            assert column["right"] < SIZE / 2 < column["left"]


@pytest.mark.parametrize(
    ("modality", "region", "plane", "technique", "kind"),
    [
        ("CT", "head", "axial", "brain window", "mass"),
        ("CT", "chest", "coronal", "lung window", "mass"),
        ("MRI", "knee", "axial", "T2-weighted", "cyst"),
        ("X-ray", "chest", "frontal", "frontal", "ring-enhancing lesion"),
    ],
)
@pytest.mark.parametrize("side", SIDES)
def test_the_finding_is_seen_where_it_is_said_to_be(modality, region, plane, technique, kind, side):
    y, x = np.mgrid[:SIZE, :SIZE]
    for seed in range(2):
        scene = Scene(modality, region, plane, technique, kind, side, "large", (77, seed))
        image = render(scene).astype(float)
        (row, column), (x1, _, x2, _) = center(scene), finding_box(scene)
        here, mirrored = (
            image[np.hypot(y - row, x - at) < 0.3 * (x2 - x1)].mean() for at in (column, SIZE - 1 - column)
        )
        assert here > mirrored + 40


def test_findings_lie_within_the_image_and_sizes_keep_apart():
    sides = {size: [] for size in SIZES}
    for scene in many(150):
        box = finding_box(scene)
        assert (box is None) == (scene.finding == NONE)
        if box is not None:
            x1, y1, x2, y2 = box
            assert 0 <= x1 < x2 <= SIZE
            assert 0 <= y1 < y2 <= SIZE
            sides[scene.size].append(max(x2 - x1, y2 - y1))
    small, medium, large = (np.median(sides[size]) for size in SIZES)
    assert small * 1.3 < medium
    assert medium * 1.3 < large


@pytest.mark.parametrize(("modality", "plane"), [("MRI", "axial"), ("CT", "coronal"), ("X-ray", "frontal")])
@pytest.mark.parametrize("kind", ["mass", "cyst", "ring-enhancing lesion"])
def test_the_box_holds_all_that_the_finding_changes(modality, plane, kind, monkeypatch):
    """Against the image of the same subject without the finding: noise and display apart, nothing else differs."""
    technique = {"MRI": "T2-weighted", "CT": "brain window"}.get(modality, plane)
    scene = Scene(modality, "head", plane, technique, kind, "left", "medium", (9, 1))
    image = render(scene).astype(float)
    x1, y1, x2, y2 = finding_box(scene)
    monkeypatch.setattr("medvlm_r1.phantom.scene._BUILDERS", {kind: lambda *_: []})
    difference = image - render(scene)
    # Edema around a rim, scatter and the display range change the surroundings a little.
    difference = np.abs(difference - np.median(difference))
    inside = difference[y1:y2, x1:x2].mean()
    difference[max(0, y1 - 8) : y2 + 8, max(0, x1 - 8) : x2 + 8] = np.nan
    assert inside > 3 * np.nanmean(difference)


def test_open_attributes_take_every_value_and_agree():
    scenes = list(many(400))
    assert {s.region for s in scenes} == set(REGIONS)
    assert {s.finding for s in scenes} == {NONE, *KINDS}
    assert {s.plane for s in scenes} == {*PLANES, *VIEWS}
    assert {s.side for s in scenes} == {*SIDES, None}
    assert {s.size for s in scenes} == {*SIZES, None}
    for scene in scenes:
        assert scene.technique in techniques(scene.modality, scene.region)
        assert (scene.plane in VIEWS) == (scene.modality == "X-ray")
        assert (scene.side is None) == (scene.size is None) == (scene.finding == NONE)
        if scene.technique == "bone window":
            assert scene.finding in (NONE, "calcification")


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize(
    "wishes",
    [
        {"region": "knee", "finding": "cyst"},
        {"side": "left"},
        {"size": "small"},
        {"finding": NONE},
        {"finding": "mass", "side": "right", "size": "large", "region": "chest"},
    ],
)
def test_wishes_come_true(modality, wishes):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        scene, sided = (draw(modality, wishes | side, (1, seed), rng) for side in ({}, {"side_seen": True}))
        assert {name: getattr(scene, name) for name in wishes} == wishes
        assert sided.side_is_seen
        assert sided.plane in SIDED[modality]
        assert draw("MRI", {"technique": "FLAIR"}, (1, seed), rng).region == "head"
        assert draw("CT", {"technique": "lung window"}, (1, seed), rng).region == "chest"


def shade(modality, technique):
    """Gray value of every tissue as displayed, 0 to 1, before noise and coil bias."""
    if modality == "CT":
        centre, width = WINDOWS[technique]
        return np.clip((lookup("hu") - centre) / width + 0.5, 0, 1)
    signal = spin_echo(technique)
    return signal / signal[LABEL["fat"]]


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("modality", ["MRI", "CT"])
def test_every_finding_that_can_be_drawn_stands_out_from_its_host(modality, region):
    rng = np.random.default_rng(0)
    body = BODIES[region](rng)
    visible = [kind for kind in KINDS if kind not in unseen_kinds(modality, region)]
    for technique in (t for t in techniques(modality, region) if t != "bone window"):
        grey = shade(modality, technique)
        for kind in visible:
            for side in SIDES:
                host = grey[LABEL[body.sites[side][0].host]]
                labels = {shape.label for shape in place_finding(body, kind, side, "large", rng).shapes}
                assert max(abs(grey[label] - host) for label in labels) > 0.08, (technique, kind, side)


def test_no_question_is_about_calcium_in_the_lung_in_an_mr_image():
    scenes = [draw("MRI", {"region": "chest"}, (0,), np.random.default_rng(seed)) for seed in range(60)]
    assert {scene.finding for scene in scenes} == {NONE, "mass", "cyst", "ring-enhancing lesion"}
    wanted = [draw("MRI", {"finding": "calcification"}, (0,), np.random.default_rng(seed)) for seed in range(60)]
    assert {scene.region for scene in wanted} == {"head", "abdomen", "knee"}
