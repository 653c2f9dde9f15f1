"""Collections with options as they are published: huatuo, med-r1, omnimedvqa and pmc-vqa."""

import csv
import io
import json
from pathlib import Path

import pytest

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.prompts.templates import lettered

# The published 900 questions are no part of the package; where they lie beside the checkout, they are tried too.
RELEASE = Path(__file__).resolve().parents[3].parent / "shared/data/medvlm_r1_release"
needs_release = pytest.mark.skipif(not RELEASE.is_dir(), reason="the released questions are not beside the checkout")

MR, CT, XRAY = "MR (Mag-netic Resonance Imaging)", "CT(Computed Tomography)", "X-Ray"
CHEST = "Images/Chest CT Scan/test/000001.png"


def huatuo(name="images/knee.png", subset=MR, **changes):
    row = {"question": "What is seen?", "image": [name], "options": ["Meniscal tear", "Effusion", "Normal"]}
    return row | {"answer": "Effusion", "dataset": "OmniMedVQA", "subset": subset} | changes


def med_r1(**changes):
    row = {"image": CHEST, "problem": "What is seen in the image?\nA) Tumor, left\nB) Normal lung\nC) Fracture"}
    return row | {"solution": "<answer> B </answer>"} | changes


def omnimedvqa(**changes):
    row = {"dataset": "ACRIMA", "question_id": "ACRIMA_0000", "question_type": "Modality Recognition"}
    row |= {"question": "What technique was employed?", "gt_answer": "Fundus imaging", "option_A": "PET scan"}
    row |= {"image_path": "Images/ACRIMA/Im553.png", "option_B": "CT scan", "option_C": "Blood test"}
    row |= {"option_D": "Fundus imaging", "modality_type": "Fundus Photography"} | changes
    return {name: value for name, value in row.items() if value is not ...}


PMC = {"index": "62", "Figure_path": "PMC8253797_Fig4_11.jpg", "Caption": 'An altered cell, "nucleus"\nand more'}
PMC |= {"Question": " What is the uptake pattern? ", "Choice A": " A:Diffuse uptake ", "Choice B": " B:Focal uptake "}
PMC |= {"Choice C": " C:No uptake ", "Choice D": " D:Cannot determine ", "Answer": "B", "split": "test"}
PMC_FIRST = {"Figure_path": "PMC1_fig.jpg", "Question": "What is it?", "Answer": "Coronary artery", "Answer_label": "B"}
PMC_FIRST |= {"Choice A": "A:Aorta", "Choice B": "B:Coronary artery", "Choice C": "C:Vein", "Choice D": "D:Atrium"}


def table(*rows):
    stream = io.StringIO()
    csv.writer(stream).writerows([rows[0].keys(), *(row.values() for row in rows)])
    return stream.getvalue()


@pytest.fixture
def collection(imported, put, picture):
    """Imports rows of the huatuo collection, which has two images."""
    picture("images/knee.png", 1)
    picture("images/deep/chest.v2.png", 2)
    return lambda *rows, **arguments: imported("huatuo", put("rows.json", rows), **arguments)


def test_huatuo(collection, put):
    rows = [huatuo(), huatuo("images/absent.png", CT, options=["Yes", "No"], answer="No")]
    done = collection(*rows, huatuo("images/deep/chest.v2.png", XRAY))
    assert (done.report.rows, done.report.written, done.report.missing) == (3, 3, 1)
    assert done.report.by_modality == {"CT": 1, "MRI": 1, "X-ray": 1}
    first, second, third = done.samples
    assert (first.id, first.images, first.subject, first.letter) == ("huatuo-000001", ("images/knee.png",), "knee", "B")
    assert first.record == {"dataset": "OmniMedVQA", "subset": MR}
    assert (second.modality, second.missing, second.letter) == ("CT", True, "B")
    assert (third.modality, third.subject) == ("X-ray", "deep/chest.v2")
    for name in ("images/knee.png", "images/deep/chest.v2.png"):
        assert (done.folder / name).read_bytes() == (put.root / name).read_bytes()
    info = json.loads((done.folder / "info.json").read_text(encoding="utf-8"))
    assert (info["license"], info["file"]) == ("Apache-2.0", "rows.json")
    assert info["counts"] == {"samples": 3, "missing": 1, "by_modality": done.report.by_modality}


def test_the_images_folder_itself_may_be_given(collection, put):
    several = huatuo(image=["deep/chest.v2.png", "images/absent.png"])
    first, second, third = collection(huatuo(), several, huatuo(image=[]), images=put.root / "images").samples
    assert first.images == ("images/knee.png",)
    assert (second.images, second.missing) == (("images/deep/chest.v2.png", "images/absent.png"), True)
    assert (third.images, third.subject, third.missing) == ((), "", False)
    with pytest.raises(UserError, match="nowhere: no such image folder"):
        collection(huatuo(), images=put.root / "nowhere")
    put("knee.png", b"another")
    with pytest.raises(UserError, match=r"row 2: .*would both be copied to images/knee.png"):
        collection(huatuo("images/knee.png"), huatuo("knee.png"))


def test_chosen_modalities_keep_their_row_numbers(collection):
    others = [huatuo(subset=CT, answer="?"), huatuo(subset="", dataset="PMC-VQA")]
    done = collection(huatuo(), *others, huatuo(subset="Clinical", dataset="MMMU"), huatuo(), modality=["mri"])
    assert (done.report.rows, done.report.written, done.report.by_modality) == (5, 2, {"MRI": 2})
    assert [s.id for s in done.samples] == ["huatuo-000001", "huatuo-000005"]
    with pytest.raises(UserError, match="none of the 1 rows is of the requested modalities"):
        collection(huatuo(), modality="CT")
    with pytest.raises(UsageError, match="unknown modality 'MRT'; known: MRI"):
        collection(huatuo(), modality=["MRT"])
    # Of OmniMedVQA it is an error even when others are chosen.
    with pytest.raises(UserError, match="row 1: unknown modality 'MRT'"):
        collection(huatuo(subset="MRT"), modality="MRI")


@needs_release
def test_the_released_questions(imported):
    [file] = RELEASE.glob("*.json")
    done = imported("huatuo", file, images=RELEASE / "images")
    report = done.report
    assert (report.rows, report.written, report.missing, report.open_questions) == (900, 900, 888, 0)
    assert report.by_modality == {"CT": 300, "MRI": 300, "X-ray": 300}
    rows = json.loads(file.read_text(encoding="utf-8"))
    for sample, source in zip(done.samples, rows, strict=True):
        assert (sample.letter, lettered(sample)) == (source["solution"], source["problem"])
    assert len({s.subject for s in done.samples}) == 900
    chance = {m: sum(100 / len(s.options) for s in done.samples if s.modality == m) / 300 for m in report.by_modality}
    assert chance == pytest.approx({"MRI": 25.0, "CT": 30.25, "X-ray": 26.0})


def test_med_r1(imported, put, picture):
    picture(CHEST)
    put("Splits/modality/train/CT(Computed Tomography)_train.json", [med_r1(), med_r1(solution="<answer> A </answer>")])
    put("Splits/modality/test/MR (Mag-netic Resonance Imaging)_test.json", [med_r1(image="Images/absent.png")])
    # The same rows again, which must not be read twice.
    put("Splits/question_type/train/Disease Diagnosis_train.json", [med_r1()])
    done = imported("med-r1", put.root)
    with pytest.raises(UserError, match=r"unknown modality 'MRT' in 'the file name MRT_train.json'"):
        imported("med-r1", put("MRT_train.json", [med_r1()]))
    assert (done.report.by_modality, done.report.by_split) == ({"CT": 2, "MRI": 1}, {"test": 1, "train": 2})
    mri, first, second = done.samples
    assert (mri.modality, mri.split, mri.missing) == ("MRI", "test", True)
    assert first.question == "What is seen in the image?"
    assert first.options == ("Tumor, left", "Normal lung", "Fracture")
    assert [first.letter, second.letter] == ["B", "A"]
    assert first.images == ("images/Chest CT Scan/test/000001.png",)
    [sample] = imported("med-r1", put.root / "Splits/question_type").samples
    assert (sample.modality, sample.question_type) == ("Unknown", "Disease Diagnosis")
    assert (sample.split, sample.missing) == ("train", False)


def test_published_files_are_audited_by_one_command(command, put, tmp_path):
    def rows(*pictures):
        return [med_r1(image=f"Images/{name}.png", problem=f"What is {name}? A) x{name} B) y") for name in pictures]

    twins = med_r1(problem="What? A) the same B) The Same")
    test = put("Splits/modality/test/CT_test.json", [*rows("a", "b", "c", "d"), twins])
    train = put("Splits/modality/train/CT_train.json", rows("d", "e"))
    train.write_text(train.read_text().replace("What is d", "Is it d"))
    out = tmp_path / "audit.html"
    for source, prior in ((test, train), (test.parent, train.parent)):
        code, printed, _ = command("audit", "data", f"med-r1:{source}", "--fit-on", f"med-r1:{prior}", "--out", out)
        assert (code, out.exists()) == (0, True)
        assert f"Questions about an image that {prior.name} shows too, by path: CT 1 of 4 (25.0 %)." in printed
        assert f"Rows of {source} left out: 1. The first: {test}, row 5: option A and option B are the same" in printed
        assert "CT       option_prior_fit  100.0 %" in printed
    assert list(tmp_path.glob("**/samples.jsonl")) == []
    code, _, message = command("audit", "data", f"med-r1:{test}", "--write-clean", tmp_path / "clean", "--out", out)
    assert (code, "--write-clean requires a data folder" in message) == (2, True)


def test_omnimedvqa(imported, put, picture):
    picture("Images/ACRIMA/Im553.png")
    picture(CHEST)
    acrima = put("QA_information/Open-access/ACRIMA.json", [omnimedvqa(), omnimedvqa(image_path="Images/absent.png")])
    stray = {"dataset": "Chest CT Scan", "image_path": CHEST, "modality": CT, "modality_type": ..., "gt_answer": "No"}
    stray |= {"option_A": "Yes", "option_B": "No", "option_C": ..., "option_D": ...}
    put("QA_information/Open-access/Chest CT Scan.json", [omnimedvqa(**stray)])
    restricted = {"modality_type": "Microscopy Images"}
    rows = [omnimedvqa(image_path="Images/A/1.png", **restricted), omnimedvqa(image_path=..., **restricted)]
    put("QA_information/Restricted-access/AIDA.json", rows)
    done = imported("omnimedvqa", put.root)
    assert done.report.by_modality == {"CT": 1, "Fundus": 2, "Microscopy": 2}
    assert (done.report.rows, done.report.missing) == (5, 3)
    first, absent, chest, closed, unnamed = done.samples
    assert (first.id, first.letter) == ("omnimedvqa-open-access-acrima-000001", "D")
    assert (first.images, first.subject) == (("images/ACRIMA/Im553.png",), "ACRIMA/Im553")
    assert first.question_type == "Modality Recognition"
    assert first.record == {"dataset": "ACRIMA", "question_id": "ACRIMA_0000", "access": "open"}
    assert (chest.modality, chest.options, chest.letter) == ("CT", ("Yes", "No"), "B")
    assert (closed.missing, closed.record["access"]) == (True, "restricted")
    assert (absent.missing, unnamed.missing, unnamed.images) == (True, True, ())
    # A file of the set finds the images of the set.
    alone = imported("omnimedvqa", acrima, modality="Fundus").samples
    assert [s.missing for s in alone] == [False, True]
    assert alone[0].id == "omnimedvqa-acrima-000001"


def test_pmc_vqa(imported, put, picture):
    picture("figures/PMC8253797_Fig4_11.jpg")
    text = PMC | {"Answer": "Focal uptake", "Figure_path": "absent.jpg"}
    put("test_2.csv", table(PMC, text, PMC | {"Answer": " D:Cannot determine"}))
    put("test.csv", table(PMC_FIRST))
    first, second, third = imported("pmc-vqa", put.root).samples
    assert (first.id, first.modality) == ("pmc-vqa-test-2-000001", "Unknown")
    assert (first.question, first.options[:2]) == ("What is the uptake pattern?", ("Diffuse uptake", "Focal uptake"))
    assert first.images == ("images/PMC8253797_Fig4_11.jpg",)
    assert first.record == {"index": "62", "Caption": PMC["Caption"]}
    assert [(s.letter, s.split, s.missing) for s in (first, second, third)] == [
        *(("B", "test", False), ("B", "test", True), ("D", "test", False))
    ]
    [sample] = imported("pmc-vqa", put("train.csv", table(PMC_FIRST))).samples
    assert (sample.options[1], sample.letter, sample.split) == ("Coronary artery", "B", "train")
    # A letter is a letter even if choices are letters.
    panels = PMC | {"Choice A": "A:B", "Choice B": "B:A"}
    [sample] = imported("pmc-vqa", put("test_2.csv", table(panels))).samples
    assert (sample.options[:2], sample.letter) == (("B", "A"), "B")


HUATUO, MED = ("huatuo", "rows.json", huatuo), ("med-r1", "Splits/modality/train/CT_train.json", med_r1)
OMNI = ("omnimedvqa", "QA_information/Open-access/ACRIMA.json", omnimedvqa)
PMC_SECOND = ("pmc-vqa", "test_2.csv", lambda **changes: PMC | changes)
PMC_FIRST_ROW = ("pmc-vqa", "test.csv", lambda **changes: PMC_FIRST | changes)


@pytest.mark.parametrize(
    ("format", "changes", "message"),
    [
        (HUATUO, {"subset": "MRT"}, "unknown modality 'MRT' in 'subset'; known: MRI, CT, X-ray"),
        (HUATUO, {"subset": "", "dataset": "PMC"}, "the row names no imaging modality; choose modalities"),
        (HUATUO, {"answer": "effusion"}, "answer 'effusion' is not among the options"),
        (HUATUO, {"options": [1, "Effusion"]}, "'options' must be a list of texts, saw 1 in it"),
        (HUATUO, {"question": None}, "field 'question' must be text, saw None"),
        (HUATUO, {"solution": "C"}, "solution 'C' contradicts the answer, which is option 'B'"),
        (MED, {"problem": "What is seen?"}, "the options cannot be read from the text"),
        (MED, {"image": 3}, "field 'image' must be the name of a file"),
        (OMNI, {"gt_answer": "MRI scan"}, "answer 'MRI scan' is neither"),
        (OMNI, {"modality_type": ...}, "field 'modality_type' is missing"),
        (OMNI, {"option_B": ""}, "option 'option_B' is empty, but 'option_D' is not"),
        (PMC_SECOND, {"Answer": "E"}, "answer 'E' is neither the text nor the letter of one of the options"),
        (PMC_SECOND, {"Choice B": " "}, "holds an empty text"),
        (PMC_FIRST_ROW, {"Answer_label": "A"}, "Answer 'Coronary artery' is not option 'A'"),
    ],
)
def test_bad_rows_name_file_and_row_and_write_nothing(imported, put, tmp_path, format, changes, message):
    name, file, row = format
    rows = [row(), row(**changes), row()]
    path = put(file, table(*rows) if file.endswith("csv") else rows)
    for source in (path, path.parent if file.endswith("csv") else put.root) if name != "huatuo" else (path,):
        with pytest.raises(UserError, match=rf"{path.name}, row 2: .*{message}"):
            imported(name, source)
    assert not (tmp_path / "imported").exists()
    done = imported(name, path, skip_bad=True)
    assert (done.report.rows, done.report.written, done.report.bad_rows) == (3, 2, 1)
    assert [s.id[-1] for s in done.samples] == ["1", "3"]


def test_another_folder(imported, put, tmp_path):
    put("readme.txt", "x")
    names = {
        "huatuo": "medical_multimodel_evaluation_data.json",
        "med-r1": r"Splits/modality/train/\*.json, Splits/modality/test",
        "omnimedvqa": r"QA_information/Open-access/\*.json",
        "pmc-vqa": "train_2.csv, test_2.csv, train.csv, test.csv",
        "path-vqa": r"data/train-\*.parquet",
    }
    for name, wanted in names.items():
        with pytest.raises(UserError, match=rf"holds none of {wanted}"):
            imported(name, put.root)
        with pytest.raises(UserError, match="no such file or folder"):
            imported(name, tmp_path / "nowhere")
