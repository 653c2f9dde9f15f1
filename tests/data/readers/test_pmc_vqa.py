import csv
import io

import pytest

from medvlm_r1.errors import UserError

HEADING = [
    "index",
    "Figure_path",
    "Caption",
    "Question",
    "Choice A",
    "Choice B",
    "Choice C",
    "Choice D",
    "Answer",
    "split",
]
ROW = [
    "62",
    "PMC8253797_Fig4_11.jpg",
    'A slightly altered cell, "nucleus"\nand more',
    " What is the uptake pattern in the breast? ",
    " A:Diffuse uptake pattern ",
    " B:Focal uptake pattern ",
    " C:No uptake pattern ",
    " D:Cannot determine from the information given ",
    "B",
    "test",
]
FIRST = ["Figure_path", "Question", "Answer", "Choice A", "Choice B", "Choice C", "Choice D", "Answer_label"]
FIRST_ROW = [
    "PMC1_fig.jpg",
    "What is it?",
    "Coronary artery",
    "A:Aorta",
    "B:Coronary artery",
    "C:Vein",
    "D:Atrium",
    "B",
]


def table(*rows):
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue()


def changed(**changes):
    names = [name.replace(" ", "_") for name in HEADING]
    return [changes.get(name, value) for name, value in zip(names, ROW, strict=True)]


def test_second_version(imported, put, picture):
    picture("figures/PMC8253797_Fig4_11.jpg")
    text = changed(Answer="Focal uptake pattern", Figure_path="absent.jpg")
    put("test_2.csv", table(HEADING, ROW, text, changed(Answer=" D:Cannot determine from the information given")))
    put("test.csv", table(FIRST, FIRST_ROW))
    done = imported("pmc-vqa", put.root)
    first, second, third = done.samples
    assert done.report.by_split == {"test": 3}
    assert (first.id, first.modality, first.question) == (
        "pmc-vqa-test-2-000001",
        "Unknown",
        "What is the uptake pattern in the breast?",
    )
    assert first.options[:2] == ("Diffuse uptake pattern", "Focal uptake pattern")
    assert first.images == ("images/PMC8253797_Fig4_11.jpg",)
    assert first.record == {"index": "62", "Caption": ROW[2]}
    assert [s.letter for s in done.samples] == ["B", "B", "D"]
    assert (second.missing, third.missing) == (True, False)


def test_first_version(imported, put):
    put("train.csv", table(FIRST, FIRST_ROW))
    [sample] = imported("pmc-vqa", put.root).samples
    assert (sample.options[1], sample.letter, sample.split) == ("Coronary artery", "B", "train")


def test_a_letter_is_a_letter_even_if_choices_are_letters(imported, put):
    panels = changed(Choice_A="A:B", Choice_B="B:A", Answer="B")
    [sample] = imported("pmc-vqa", put("test_2.csv", table(HEADING, panels))).samples
    assert (sample.options[:2], sample.letter) == (("B", "A"), "B")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (changed(Answer="E"), "answer 'E' is neither the text nor the letter of one of the options"),
        (changed(Answer="Something else"), "answer 'Something else' is neither"),
        (changed(Choice_B=" "), "holds an empty text"),
        (ROW[:-1], "has 9 cells where the heading has 10"),
    ],
)
def test_bad_rows(imported, put, bad, said):
    file = put("test_2.csv", table(HEADING, ROW, bad))
    with pytest.raises(UserError, match=rf"test_2.csv, row 2: .*{said}"):
        imported("pmc-vqa", file)


def test_letter_and_text_of_the_first_version_must_agree(imported, put):
    file = put("test.csv", table(FIRST, [*FIRST_ROW[:-1], "A"]))
    with pytest.raises(UserError, match="row 1: Answer 'Coronary artery' is not option 'A'"):
        imported("pmc-vqa", file)


def test_rows_can_be_left_out(imported, put):
    file = put("test_2.csv", table(HEADING, ROW, changed(Answer="E"), ROW))
    done = imported("pmc-vqa", file, skip_bad=True)
    assert (done.report.rows, done.report.written, done.report.bad_rows) == (3, 2, 1)
    assert [s.id[-1] for s in done.samples] == ["1", "3"]
    [reason] = done.report.reasons
    assert "test_2.csv, row 2: answer 'E'" in reason
