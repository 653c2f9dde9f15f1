"""Paired comparison of two run folders against a hand-computed case."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from medvlm_r1.data.folder import write_folder
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.evaluation.compare import compare, left_out
from medvlm_r1.evaluation.run import evaluate, image_size
from medvlm_r1.evaluation.statistics import mcnemar_exact, paired_difference
from scripted import Scripted, make_samples, tagged

A_RIGHT = (0, 1)
B_RIGHT = (1, 2, 3, 4)


def only(numbers):
    """A generator that answers these questions correctly."""
    return Scripted(lambda prompt: tagged("A" if int(prompt.split("?")[0].split()[1]) in numbers else "B"))


@pytest.fixture
def runs(samples_dir, tmp_path):
    """Evaluate a and b; `change` changes the data between the two, `limits` are those of a and b."""

    def make(change=lambda: None, limits=(None, None), **of_b):
        a, b = tmp_path / "a", tmp_path / "b"
        evaluate("a", samples_dir, a, generator=only(A_RIGHT), limit=limits[0])
        change()
        evaluate("b", samples_dir, b, generator=only(B_RIGHT), limit=limits[1], **of_b)
        return a, b

    return make


def test_counts_differences_and_p(runs):
    a, b = runs()
    result = compare(a, b)
    assert (result["run_a"], result["run_b"], result["research_use"]) == (str(a), str(b), RESEARCH_USE)
    assert (result["n_shared"], result["only_in_a"], result["only_in_b"]) == (6, 0, 0)
    assert result["settings_differ"] == []
    everything = result["all"]
    assert (everything["n"], everything["b"], everything["c"]) == (6, 1, 3)
    # Two items a patient: nets of -1, 2 and 1, and 6 of their 8 sign patterns add up to 2 or more, or -2 or less.
    assert (everything["test"], everything["p"]) == ("sign flips of subjects", 0.75)
    assert everything["accuracy_a"]["correct"] == 2
    ends = paired_difference([1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 2, 2])
    assert [everything["difference"], *everything["ci95"]] == [100 * end for end in ends]
    assert list(result["modalities"]) == ["MRI", "CT"]
    mri = {key: result["modalities"]["MRI"][key] for key in ("n", "b", "c", "difference")}
    assert mri == {"n": 3, "b": 1, "c": 1, "difference": 0.0}
    assert result["modalities"]["CT"]["c"] == 2


def test_with_an_item_a_subject_the_test_is_mcnemars(samples_dir, runs):
    samples = [replace(sample, subject=f"p{n}") for n, sample in enumerate(make_samples(6))]
    write_folder(samples_dir, samples, info={})
    a, b = runs()
    everything = compare(a, b)["all"]
    assert (everything["test"], everything["p"]) == ("McNemar", mcnemar_exact(1, 3))
    # A run does not differ from itself, but that six items agree does not make the next ones certain.
    everything = compare(a, a)["all"]
    low, high = everything["ci95"]
    assert (everything["difference"], everything["p"], low) == (0.0, 1.0, pytest.approx(-high))
    assert high > 30


def test_items_without_a_partner_are_excluded_and_counted(runs):
    result = compare(*runs(limits=(4, None)))
    assert (result["n_shared"], result["only_in_a"], result["only_in_b"]) == (4, 0, 2)
    assert left_out(result) == "Compared: 4 questions. Left out: 0 only in the first, 2 only in the second."
    assert result["modalities"]["CT"]["n"] == 1


OTHERS = "6 of 6 ids they share stand for different items; 'q0' has"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "other"}, r"a \(6 items\) and .*b \(6 items\) have no item in common"),
        ({"question": "Really?"}, rf"{OTHERS} different questions \('Question 0\?' and 'Question 0\? Really\?'\)"),
        (
            {"options": ("kidney", "liver", "brain")},
            rf"{OTHERS} the same options in another order \(liver / kidney / brain and kidney / liver / brain\)",
        ),
        ({"options": ("liver", "knee")}, rf"{OTHERS} different options \(liver / kidney / brain and liver / knee\)"),
        ({"answer": "brain"}, rf"{OTHERS} different correct answers \('liver' and 'brain'\)"),
    ],
)
def test_other_items_cannot_be_compared(samples_dir, runs, change, message):
    def write():
        samples = [replace(sample, **change) for sample in make_samples()]
        if "question" in change:
            samples = [replace(sample, question=f"Question {n}? Really?") for n, sample in enumerate(samples)]
        if "id" in change:
            samples = [replace(sample, id=f"other{n}") for n, sample in enumerate(samples)]
        write_folder(samples_dir, samples, info={})

    with pytest.raises(UserError, match=message):
        compare(*runs(write))


def test_other_images_under_the_same_ids_are_refused(samples_dir, runs):
    def rotate():
        with Image.open(samples_dir / "images" / "3.png") as image:
            image.transpose(Image.Transpose.ROTATE_180).save(samples_dir / "images" / "2.png")

    with pytest.raises(UserError, match=r"1 of 6 ids .*'q2' has different images"):
        compare(*runs(rotate))


def test_settings_that_differ_are_named(samples_dir, runs):
    a, b = runs(template="answer-only", max_new_tokens=8)
    assert compare(a, b)["settings_differ"] == [
        "prompt template (medvlm-r1 and answer-only)",
        "max_new_tokens (512 and 8)",
    ]
    # Prompts and model files that differ under one name.
    c = a.with_name("c")
    evaluate("a", samples_dir, c, generator=only(A_RIGHT))
    rows = [json.loads(line) for line in (c / "answers.jsonl").read_text().splitlines()]
    for row in rows:
        row["key"] |= {"prompt": "another", "model": "0123"}
    (c / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert compare(a, c)["settings_differ"] == [
        "wording of the prompt (in 6 of 6 items, under one template's name)",
        "files of the model ('a' in both, but other weights or processor files)",
    ]


def test_image_size_limits_that_differ_are_named(samples_dir, runs, tmp_path):
    a, b = runs()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    processor = model / "processor_config.json"
    for run, longest in ((a, 12544), (b, 50176)):
        size = {"shortest_edge": 3136, "longest_edge": longest}
        processor.write_text(json.dumps({"image_processor": {"size": size}}))
        results = json.loads((run / "results.json").read_text())
        # A generator has no processor; a model in a folder has this.
        assert results["image_size"] is None
        (run / "results.json").write_text(json.dumps(results | {"image_size": image_size(str(model))}))
    assert compare(a, b)["settings_differ"] == [
        "image size limits (smallest 3136, largest 12544 and smallest 3136, largest 50176)"
    ]


def test_the_older_names_of_image_size_limits_are_read(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for text, size in (
        ('{"min_pixels": 3136, "max_pixels": 401408}', {"smallest": 3136, "largest": 401408}),
        ('{"size": {"height": 336, "width": 336}}', {"height": 336, "width": 336}),
        ("[]", None),
    ):
        (tmp_path / "preprocessor_config.json").write_text(text)
        assert image_size(str(tmp_path)) == size
    assert image_size(str(tmp_path / "nowhere")) is None
    assert image_size("phantom-base") == {"smallest": 12544, "largest": 12544}


def test_open_questions_are_left_out_and_counted(samples_dir, runs, tmp_path):
    samples = [replace(sample, options=() if n > 2 else sample.options) for n, sample in enumerate(make_samples())]
    write_folder(samples_dir, samples, info={})
    result = compare(*runs())
    assert (result["n_shared"], result["n_open"], result["all"]["n"]) == (6, 3, 3)
    assert (result["all"]["b"], result["all"]["c"]) == (1, 1)
    assert list(result["modalities"]) == ["MRI"]
    assert left_out(result).endswith("0 only in the second, 3 open questions in both.")
    write_folder(samples_dir, [replace(sample, options=()) for sample in samples], info={})
    evaluate("c", samples_dir, tmp_path / "c", generator=only(A_RIGHT))
    with pytest.raises(UserError, match="all 6 items that both have are open questions"):
        compare(tmp_path / "c", tmp_path / "c")
