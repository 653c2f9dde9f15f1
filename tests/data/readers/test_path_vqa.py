import pytest

from medvlm_r1.errors import UserError


def test_hub_layout(imported, put, hub, picture_bytes):
    hub(
        "data/validation-00000-of-00001.parquet",
        {
            "image": picture_bytes(1),
            "question": "where are liver stem cells located?",
            "answer": "in the canals of hering",
        },
        {"image": picture_bytes(2), "question": "are bile duct cells shown?", "answer": "no"},
        {"image": picture_bytes(3), "question": "is this acute or chronic?", "answer": "chronic"},
    )
    done = imported("path-vqa", put.root)
    stem_cells, shown, choice = done.samples
    assert done.report.by_modality == {"Unknown": 3}
    assert done.report.by_split == {"validation": 3}
    assert (stem_cells.options, stem_cells.answer) == ((), "in the canals of hering")
    assert (shown.options, shown.letter) == (("Yes", "No"), "B")
    # Only yes and no are closed in this set.
    assert choice.options == ()


def test_no_tables(imported, put):
    put("readme.md", "x")
    with pytest.raises(UserError, match=r"holds none of data/train-\*.parquet"):
        imported("path-vqa", put.root)
