"""Which parts of a report come from which folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.report import load_run, load_runs

TEXTS = ["<think>x</think><answer>B</answer>"] * 4
RunMaker = Callable[..., Path]


def test_an_evaluation(make_run: RunMaker, samples_dir: Path) -> None:
    view = load_run(make_run("run", TEXTS))
    assert view.results is not None
    assert view.results["accuracy"]["mean"] == 100.0
    assert [answer.sample.id for answer in view.answers] == ["q0", "q1", "q2", "q3"]
    assert view.data == samples_dir
    assert view.metrics == ()


def test_the_data_is_found_where_both_were_moved(make_run: RunMaker, tmp_path: Path) -> None:
    make_run("run", TEXTS)
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere" / "data")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere" / "run")
    shutil.rmtree(tmp_path / "data")
    view = load_run(tmp_path / "elsewhere" / "run")
    assert view.data is not None
    assert view.data.resolve() == tmp_path / "elsewhere" / "data"
    shutil.rmtree(tmp_path / "elsewhere" / "data")
    assert load_run(tmp_path / "elsewhere" / "run").data is None


def test_a_training_has_curves_and_its_rollouts_are_no_answers(make_training: RunMaker) -> None:
    folder = make_training("grpo", [{"step": 1, "reward": 0.5}])
    (folder / "rollouts.jsonl").write_text('{"text": "a rollout"}\n')
    (folder / "results.json").write_text('{"accuracy": {}}')
    view = load_run(folder)
    assert (view.results, view.answers) == (None, ())
    assert view.metrics == ({"step": 1, "reward": 0.5},)


def test_a_line_still_being_written_is_left_out(make_training: RunMaker) -> None:
    folder = make_training("grpo", [{"step": 1}, {"step": 2}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    assert len(load_run(folder).metrics) == 2


def test_an_evaluation_with_its_training(make_run: RunMaker, make_training: RunMaker) -> None:
    view = load_run(make_run("run", TEXTS), training=make_training("grpo", [{"step": 1, "reward": 0.5}]))
    assert view.results is not None
    assert len(view.metrics) == 1


def test_what_is_neither_is_an_error(make_run: RunMaker, make_training: RunMaker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither results\.json of an evaluation nor metrics\.jsonl"):
        load_run(tmp_path)
    run = make_run("run", TEXTS)
    (run / "results.json").unlink()
    with pytest.raises(UserError, match="run the same `medvlm-r1 eval` again"):
        load_run(run)
    with pytest.raises(UserError, match=r"grpo: no metrics\.jsonl with a row"):
        load_run(run, training=make_training("grpo", []))


def test_a_broken_row_is_named(make_training: RunMaker) -> None:
    folder = make_training("grpo", [{"step": 1}])
    (folder / "metrics.jsonl").write_text('{"step": 1}\nnot json\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, row 2: malformed JSON"):
        load_run(folder)


def test_runs_are_named_after_their_folders(make_training: RunMaker, tmp_path: Path) -> None:
    for parent in ("one", "two"):
        (tmp_path / parent).mkdir()
        make_training(f"{parent}/eval", [{"step": 1}])
    make_training("grpo", [{"step": 1}])
    folders = [tmp_path / "one" / "eval", tmp_path / "two" / "eval"]
    assert list(load_runs([folders[0], tmp_path / "grpo"])) == ["eval", "grpo"]
    assert list(load_runs(folders)) == ["one/eval", "two/eval"]


def test_wrong_lists_of_runs(make_training: RunMaker) -> None:
    folder = make_training("grpo", [{"step": 1}])
    with pytest.raises(UsageError, match="no run folder"):
        load_runs([])
    with pytest.raises(UsageError, match="given twice"):
        load_runs([folder, f"{folder}/../grpo"])
