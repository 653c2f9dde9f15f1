import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from medvlm_r1.data import load_image, read_folder
from medvlm_r1.data.folder import image_sizes, unreadable_samples
from medvlm_r1.data.importing.registry import READERS
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.prompts.templates import lettered

# The published 900 questions are no part of the package; where they lie beside the checkout, they are tried too.
RELEASE = Path(__file__).resolve().parents[3].parent / "shared/data/medvlm_r1_release"
needs_release = pytest.mark.skipif(not RELEASE.is_dir(), reason="the released questions are not beside the checkout")

MR, CT, XRAY = "MR (Mag-netic Resonance Imaging)", "CT(Computed Tomography)", "X-Ray"


def row(name="images/knee.png", subset=MR, **changes):
    values = {
        "question": "What is seen?",
        "image": [name],
        "options": ["Meniscal tear", "Effusion", "Normal"],
        "answer": "Effusion",
        "dataset": "OmniMedVQA",
        "subset": subset,
    }
    return {**values, **changes}


@pytest.fixture
def source(tmp_path):
    """The folder of a collection with two images, and a function that writes its rows."""
    root = tmp_path / "collection"
    (root / "images/deep").mkdir(parents=True)
    Image.new("L", (4, 4), 1).save(root / "images/knee.png")
    Image.new("L", (4, 4), 2).save(root / "images/deep/chest.v2.png")

    def write(*rows):
        (root / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
        return root / "rows.json"

    write.root, write.out = root, tmp_path / "out"
    return write


def run(source, *rows, **arguments):
    return READERS["huatuo"](source(*rows), **{"images": source.root, "out": source.out, **arguments})


def test_hand_made_collection(source):
    rows = [
        row(),
        row("images/absent.png", CT, options=["Yes", "No"], answer="No"),
        row("images/deep/chest.v2.png", XRAY),
    ]
    report = run(source, *rows)
    assert (report.rows, report.written, report.missing) == (3, 3, 1)
    assert report.by_modality == {"CT": 1, "MRI": 1, "X-ray": 1}
    first, second, third = read_folder(source.out)
    assert (first.id, first.images, first.subject, first.letter) == ("huatuo-000001", ("images/knee.png",), "knee", "B")
    assert first.record == {"dataset": "OmniMedVQA", "subset": MR}
    assert (second.modality, second.missing, second.letter) == ("CT", True, "B")
    assert (third.modality, third.subject) == ("X-ray", "deep/chest.v2")
    for name in ("images/knee.png", "images/deep/chest.v2.png"):
        assert (source.out / name).read_bytes() == (source.root / name).read_bytes()
    info = json.loads((source.out / "info.json").read_text(encoding="utf-8"))
    assert info["license"] == "Apache-2.0"
    assert info["file"] == "rows.json"
    assert info["counts"] == {"samples": 3, "missing": 1, "by_modality": report.by_modality}


def test_the_images_folder_itself_may_be_given(source):
    assert run(source, row(), row("deep/chest.v2.png"), images=source.root / "images").missing == 0
    assert [s.images for s in read_folder(source.out)] == [("images/knee.png",), ("images/deep/chest.v2.png",)]


def test_several_images_and_none(source):
    report = run(source, row(image=["images/knee.png", "images/absent.png"]), row(image=[]))
    two, none = read_folder(source.out)
    assert report.missing == 1
    assert (two.images, two.subject, two.missing) == (("images/knee.png", "images/absent.png"), "knee", True)
    assert (none.images, none.subject, none.missing) == ((), "", False)


def test_chosen_modalities_keep_their_row_numbers(source):
    rows = [row(), row(subset=CT), row(subset="", dataset="PMC-VQA"), row(subset="Clinical", dataset="MMMU"), row()]
    report = run(source, *rows, modality=["mri"])
    assert (report.rows, report.written, report.missing, report.by_modality) == (5, 2, 0, {"MRI": 2})
    assert [s.id for s in read_folder(source.out)] == ["huatuo-000001", "huatuo-000005"]
    assert run(source, *rows, modality="CT").by_modality == {"CT": 1}


def test_a_row_left_out_need_not_be_right(source):
    assert run(source, row(), row(subset=CT, answer="?"), modality="MRI").written == 1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row(subset="MRT"), "unknown modality 'MRT' in 'subset'; known: MRI, CT, X-ray"),
        (row(subset="", dataset="PMC-VQA"), "the row names no imaging modality; choose modalities"),
        (row(answer="effusion"), "answer 'effusion' is not among the options"),
        (row(options=list("abcdefghijk"), answer="a"), "11 options"),
        (row(options="Effusion"), "field 'options' must be a list"),
        (row(options=[1, "Effusion"]), "'options' must be a list of texts, saw 1 in it"),
        (row(question=None), "field 'question' must be text, saw None"),
        (row(subset=None), "field 'subset' must be text"),
        (row(image="images/knee.png"), "field 'image' must be a list"),
        (row(3), "'image' must be a list of texts, saw 3"),
        (row("../knee.png"), "leaves the folder of images"),
        (row(solution="C"), "solution 'C' contradicts the answer, which is option 'B'"),
        ({"question": "q"}, "field 'subset' is missing"),
        ({"question": "q", "subset": MR}, "field 'image' is missing"),
    ],
)
def test_bad_rows_name_file_and_row_and_write_nothing(source, bad, said):
    with pytest.raises(UserError, match=f"rows.json, row 2: .*{said}"):
        run(source, row(), bad)
    assert not source.out.exists()


def test_unknown_modality_of_omnimedvqa_is_an_error_even_when_modalities_are_chosen(source):
    with pytest.raises(UserError, match="row 1: unknown modality 'MRT'"):
        run(source, row(subset="MRT"), modality="MRI")


def test_two_files_of_one_name_are_refused(source):
    (source.root / "knee.png").write_bytes(b"another")
    with pytest.raises(UserError, match=r"row 2: .*would both be copied to images/knee.png"):
        run(source, row("images/knee.png"), row("knee.png"))


def test_malformed_file(source):
    path = source(row(), row())
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UserError, match=r"rows.json, row 2: malformed JSON"):
        READERS["huatuo"](path, images=source.root, out=source.out)


def test_nothing_to_import(source):
    with pytest.raises(UserError, match="there are no rows, so nothing to import"):
        run(source)
    with pytest.raises(UserError, match="none of the 1 rows is of the modalities asked for"):
        run(source, row(), modality="CT")


def test_wrong_arguments(source):
    with pytest.raises(UsageError, match="unknown modality 'MRT'; known: MRI"):
        run(source, row(), modality=["MRT"])
    with pytest.raises(UserError, match="nowhere: no such folder of images"):
        run(source, row(), images=source.root / "nowhere")


def test_import_again_and_in_place(source):
    run(source, row(), row(subset=CT))
    assert run(source, row()).written == 1
    assert len(read_folder(source.out)) == 1
    assert run(source, row(), out=source.root).missing == 0
    assert load_image(source.root / "images/knee.png").size == (4, 4)


@needs_release
def test_the_released_questions(tmp_path):
    [file] = RELEASE.glob("*.json")
    report = READERS["huatuo"](file, images=RELEASE, out=tmp_path)
    by_modality = {"CT": 300, "MRI": 300, "X-ray": 300}
    assert (report.rows, report.written, report.missing, report.open_questions) == (900, 900, 888, 0)
    assert report.by_modality == by_modality
    samples = read_folder(tmp_path)
    rows = json.loads(file.read_text(encoding="utf-8"))
    for number, (sample, source) in enumerate(zip(samples, rows, strict=True), 1):
        assert sample.id == f"huatuo-{number:06d}"
        assert sample.letter == source["solution"]
        assert lettered(sample) == source["problem"]
        assert sample.subject == Path(source["image"][0]).stem
    assert len({s.subject for s in samples}) == 900
    two_options = Counter(s.modality for s in samples if len(s.options) == 2)
    assert two_options == {"CT": 63, "X-ray": 12}
    # Chance is 25.0, 30.25 and 26.0 percent.
    chance = {m: sum(100 / len(s.options) for s in samples if s.modality == m) / 300 for m in by_modality}
    assert chance == pytest.approx({"MRI": 25.0, "CT": 30.25, "X-ray": 26.0})
    assert all(s.letter in LETTERS for s in samples)


@needs_release
def test_the_released_images(tmp_path):
    [file] = RELEASE.glob("*.json")
    READERS["huatuo"](file, images=RELEASE / "images", out=tmp_path)
    samples = read_folder(tmp_path)
    there = [s for s in samples if not s.missing]
    assert len(there) == 12
    assert unreadable_samples(samples, image_sizes(tmp_path, samples)) == [s for s in samples if s.missing]
    assert all(load_image(tmp_path / s.images[0]).mode == "RGB" for s in there)
    assert len(list((tmp_path / "images").iterdir())) == 12
