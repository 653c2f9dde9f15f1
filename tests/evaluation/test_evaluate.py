"""Evaluation: the figures, resuming, and what stops it."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.store import ANSWERS, RESULTS, SYNONYMS, read_answers
from medvlm_r1.prompts.templates import render_prompt
from scripted import OPTIONS, Scripted, make_samples, tagged


def reply(prompt):
    """Questions 0 to 2 correct, 3 wrong, 4 without tags, 5 not at all."""
    number = int(prompt.split("?")[0].split()[1])
    return {3: tagged("B"), 4: "A", 5: "I cannot tell"}.get(number, tagged("A"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def run(samples_dir, out):
    """A function that evaluates a scripted model "m" on the six questions; its arguments change the call."""

    def call(**changes):
        arguments = {"model": "m", "data_dir": samples_dir, "out": out, "generator": Scripted(reply)}
        return evaluate(**(arguments | changes))

    return call


def ids(folder):
    return [json.loads(line)["id"] for line in (folder / ANSWERS).read_text().splitlines()]


def test_figures_files_and_progress(run, samples_dir, out):
    calls = []
    results = run(model="some/model", batch_size=4, progress=lambda *call: calls.append(call))
    assert calls == [(0, 6), (4, 6), (6, 6)]
    assert [results["accuracy"][name]["percent"] for name in ("MRI", "CT")] == [100.0, 0.0]
    assert results["accuracy"]["mean"] == 50.0
    assert results["lenient"]["CT"]["correct"] == 1
    assert results["well_formed"]["correct"] == 4
    assert results["by_type"]["MRI"]["Anatomy Identification"]["n"] == 1
    assert (results["research_use"], results["n_missing"]) == (RESEARCH_USE, 0)
    assert (results["model"], results["data"]) == ("some/model", str(samples_dir))
    assert (out / results["data_from_run"]).resolve() == samples_dir.resolve()
    assert json.loads((out / RESULTS).read_text()) == results
    assert ids(out) == [f"q{i}" for i in range(6)]


def test_an_interrupted_run_resumes(run, out, tmp_path):
    whole = run(out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(batch_size=2, generator=Scripted(reply, stop_after=2))
    assert ids(out) == ["q0", "q1", "q2", "q3"]
    assert not (out / RESULTS).exists()
    lines = [json.loads(line) | {"seconds": 10.0} for line in (out / ANSWERS).read_text().splitlines()]
    (out / ANSWERS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = Scripted(reply)
    resumed = run(batch_size=2, generator=again)
    assert resumed | {"seconds": 0} == whole | {"seconds": 0}
    # Those of both sessions.
    assert resumed["seconds"] >= 40
    assert [len(batch) for batch in again.batches] == [2]
    run(generator=Scripted(reply, stop_after=0))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "other"}, r"model \(then generator m, now generator ot.* was named 'm', now 'other'"),
        ({"max_new_tokens": 9}, r"max_new_tokens \(then 512, now 9\)"),
        ({"template": "answer-only"}, "prompt"),
    ],
)
def test_answers_of_another_run_are_not_mixed_in(run, out, change, named):
    run(limit=2)
    before = (out / ANSWERS).read_bytes()
    with pytest.raises(UserError, match=rf"made with another {named}.*--out"):
        run(**change)
    assert (out / ANSWERS).read_bytes() == before


def test_changed_pixels_are_other_data_and_another_encoding_is_not(run, samples_dir):
    run()
    picture = samples_dir / "images" / "1.png"
    with Image.open(picture) as image:
        same = image.convert("RGB")
    same.save(picture, "bmp")
    run(generator=Scripted(reply, stop_after=0))
    same.putpixel((0, 0), (255, 255, 255))
    same.save(picture, "png")
    with pytest.raises(UserError, match="'q1' was made with another pixels"):
        run()


def test_other_items_or_another_correct_answer_stop_it(run, samples_dir):
    run()
    first, *others = make_samples()
    write_folder(samples_dir, [replace(first, answer=OPTIONS[1]), *others], info={})
    with pytest.raises(UserError, match="correct answer \\(then 'liver', now 'kidney'\\)"):
        run()
    write_folder(samples_dir, make_samples()[:4], info={})
    with pytest.raises(UserError, match=r"2 of its 6 answers are to items that are not in .*'q4'.*the data differs"):
        run()


def test_missing_images_stop_it_unless_skipped_and_are_answered_later(run, samples_dir):
    contents = {name: (samples_dir / "images" / name).read_bytes() for name in ("1.png", "4.png")}
    for name in contents:
        (samples_dir / "images" / name).unlink()
    with pytest.raises(UserError, match=r"missing for 2 of 6 rows, the first in row 2 \(images/1.png\).*--skip-miss"):
        run()
    results = run(skip_missing=True)
    assert (results["n"], results["n_missing"], results["accuracy"]["MRI"]["n"]) == (4, 2, 2)
    (samples_dir / "images" / "1.png").write_bytes(contents["1.png"])
    again = Scripted(reply)
    results = run(skip_missing=True, generator=again)
    assert again.batches == [["Question 1?"]]
    assert (results["n"], results["n_missing"]) == (5, 1)


def test_an_image_that_the_source_does_not_name_is_missing_too(run, samples_dir):
    samples = read_folder(samples_dir)
    write_folder(samples_dir, [replace(samples[0], images=(), missing=True), *samples[1:]], info={})
    with pytest.raises(UserError, match=r"missing for 1 of 6 rows, the first in row 1 \(its source does not name it\)"):
        run()
    results = run(skip_missing=True)
    assert (results["n"], results["n_missing"]) == (5, 1)
    for picture in (samples_dir / "images").iterdir():
        picture.unlink()
    with pytest.raises(UserError, match="missing for all 6 rows"):
        run(skip_missing=True)


@pytest.mark.parametrize("under_way", [False, True])
def test_a_damaged_image_is_named_and_answers_are_kept(run, samples_dir, out, under_way):
    picture = samples_dir / "images" / "4.png"

    def damage(prompt):
        picture.write_bytes(picture.read_bytes()[:40])
        return reply(prompt)

    if under_way:
        arguments = {"batch_size": 2, "generator": Scripted(damage)}
    else:
        run(limit=2)
        picture.write_bytes(picture.read_bytes()[:40])
        arguments = {"skip_missing": True}
    with pytest.raises(UserError, match=r"row 5 \(id 'q4'\): .*4\.png.*answers are kept"):
        run(**arguments)
    assert ids(out) == ["q0", "q1", "q2", "q3"][: 4 if under_way else 2]


def test_a_limit_takes_the_first_rows_and_can_be_raised(run):
    assert run(limit=2)["n"] == 2
    again = Scripted(reply)
    assert run(limit=5, generator=again)["n"] == 5
    assert again.batches == [["Question 2?", "Question 3?", "Question 4?"]]
    assert run(limit=3, generator=Scripted(reply, stop_after=0))["n"] == 3


def test_wrong_usage(run, samples_dir, out):
    before = (samples_dir / "samples.jsonl").read_bytes()
    wrong = {"limit": (0, "limit is 0"), "batch_size": (0, "batch_size is 0"), "template": ("nonsense", "nonsense")}
    for name, (value, message) in (wrong | {"out": (samples_dir, "is the data folder")}).items():
        with pytest.raises(UsageError, match=message):
            run(**{name: value})
    assert (out.exists(), (samples_dir / "samples.jsonl").read_bytes()) == (False, before)


def test_a_local_model_answers_and_is_known_by_its_weights(run, tiny_policy_dir, out):
    settings = {"model": str(tiny_policy_dir), "generator": None, "max_new_tokens": 4}
    results = run(**settings, batch_size=4)
    assert (results["n"], results["cut_off"]["n"]) == (6, 6)
    assert len(results["model_fingerprint"]) == 64
    before = (out / ANSWERS).read_bytes()
    assert run(**settings, batch_size=3) == results
    assert (out / ANSWERS).read_bytes() == before


def test_own_synonyms_of_open_answers_are_kept_with_the_run(run, samples_dir, out, tmp_path):
    write_folder(samples_dir, [replace(sample, options=()) for sample in make_samples()], info={})
    own = tmp_path / "own.tsv"
    own.write_text("liver\thepar\n")
    generator = Scripted(lambda prompt: tagged("hepar"))
    assert run(synonyms=own, generator=generator)["open"]["by_rule"] == {"exact": {"n": 6, "score": 100}}
    row = json.loads((out / ANSWERS).read_text().splitlines()[0])
    assert (row["correct"], row["score"], row["rule"]) == (True, 1, "exact")
    assert "in a few words inside <answer>" in render_prompt(read_folder(samples_dir)[0])
    own.unlink()
    assert all(answer.graded().correct for answer in read_answers(out))
    # Without the file, the same answers are scored by the table of the package.
    assert run(generator=Scripted(reply, stop_after=0))["open"]["correct"] == 0
    assert not (out / SYNONYMS).exists()
    with pytest.raises(UserError, match="the synonyms cannot be read"):
        run(synonyms=own)
