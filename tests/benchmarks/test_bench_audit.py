"""The audit tells known models apart; few items here, the table of the docs is `python -m benchmarks.audit`'s."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import audit
from benchmarks.audit import KNOWN, audit_lines, bench_audit, phantom_items, text_only_model, unexpected
from benchmarks.known_models import IgnoresImage
from medvlm_r1.audit.collect import audited, collect_responses
from medvlm_r1.audit.probes.image import ImageProbe
from medvlm_r1.audit.registry import QUESTIONS
from medvlm_r1.audit.runner import judged
from medvlm_r1.data.folder import read_folder
from medvlm_r1.errors import UsageError


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return bench_audit(items=48, seeds=1)


def verdicts(found: dict[str, Any], name: str) -> dict[str, str]:
    [run] = found["models"][name]["verdicts"]
    return dict(run)


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.fails])
def test_each_fault_fails_on_its_own_verdict(found: dict[str, Any], name: str) -> None:
    assert verdicts(found, name)[found["models"][name]["fails"]] == "fail"


def test_the_oracle_passes(found: dict[str, Any]) -> None:
    run = verdicts(found, "f")
    assert {run[question] for question in ("looks", "order", "reasoning", "truth")} == {"pass"}
    # Of 48 items it guesses at about 7: too few wrong ones to tell what its confidence is worth.
    assert run["defers"] in ("pass", "not run")
    assert set(found["wrong"]) <= {"model f, seed 0: defers is 'not run', wanted 'pass'"}


def test_faults_do_not_spill_over(found: dict[str, Any]) -> None:
    assert [verdicts(found, name)["looks"] for name in "bdf"] == ["pass"] * 3
    assert [verdicts(found, name)["order"] for name in "abdf"] == ["pass"] * 4
    assert [verdicts(found, name)["truth"] for name in "abdf"] == ["fail", "fail", "pass", "pass"]


def test_the_record_and_the_table(found: dict[str, Any]) -> None:
    again = json.loads(json.dumps(found))
    assert again["separated"] is (not found["wrong"])
    assert set(again["models"]["a"]["measures"][0]) >= {"image", "options", "reasoning"}
    table = "\n".join(audit_lines(again))
    assert "a  ignores the image" in table
    assert "fail*" in table
    assert table.endswith("separated")


def test_items_are_the_first_of_the_test_split_evenly_by_modality() -> None:
    asked, _ = phantom_items(7, 0)
    more, _ = phantom_items(9, 0)
    assert [item.sample.modality for item in asked] == ["MRI"] * 3 + ["CT"] * 2 + ["X-ray"] * 2
    assert {item.sample.id for item in asked} < {item.sample.id for item in more}
    assert all(item.others and item.others[0].tobytes() != item.images[0].tobytes() for item in asked)


def test_a_model_that_is_right_without_looking_fails_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "DEFAULT_N", {"test": 12})  # draws no more than it asks
    asked, eyes = phantom_items(36, 0, shortcut=True)
    blind, probe = IgnoresImage(eyes), {"image": ImageProbe()}
    answers = collect_responses(asked, probe.values(), blind)
    record = judged(audited([item.sample for item in asked], answers), probe)
    assert record["probes"]["image"]["measures"]["accuracy_real"]["value"] > 0.9
    assert record["verdicts"]["looks"] == "fail"


def test_what_is_unexpected_is_said() -> None:
    fine = dict.fromkeys(QUESTIONS, "pass")
    runs = {name: [fine | ({known.fails: "fail"} if known.fails else {})] for name, known in KNOWN.items()}
    assert unexpected(runs) == []
    assert unexpected(runs | {"c": [fine]}) == ["model c, seed 0: order is 'pass', wanted 'fail'"]
    assert unexpected(runs | {"f": [fine, fine | {"truth": "warn"}]}) == [
        "model f, seed 1: truth is 'warn', wanted 'pass'"
    ]


def test_mixed_verdicts_are_counted_in_the_table() -> None:
    run = dict.fromkeys(QUESTIONS, "pass")
    part = {"about": "x", "fails": "looks", "verdicts": [run, run, run | {"looks": "fail"}]}
    lines = audit_lines(
        {"items": 3, "seeds": 3, "shortcut": False, "models": {"a": part}, "wrong": ["oh"], "separated": False}
    )
    assert "pass 2, fail 1*" in lines[2]
    assert lines[-2:] == ["oh", "NOT separated"]


def test_a_checkpoint_is_audited_beside_them(tiny_policy_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "KNOWN", {"f": KNOWN["f"]})
    ticks: list[tuple[int, int, str]] = []
    found = bench_audit(
        items=3,
        seeds=1,
        models={"tiny": str(tiny_policy_dir)},
        max_new_tokens=4,
        progress=lambda done, total, note: ticks.append((done, total, note)),
    )
    assert found["models"]["tiny"]["about"] == str(tiny_policy_dir)
    # A random model writes nothing that can be read: no verdict is drawn from that.
    assert "pass" not in found["models"]["tiny"]["verdicts"][0].values()
    assert not [line for line in found["wrong"] if "tiny" in line]
    assert ticks == [(0, 6, "model f, seed 0"), (3, 6, "model tiny, seed 0"), (6, 6, "")]


def test_a_model_is_trained_to_ignore_images_once_and_audited_like_a(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "KNOWN", {"a": KNOWN["a"]})
    monkeypatch.setattr(audit, "text_only_model", partial(text_only_model, n=6, epochs=1.0))

    def run(said: list[str]) -> dict[str, Any]:
        found = bench_audit(
            items=3, seeds=1, trained=tmp_path, max_new_tokens=4, progress=lambda *told: said.append(told[2])
        )
        return dict(found["models"][audit.TRAINED])

    notes: list[list[str]] = [[], []]
    record = [run(said) for said in notes]
    # Six images and a step; the second time it stands there.
    assert [said.count("training a-trained") for said in notes] == [7, 0]
    assert record[0] == record[1]
    assert (record[0]["about"], record[0]["fails"]) == ("was trained to ignore the image", "looks")
    # It was shown other items' images, so that the texts were all there was to learn from.
    drawn, mixed = (read_folder(tmp_path / name) for name in ("shortcut", "shortcut-shuffled"))
    assert [one.question for one in drawn] == [one.question for one in mixed]
    assert all(one.images != other.images for one, other in zip(drawn, mixed, strict=True))
    with pytest.raises(UsageError, match="a-trained"):
        bench_audit(items=3, trained=tmp_path, models={"a-trained": "x"})


@pytest.mark.parametrize("arguments", [{"items": 2}, {"seeds": 0}, {"models": {"a": "x"}}])
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"wanted at least|known model"):
        bench_audit(**arguments)


def test_the_command(
    found: dict[str, Any], command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(audit, "bench_audit", lambda **given: seen.update(given) or found)
    code, out, _ = command("benchmarks.audit", "--items", "48", "--seeds", "1", "--model", "e=runs/a=b")
    assert code == 0
    assert (seen["items"], seen["seeds"], seen["models"]) == (48, 1, {"e": "runs/a=b"})
    assert "follows cues" in out
    assert "Research use only" in out
    code, out, _ = command("benchmarks.audit", "--json")
    assert json.loads(out)["models"].keys() == found["models"].keys()
    for wrong in (["--model", "e"], ["--model", "e=x", "--model", "e=y"]):
        code, _, err = command("benchmarks.audit", *wrong)
        assert code == 2
        assert "NAME=FOLDER" in err
