import pytest

from medvlm_r1.errors import UserError


def row(**changes):
    values = {
        "dataset": "ACRIMA",
        "question_id": "ACRIMA_0000",
        "question_type": "Modality Recognition",
        "question": "What imaging technique was employed to obtain this picture?",
        "gt_answer": "Fundus imaging",
        "image_path": "Images/ACRIMA/Im553_g_ACRIMA.png",
        "option_A": "PET scan",
        "option_B": "CT scan",
        "option_C": "Blood test",
        "option_D": "Fundus imaging",
        "modality_type": "Fundus Photography",
    }
    return {name: value for name, value in {**values, **changes}.items() if value is not ...}


@pytest.fixture
def source(put, picture):
    picture("Images/ACRIMA/Im553_g_ACRIMA.png")
    picture("Images/Chest CT Scan/test/000001.png")
    put("QA_information/Open-access/ACRIMA.json", [row(), row(image_path="Images/ACRIMA/absent.png")])
    stray = row(
        dataset="Chest CT Scan",
        question_type="Disease Diagnosis",
        image_path="Images/Chest CT Scan/test/000001.png",
        modality="CT(Computed Tomography)",
        modality_type=...,
        option_A="Yes",
        option_B="No",
        option_C=...,
        option_D=...,
        gt_answer="No",
    )
    put("QA_information/Open-access/Chest CT Scan.json", [stray])
    put(
        "QA_information/Restricted-access/AIDA.json",
        [row(modality_type="Microscopy Images", image_path="Images/A/1.png")],
    )
    return put


def test_folder_as_distributed(imported, source):
    done = imported("omnimedvqa", source.root)
    assert done.report.by_modality == {"CT": 1, "Fundus": 2, "Microscopy": 1}
    assert (done.report.rows, done.report.missing) == (4, 2)
    acrima, absent, stray, restricted = done.samples
    assert acrima.id == "omnimedvqa-open-access-acrima-000001"
    assert (acrima.letter, acrima.question_type) == ("D", "Modality Recognition")
    assert acrima.images == ("images/ACRIMA/Im553_g_ACRIMA.png",)
    assert acrima.subject == "ACRIMA/Im553_g_ACRIMA"
    assert acrima.record == {"dataset": "ACRIMA", "question_id": "ACRIMA_0000", "access": "open"}
    assert absent.missing
    assert (stray.modality, stray.options, stray.letter) == ("CT", ("Yes", "No"), "B")
    assert (restricted.missing, restricted.record["access"]) == (True, "restricted")


def test_restricted_row_without_a_path(imported, source):
    source("QA_information/Restricted-access/AIDA.json", [row(image_path=...)])
    last = imported("omnimedvqa", source.root).samples[-1]
    assert (last.missing, last.images) == (True, ())


def test_one_file_finds_the_images_of_its_folder(imported, source):
    done = imported("omnimedvqa", source.root / "QA_information/Open-access/ACRIMA.json", modality="Fundus")
    assert [s.missing for s in done.samples] == [False, True]
    assert done.samples[0].id == "omnimedvqa-acrima-000001"


def test_modalities_are_chosen(imported, source):
    assert imported("omnimedvqa", source.root, modality=["CT"]).report.by_modality == {"CT": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gt_answer": "MRI scan"}, "answer 'MRI scan' is neither"),
        ({"modality_type": "MRT"}, "unknown modality 'MRT' in 'modality_type'"),
        ({"modality_type": ...}, "field 'modality_type' is missing"),
        ({"option_B": ""}, "option 'option_B' is empty, but 'option_D' is not"),
        ({"image_path": "../../etc/passwd.png"}, "leaves the folder of images"),
        ({"image_path": ...}, "field 'image_path' is missing"),
    ],
)
def test_bad_rows(imported, source, tmp_path, changes, said):
    source("QA_information/Open-access/ACRIMA.json", [row(), row(**changes)])
    with pytest.raises(UserError, match=rf"ACRIMA.json, row 2: .*{said}"):
        imported("omnimedvqa", source.root)
    assert not (tmp_path / "imported").exists()


def test_another_folder(imported, put, tmp_path):
    put("readme.txt", "x")
    with pytest.raises(UserError, match=r"holds none of QA_information/Open-access/\*.json"):
        imported("omnimedvqa", put.root)
    with pytest.raises(UserError, match="no such file or folder"):
        imported("omnimedvqa", tmp_path / "nowhere")
