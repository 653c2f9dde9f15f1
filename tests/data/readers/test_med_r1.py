import pytest

from medvlm_r1.errors import UserError


def row(**changes):
    values = {
        "image": "Images/Chest CT Scan/test/000001.png",
        "problem": "What is seen in the image?\nA) Tumor, left\nB) Normal lung\nC) Fracture",
        "solution": "<answer> B </answer>",
    }
    return {**values, **changes}


def test_splits_as_published(imported, put, picture):
    picture("Images/Chest CT Scan/test/000001.png")
    put("Splits/modality/train/CT(Computed Tomography)_train.json", [row(), row(solution="<answer> A </answer>")])
    put("Splits/modality/test/MR (Mag-netic Resonance Imaging)_test.json", [row(image="Images/absent.png")])
    # The same rows again, which must not be read twice.
    put("Splits/question_type/train/Disease Diagnosis_train.json", [row()])
    done = imported("med-r1", put.root)
    assert done.report.by_modality == {"CT": 2, "MRI": 1}
    assert done.report.by_split == {"test": 1, "train": 2}
    mri, first, second = done.samples
    assert (mri.modality, mri.split, mri.missing) == ("MRI", "test", True)
    assert (first.question, first.options) == (
        "What is seen in the image?",
        ("Tumor, left", "Normal lung", "Fracture"),
    )
    assert [first.letter, second.letter] == ["B", "A"]
    assert first.images == ("images/Chest CT Scan/test/000001.png",)


def test_by_question_type(imported, put, picture):
    picture("Images/Chest CT Scan/test/000001.png")
    put("Splits/question_type/train/Disease Diagnosis_train.json", [row()])
    [sample] = imported("med-r1", put.root / "Splits/question_type").samples
    assert (sample.modality, sample.question_type, sample.split, sample.missing) == (
        "Unknown",
        "Disease Diagnosis",
        "train",
        False,
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problem": "What is seen?"}, "the options cannot be read out of the text"),
        ({"problem": "What? A) x B) y A) z"}, "the options cannot be read out of the text"),
        ({"solution": "<answer> D </answer>"}, "answer 'D' is neither"),
        ({"solution": "<answer> A </answer> or <answer> B </answer>"}, "holds several answers"),
        ({"image": 3}, "field 'image' must be the name of a file"),
    ],
)
def test_bad_rows(imported, put, changes, said):
    file = put("Splits/modality/train/CT_train.json", [row(), row(**changes)])
    for source in (put.root, file):
        with pytest.raises(UserError, match=rf"CT_train.json, row 2: .*{said}"):
            imported("med-r1", source)


def test_a_file_name_that_is_no_modality(imported, put):
    put("Splits/modality/train/MRT_train.json", [row()])
    with pytest.raises(UserError, match=r"unknown modality 'MRT' in 'the file name MRT_train.json'"):
        imported("med-r1", put.root)
