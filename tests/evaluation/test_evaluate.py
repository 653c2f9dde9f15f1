"""Evaluation: the figures, resuming, and what stops it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from scripted import OPTIONS, Scripted, make_samples, tagged

from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.store import ANSWERS, RESULTS


def right_up_to_two(prompt: str) -> str:
    """Questions 0 to 2 right, 3 wrong, 4 without tags, 5 not at all."""
    number = int(prompt.split("?")[0].split()[1])
    return {3: tagged("B"), 4: "A", 5: "I cannot tell"}.get(number, tagged("A"))


def ids(folder: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / ANSWERS).read_text().splitlines()]


def test_figures_and_files(samples_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    results = evaluate("some/model", samples_dir, out, batch_size=4, generator=Scripted(right_up_to_two))
    assert results["accuracy"]["MRI"]["percent"] == 100.0
    assert results["accuracy"]["CT"]["percent"] == 0.0
    assert results["lenient"]["CT"]["correct"] == 1
    assert results["accuracy"]["mean"] == 50.0
    assert results["well_formed"]["correct"] == 4
    assert results["by_type"]["MRI"]["Anatomy Identification"]["n"] == 1
    assert results["research_use"] == RESEARCH_USE
    assert (results["model"], results["data"]) == ("some/model", str(samples_dir))
    assert (out / results["data_from_run"]).resolve() == samples_dir.resolve()
    assert results["n_missing"] == 0
    assert json.loads((out / RESULTS).read_text()) == results
    assert ids(out) == [f"q{i}" for i in range(6)]


def test_progress_counts_answers(samples_dir: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(
        "m",
        samples_dir,
        tmp_path / "run",
        batch_size=4,
        generator=Scripted(right_up_to_two),
        progress=lambda done, wanted: seen.append((done, wanted)),
    )
    assert seen == [(0, 6), (4, 6), (6, 6)]


def test_an_interrupted_run_goes_on_where_it_stood(samples_dir: Path, tmp_path: Path) -> None:
    whole = evaluate("m", samples_dir, tmp_path / "whole", generator=Scripted(right_up_to_two))
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        evaluate("m", samples_dir, out, batch_size=2, generator=Scripted(right_up_to_two, stop_after=2))
    assert ids(out) == ["q0", "q1", "q2", "q3"]
    assert not (out / RESULTS).exists()
    again = Scripted(right_up_to_two)
    resumed = evaluate("m", samples_dir, out, batch_size=2, generator=again)
    assert [len(batch) for batch in again.batches] == [2]
    assert {k: v for k, v in resumed.items() if k != "seconds"} == {k: v for k, v in whole.items() if k != "seconds"}
    evaluate("m", samples_dir, out, generator=Scripted(right_up_to_two, stop_after=0))


def test_a_line_cut_short_is_answered_again(samples_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    evaluate("m", samples_dir, out, generator=Scripted(right_up_to_two))
    path = out / ANSWERS
    path.write_bytes(path.read_bytes()[:-9])
    again = Scripted(right_up_to_two)
    evaluate("m", samples_dir, out, generator=again)
    assert len(again.batches) == 1
    assert ids(out) == [f"q{i}" for i in range(6)]


def test_seconds_add_up_over_sessions(samples_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        evaluate("m", samples_dir, out, batch_size=3, generator=Scripted(right_up_to_two, stop_after=1))
    lines = [json.loads(line) | {"seconds": 10.0} for line in (out / ANSWERS).read_text().splitlines()]
    (out / ANSWERS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert evaluate("m", samples_dir, out, generator=Scripted(right_up_to_two))["seconds"] >= 30


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "other"}, r"model \(then generator m, now generator ot"),
        ({"max_new_tokens": 9}, r"max_new_tokens \(then 512, now 9\)"),
        ({"template": "answer-only"}, "prompt"),
    ],
)
def test_answers_of_another_run_are_not_mixed_in(
    samples_dir: Path, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    out = tmp_path / "run"
    evaluate("m", samples_dir, out, limit=2, generator=Scripted(right_up_to_two))
    before = (out / ANSWERS).read_bytes()
    arguments = {"model": "m", "data_dir": samples_dir, "out": out, "generator": Scripted(right_up_to_two)} | change
    with pytest.raises(UserError, match=rf"made with another {named}.*--out"):
        evaluate(**arguments)  # type: ignore[arg-type]
    assert (out / ANSWERS).read_bytes() == before


def test_changed_pixels_are_other_data_and_another_encoding_is_not(samples_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    evaluate("m", samples_dir, out, generator=Scripted(right_up_to_two))
    picture = samples_dir / "images" / "1.png"
    with Image.open(picture) as image:
        same = image.convert("RGB")
    same.save(picture, "bmp")
    evaluate("m", samples_dir, out, generator=Scripted(right_up_to_two, stop_after=0))
    same.putpixel((0, 0), (255, 255, 255))
    same.save(picture, "png")
    with pytest.raises(UserError, match="'q1' was made with another pixels"):
        evaluate("m", samples_dir, out, generator=Scripted(right_up_to_two))


def test_items_that_are_not_in_the_data_stop_it(samples_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    evaluate("m", samples_dir, out, generator=Scripted(right_up_to_two))
    write_folder(samples_dir, make_samples()[:4], info={})
    with pytest.raises(UserError, match=r"2 of its 6 answers are to items that are not in .*'q4'.*the data differs"):
        evaluate("m", samples_dir, out, generator=Scripted(right_up_to_two))


def test_another_right_answer_stops_it(samples_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    evaluate("m", samples_dir, out, generator=Scripted(right_up_to_two))
    text = (samples_dir / "samples.jsonl").read_text()
    (samples_dir / "samples.jsonl").write_text(
        text.replace(f'"answer": "{OPTIONS[0]}"', f'"answer": "{OPTIONS[1]}"', 1)
    )
    with pytest.raises(UserError, match="correct answer \\(then 'liver', now 'kidney'\\)"):
        evaluate("m", samples_dir, out, generator=Scripted(right_up_to_two))


def test_missing_images_stop_it_unless_told(samples_dir: Path, tmp_path: Path) -> None:
    (samples_dir / "images" / "1.png").unlink()
    (samples_dir / "images" / "4.png").unlink()
    with pytest.raises(
        UserError, match=r"missing for 2 of 6 rows, the first in row 2 \(images/1.png\).*--skip-missing"
    ):
        evaluate("m", samples_dir, tmp_path / "run", generator=Scripted(right_up_to_two))
    results = evaluate("m", samples_dir, tmp_path / "run", skip_missing=True, generator=Scripted(right_up_to_two))
    assert (results["n"], results["n_missing"]) == (4, 2)
    assert results["accuracy"]["MRI"]["n"] == 2


def test_an_image_that_the_source_does_not_name_is_missing_too(samples_dir: Path, tmp_path: Path) -> None:
    samples = read_folder(samples_dir)
    write_folder(samples_dir, [replace(samples[0], images=(), missing=True), *samples[1:]], info={})
    with pytest.raises(UserError, match=r"missing for 1 of 6 rows, the first in row 1 \(its source does not name it\)"):
        evaluate("m", samples_dir, tmp_path / "run", generator=Scripted(right_up_to_two))
    results = evaluate("m", samples_dir, tmp_path / "run", skip_missing=True, generator=Scripted(right_up_to_two))
    assert (results["n"], results["n_missing"]) == (5, 1)


def test_images_that_came_later_are_answered_then(samples_dir: Path, tmp_path: Path) -> None:
    picture = samples_dir / "images" / "1.png"
    content = picture.read_bytes()
    picture.unlink()
    evaluate("m", samples_dir, tmp_path / "run", skip_missing=True, generator=Scripted(right_up_to_two))
    picture.write_bytes(content)
    again = Scripted(right_up_to_two)
    results = evaluate("m", samples_dir, tmp_path / "run", generator=again)
    assert again.batches == [["Question 1?"]]
    assert (results["n"], results["n_missing"]) == (6, 0)


def test_nothing_left_is_an_error(samples_dir: Path, tmp_path: Path) -> None:
    for picture in (samples_dir / "images").iterdir():
        picture.unlink()
    with pytest.raises(UserError, match="missing for all 6 rows"):
        evaluate("m", samples_dir, tmp_path / "run", skip_missing=True, generator=Scripted(right_up_to_two))


def test_a_damaged_image_is_named_before_any_work(samples_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    evaluate("m", samples_dir, out, limit=2, generator=Scripted(right_up_to_two))
    picture = samples_dir / "images" / "4.png"
    picture.write_bytes(picture.read_bytes()[:40])
    with pytest.raises(UserError, match=r"row 5 \(id 'q4'\): .*4\.png.*answers are kept"):
        evaluate("m", samples_dir, out, skip_missing=True, generator=Scripted(right_up_to_two))
    assert ids(out) == ["q0", "q1"]


def test_an_image_damaged_under_way_leaves_finished_answers(samples_dir: Path, tmp_path: Path) -> None:
    picture = samples_dir / "images" / "4.png"

    def reply(prompt: str) -> str:
        picture.write_bytes(b"")
        return right_up_to_two(prompt)

    with pytest.raises(UserError, match=r"row 5 \(id 'q4'\): .*4\.png"):
        evaluate("m", samples_dir, tmp_path / "run", batch_size=2, generator=Scripted(reply))
    assert ids(tmp_path / "run") == ["q0", "q1", "q2", "q3"]


def test_a_limit_takes_the_first_rows_and_can_be_raised(samples_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert evaluate("m", samples_dir, out, limit=2, generator=Scripted(right_up_to_two))["n"] == 2
    again = Scripted(right_up_to_two)
    assert evaluate("m", samples_dir, out, limit=5, generator=again)["n"] == 5
    assert again.batches == [["Question 2?", "Question 3?", "Question 4?"]]
    assert evaluate("m", samples_dir, out, limit=3, generator=Scripted(right_up_to_two, stop_after=0))["n"] == 3


@pytest.mark.parametrize(
    ("change", "seen"),
    [({"limit": 0}, "limit is 0"), ({"batch_size": 0}, "batch_size is 0"), ({"template": "nonsense"}, "nonsense")],
)
def test_wrong_usage(samples_dir: Path, tmp_path: Path, change: dict[str, object], seen: str) -> None:
    with pytest.raises(UsageError, match=seen):
        evaluate("m", samples_dir, tmp_path / "run", generator=Scripted(right_up_to_two), **change)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_the_data_folder_is_no_run_folder(samples_dir: Path) -> None:
    before = (samples_dir / "samples.jsonl").read_bytes()
    with pytest.raises(UsageError, match="is the data folder"):
        evaluate("m", samples_dir, samples_dir, generator=Scripted(right_up_to_two))
    assert (samples_dir / "samples.jsonl").read_bytes() == before


def test_a_local_model_answers_and_is_known_by_its_weights(
    tiny_policy_dir: Path, samples_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    results = evaluate(str(tiny_policy_dir), samples_dir, out, max_new_tokens=4, batch_size=4)
    assert (results["n"], results["cut_off"]["n"]) == (6, 6)
    assert len(results["model_fingerprint"]) == 64
    before = (out / ANSWERS).read_bytes()
    assert evaluate(str(tiny_policy_dir), samples_dir, out, max_new_tokens=4, batch_size=3) == results
    assert (out / ANSWERS).read_bytes() == before
