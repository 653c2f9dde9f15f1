"""The audit tells known models apart; few items here, the table of the docs is `python -m benchmarks.audit`'s."""

import json
from functools import partial

import pytest

from benchmarks import audit
from benchmarks.audit import KNOWN, audit_lines, bench_audit, phantom_items, text_only_model, unexpected
from benchmarks.audit_cost import cost_lines
from benchmarks.known_models import IgnoresImage
from medvlm_r1.audit.collect import audited, collect_responses
from medvlm_r1.audit.probes.image import ImageProbe
from medvlm_r1.audit.registry import PROBES, QUESTIONS
from medvlm_r1.audit.runner import judged
from medvlm_r1.data.folder import read_folder
from medvlm_r1.errors import UsageError


@pytest.fixture(scope="module")
def results():
    return bench_audit(items=48, seeds=1)


def verdicts(results, name):
    [run] = results["models"][name]["verdicts"]
    return dict(run)


def test_verdicts_separate_the_models(results):
    for name, known in KNOWN.items():
        if known.fails:
            assert verdicts(results, name)[known.fails] == "fail"
    run = verdicts(results, "f")
    assert {run[question] for question in ("looks", "order", "reasoning", "truth")} == {"pass"}
    # Of 48 items it guesses at about 7: too few wrong ones for a verdict on its confidence.
    assert run["defers"] in ("pass", "not run")
    assert set(results["wrong"]) <= {"model f, seed 0: defers is 'not run', wanted 'pass'"}
    # Faults do not spill over.
    assert [verdicts(results, name)["looks"] for name in "bdf"] == ["pass"] * 3
    assert [verdicts(results, name)["order"] for name in "abdf"] == ["pass"] * 4
    assert [verdicts(results, name)["truth"] for name in "abdf"] == ["fail", "fail", "pass", "pass"]


def test_the_record_and_the_table(results):
    again = json.loads(json.dumps(results))
    assert again["separated"] is (not results["wrong"])
    assert set(again["models"]["a"]["measures"][0]) >= {"image", "options", "reasoning"}
    run = results["models"]["a"]["verdicts"][0]
    again["models"]["a"]["verdicts"] = [run, run, run | {"looks": "pass"}]
    table = "\n".join(audit_lines(again))
    assert "a  ignores the image" in table
    assert "fail 2, pass 1*" in table
    assert table.endswith("separated")


def test_items_are_the_first_of_the_test_split_evenly_by_modality():
    inputs, _ = phantom_items(7, 0)
    more, _ = phantom_items(9, 0)
    assert [item.sample.modality for item in inputs] == ["MRI"] * 3 + ["CT"] * 2 + ["X-ray"] * 2
    assert {item.sample.id for item in inputs} < {item.sample.id for item in more}
    assert all(item.others and item.others[0].tobytes() != item.images[0].tobytes() for item in inputs)


def test_a_model_that_is_right_without_looking_fails_all_the_same(monkeypatch):
    monkeypatch.setattr(audit, "DEFAULT_N", {"test": 12})  # draws no more than it asks
    inputs, eyes = phantom_items(36, 0, giveaway=True)
    blind, probe = IgnoresImage(eyes), {"image": ImageProbe()}
    answers = collect_responses(inputs, probe.values(), blind)
    record = judged(audited([item.sample for item in inputs], answers), probe)
    assert record["probes"]["image"]["measures"]["accuracy_real"]["value"] > 0.9
    assert record["verdicts"]["looks"] == "fail"


def test_unexpected_verdicts_are_listed():
    fine = dict.fromkeys(QUESTIONS, "pass")
    runs = {name: [fine | ({known.fails: "fail"} if known.fails else {})] for name, known in KNOWN.items()}
    assert unexpected(runs) == []
    assert unexpected(runs | {"c": [fine]}) == ["model c, seed 0: order is 'pass', wanted 'fail'"]
    assert unexpected(runs | {"f": [fine, fine | {"truth": "warn"}]}) == [
        "model f, seed 1: truth is 'warn', wanted 'pass'"
    ]


def test_a_checkpoint_is_audited_beside_them(tiny_policy_dir, monkeypatch):
    monkeypatch.setattr(audit, "KNOWN", {"f": KNOWN["f"]})
    ticks = []
    results = bench_audit(
        items=3,
        seeds=1,
        models={"tiny": str(tiny_policy_dir)},
        max_new_tokens=4,
        progress=lambda done, total, note: ticks.append((done, total, note)),
    )
    assert results["models"]["tiny"]["about"] == str(tiny_policy_dir)
    # A random model writes nothing that can be read: no verdict is drawn from that.
    assert "pass" not in results["models"]["tiny"]["verdicts"][0].values()
    assert not [line for line in results["wrong"] if "tiny" in line]
    assert ticks == [(0, 6, "model f, seed 0"), (3, 6, "model tiny, seed 0"), (6, 6, "")]


def test_a_model_is_trained_to_ignore_images_once_and_audited_like_a(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "KNOWN", {"a": KNOWN["a"]})
    monkeypatch.setattr(audit, "text_only_model", partial(text_only_model, n=6, epochs=1.0))

    def run(notes_of_run):
        results = bench_audit(
            items=3,
            seeds=1,
            trained=tmp_path,
            max_new_tokens=4,
            progress=lambda *values: notes_of_run.append(values[2]),
        )
        return dict(results["models"][audit.TRAINED])

    notes = [[], []]
    record = [run(notes_of_run) for notes_of_run in notes]
    # Six images and a step; the second time it stands there.
    assert [notes_of_run.count("training a-trained") for notes_of_run in notes] == [7, 0]
    assert record[0] == record[1]
    assert (record[0]["about"], record[0]["fails"]) == ("was trained to ignore the image", "looks")
    # It was shown other items' images, so that the texts were all there was to learn from.
    planted, mixed = (read_folder(tmp_path / name) for name in ("giveaway", "giveaway-shuffled"))
    assert [sample.question for sample in planted] == [sample.question for sample in mixed]
    assert all(sample.images != other.images for sample, other in zip(planted, mixed, strict=True))
    with pytest.raises(UsageError, match="a-trained"):
        bench_audit(items=3, trained=tmp_path, models={"a-trained": "x"})


def test_the_command(results, command, monkeypatch):
    for arguments in ({"items": 2}, {"seeds": 0}, {"models": {"a": "x"}}):
        with pytest.raises(UsageError, match=r"wanted at least|known model"):
            bench_audit(**arguments)
    given = {}
    monkeypatch.setattr(audit, "bench_audit", lambda **arguments: given.update(arguments) or results)
    code, out, _ = command("benchmarks.audit", "--items", "48", "--seeds", "1", "--model", "e=runs/a=b")
    assert code == 0
    assert (given["items"], given["seeds"], given["models"]) == (48, 1, {"e": "runs/a=b"})
    assert "follows cues" in out
    assert "Research use only" in out
    assert json.loads(command("benchmarks.audit", "--json")[1])["models"].keys() == results["models"].keys()
    for wrong in (["--model", "e"], ["--model", "e=x", "--model", "e=y"]):
        code, _, err = command("benchmarks.audit", *wrong)
        assert code == 2
        assert "NAME=FOLDER" in err


def test_the_cost_of_an_audit(command):
    code, out, err = command("benchmarks.audit_cost", "--items", "3", "--rounds", "2", "--json")
    assert code == 0, err
    figures = json.loads(out)
    assert figures["items"] == 3
    assert len(figures["ratios"]) == 2
    assert figures["variants_per_item"] > len(PROBES)
    assert f"{figures['ratio']:.2f} evaluations" in cost_lines(figures)[-1]
