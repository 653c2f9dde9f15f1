"""Paired comparison of two run folders against a hand-computed case."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import Scripted, make_samples, tagged

from medvlm_r1.data.folder import write_folder
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.evaluation.compare import compare
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.statistics import mcnemar_exact, paired_bootstrap

A_RIGHT = (0, 1)
B_RIGHT = (1, 2, 3, 4)


def only(numbers: tuple[int, ...]) -> Callable[[str], str]:
    return lambda prompt: tagged("A" if int(prompt.split("?")[0].split()[1]) in numbers else "B")


def test_counts_differences_and_p(samples_dir: Path, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    evaluate("a", samples_dir, a, generator=Scripted(only(A_RIGHT)))
    evaluate("b", samples_dir, b, generator=Scripted(only(B_RIGHT)))
    result = compare(a, b)
    assert (result["run_a"], result["run_b"], result["research_use"]) == (str(a), str(b), RESEARCH_USE)
    assert (result["n_shared"], result["only_in_a"], result["only_in_b"]) == (6, 0, 0)
    everything = result["all"]
    assert (everything["n"], everything["b"], everything["c"]) == (6, 1, 3)
    # Two items a patient: nets of -1, 2 and 1, and 6 of their 8 sign patterns add up to 2 or more, or -2 or less.
    assert (everything["test"], everything["p"]) == ("sign flips of subjects", 0.75)
    assert everything["accuracy_a"]["correct"] == 2
    assert everything["difference"] == pytest.approx(100 * 2 / 6)
    expected = paired_bootstrap([1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 2, 2])
    assert everything["ci95"] == [100 * expected.low, 100 * expected.high]
    assert list(result["modalities"]) == ["MRI", "CT"]
    assert {key: result["modalities"]["MRI"][key] for key in ("n", "b", "c", "difference")} == {
        "n": 3,
        "b": 1,
        "c": 1,
        "difference": 0.0,
    }
    assert result["modalities"]["CT"]["c"] == 2


def test_with_an_item_a_subject_the_test_is_mcnemars(samples_dir: Path, tmp_path: Path) -> None:
    samples = [replace(sample, subject=f"p{n}") for n, sample in enumerate(make_samples(6))]
    write_folder(samples_dir, samples, info={})
    evaluate("a", samples_dir, tmp_path / "a", generator=Scripted(only(A_RIGHT)))
    evaluate("b", samples_dir, tmp_path / "b", generator=Scripted(only(B_RIGHT)))
    everything = compare(tmp_path / "a", tmp_path / "b")["all"]
    assert (everything["test"], everything["p"]) == ("McNemar", mcnemar_exact(1, 3))


def test_a_run_does_not_differ_from_itself(samples_dir: Path, tmp_path: Path) -> None:
    evaluate("a", samples_dir, tmp_path / "a", generator=Scripted(only(A_RIGHT)))
    everything = compare(tmp_path / "a", tmp_path / "a")["all"]
    assert (everything["difference"], everything["ci95"], everything["p"]) == (0.0, [0.0, 0.0], 1.0)


def test_items_without_a_partner_are_left_out_and_counted(samples_dir: Path, tmp_path: Path) -> None:
    evaluate("a", samples_dir, tmp_path / "a", limit=4, generator=Scripted(only(A_RIGHT)))
    evaluate("b", samples_dir, tmp_path / "b", generator=Scripted(only(B_RIGHT)))
    result = compare(tmp_path / "a", tmp_path / "b")
    assert (result["n_shared"], result["only_in_a"], result["only_in_b"]) == (4, 0, 2)
    assert result["modalities"]["CT"]["n"] == 1


def test_runs_that_share_no_item_cannot_be_compared(samples_dir: Path, tmp_path: Path) -> None:
    evaluate("a", samples_dir, tmp_path / "a", limit=3, generator=Scripted(only(A_RIGHT)))
    write_folder(samples_dir, make_samples()[3:], info={})
    evaluate("b", samples_dir, tmp_path / "b", generator=Scripted(only(B_RIGHT)))
    with pytest.raises(UserError, match=r"a \(3 items\) and .*b \(3 items\) have no item in common"):
        compare(tmp_path / "a", tmp_path / "b")


def test_one_id_for_two_questions_cannot_be_compared(samples_dir: Path, tmp_path: Path) -> None:
    evaluate("a", samples_dir, tmp_path / "a", generator=Scripted(only(A_RIGHT)))
    file = samples_dir / "samples.jsonl"
    file.write_text(file.read_text().replace("Question 2?", "Question 2? Really?"))
    evaluate("b", samples_dir, tmp_path / "b", generator=Scripted(only(B_RIGHT)))
    with pytest.raises(UserError, match="'q2' is a different question in each"):
        compare(tmp_path / "a", tmp_path / "b")


def test_a_folder_without_answers_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*no such file"):
        compare(tmp_path / "nowhere", tmp_path)
