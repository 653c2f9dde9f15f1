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
    assert (first.question, first.options) == ("What is seen in the image?", ("Tumor, left", "Normal lung", "Fracture"))
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


def test_published_files_are_audited_by_one_command(command, put, tmp_path):
    def rows(*pictures):
        return [row(image=f"Images/{name}.png", problem=f"What is {name}? A) x{name} B) y") for name in pictures]

    twins = row(problem="What? A) the same B) The Same")
    test = put("Splits/modality/test/CT_test.json", [*rows("a", "b", "c", "d"), twins])
    train = put("Splits/modality/train/CT_train.json", rows("d", "e"))
    train.write_text(train.read_text().replace("What is d", "Is it d"))
    out = tmp_path / "audit.html"
    for source, prior in ((test, train), (test.parent, train.parent)):
        code, printed, _ = command("audit", "data", f"med-r1:{source}", "--fit-on", f"med-r1:{prior}", "--out", out)
        assert code == 0
        assert f"Questions about an image that {prior.name} shows too, by path: CT 1 of 4 (25.0 %)." in printed
        assert f"Rows of {source} left out: 1. The first: {test}, row 5: option A and option B are the same" in printed
    assert "CT       option_prior_fit  100.0 %" in printed
    assert out.exists()
    assert list(tmp_path.glob("**/samples.jsonl")) == []
    code, _, message = command("audit", "data", f"med-r1:{test}", "--write-clean", tmp_path / "clean", "--out", out)
    assert (code, "--write-clean requires a data folder" in message) == (2, True)
