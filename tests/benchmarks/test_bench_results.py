"""The results page: demo, audit and its cost are measured with tiny sizes; the sections of the other benches are made
from their real figures in those benches' own tests."""

import json
import re
import shlex
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.no_think import STAGES
from benchmarks.results import COST, NAMES, Sizes, all_parts, bench_results, select_parts
from benchmarks.results_page import TITLES, render_page, render_part
from commands import parse_command
from medvlm_r1 import demo
from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError

OVERRIDES = ("trainer.max_steps=1", "trainer.per_device_train_batch_size=8", "trainer.save_strategy='no'")
DEMO = demo.Sizes(train=8, test=1, held_out=1, overrides=OVERRIDES)
SMALL = Sizes(demo=DEMO, audit_items=3, train_a=False, cost_items=3, cost_rounds=2)
MEASURED = ("demo", "audit", "audit-cost")


def run(out, *parts, page=None):
    return bench_results(out, parts=parts, seeds=1, sizes=SMALL, page=page)


def part(name, figures):
    """One part of the page, with plain spaces."""
    return render_part(name, figures).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    return out, run(out, *MEASURED)


def test_the_page_shows_what_was_measured_and_names_what_was_not(measured):
    out, outcome = measured
    assert json.loads((out / "results.json").read_text()) == outcome
    page = (out / "results.md").read_text()
    assert RESEARCH_USE in page
    for name, title in TITLES.items():
        section = page.split(f"## {title}\n")[1].split("\n## ")[0]
        assert (f"`python -m benchmarks.results --parts {name}` measures it" in section) == (name not in MEASURED)
        assert (outcome["parts"][name] is None) == (name not in MEASURED)
        for command in outcome["parts"][name]["commands"] if name in MEASURED else ():
            assert f"    {command}\n" in section
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert len(tables) == 6
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_every_arm_of_the_demo_is_trained(measured):
    out, outcome = measured
    [stages] = outcome["parts"]["demo"]["figures"]["seeds"]
    assert list(stages) == list(STAGES)
    page = (out / "results.md").read_text()
    assert [stage for stage in STAGES.values() if f"| {stage}" not in page] == []
    trained = out / "demo" / "seed-0" / "grpo_no_think"
    assert (trained / "model").is_dir()
    config = (trained / "config.yaml").read_text()
    assert "template: no-think" in config
    assert "start_no_think" in config
    # The base reasons whatever it is asked for.
    assert stages["zero_shot_no_think"]["well_formed"]["correct"] == 0
    assert all(cell["n"] == 1 for cell in stages["grpo_no_think"]["accuracy"].values())


def test_seeds_are_compared_pair_by_pair(measured):
    [first] = measured[1]["parts"]["demo"]["figures"]["seeds"]

    def outcome(right, of):
        means = {"grpo": right, "sft": of, "zero_shot": 50.0}
        return {name: stage | {"mean": means.get(name, 0.0)} for name, stage in first.items()}

    text = part("demo", {"seeds": [outcome(90.0, 40.0), outcome(94.0, 44.0)]})
    assert re.search(r"^\| GRPO \|.* 92\.0 \[66\.6, 100\.0\] \|", text, re.MULTILINE)
    assert re.search(r"^\| GRPO minus SFT \|.* \+50\.0 \[\+50\.0, \+50\.0\] \|$", text, re.MULTILINE)
    assert re.search(r"^\| GRPO minus Zero-shot \|.* \+42\.0 \[\+16\.6, \+67\.4\] \|$", text, re.MULTILINE)
    assert "| A guess among the options |" in text
    gain = first["grpo"]["gain"]
    assert f"seed 1 {gain['difference']:+.1f} [{gain['ci95'][0]:+.1f}, {gain['ci95'][1]:+.1f}], p = " in text
    # One question of each modality; of a type that no question of a modality has there is no figure.
    types = {name for kinds in first["grpo"]["by_type"].values() for name in kinds}
    for name in types:
        assert re.search(rf"^\| {name} \|.* of 1 ", text, re.MULTILINE)
    assert all(sum(first[stage]["letters"].values()) == 3 for stage in STAGES)
    # Equal figures are shown once.
    assert "have the same figures for every seed" in text
    assert re.findall(r"^\| (\d): Zero-shot", text, re.MULTILINE) == []
    assert re.findall(r"^\| (\d): SFT", text, re.MULTILINE) == ["0", "1"]


def test_finished_parts_are_reused(measured, tmp_path):
    out, outcome = measured
    times = {file: file.stat().st_mtime_ns for file in (out / "parts").iterdir()}
    assert run(out, *MEASURED, page=tmp_path / "docs") == outcome
    assert {file: file.stat().st_mtime_ns for file in (out / "parts").iterdir()} == times
    for name in ("results.md", "results.json"):
        assert (tmp_path / "docs" / name).read_text() == (out / name).read_text()


def test_an_interruption_leaves_a_page_of_what_is_finished_and_other_sizes_are_measured_anew(
    measured, tmp_path, monkeypatch
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    figures, calls = measured[1]["parts"]["audit"]["figures"], []
    monkeypatch.setattr(results, "bench_audit", lambda **given: calls.append(given["seeds"]) or figures)
    monkeypatch.setattr(results, "audit_cost", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "audit,audit-cost")
    outcome = json.loads((tmp_path / "results.json").read_text())
    assert [name for name in NAMES if outcome["parts"][name]] == ["audit"]
    assert outcome["parts"]["audit"]["figures"] == figures
    for seeds in (1, 2, 2):
        outcome = bench_results(tmp_path, parts=["audit"], seeds=seeds, sizes=SMALL)
        assert outcome["parts"]["audit"]["settings"] == {"items": 3, "seeds": seeds}
    assert calls == [1, 2]


@pytest.mark.parametrize("text", ["{", "[]", '{"figures": {}}'])
def test_a_damaged_part_is_named(tmp_path, text):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "step.json").write_text(text)
    with pytest.raises(UserError, match=r"step\.json is no finished part of the results .*; delete it"):
        run(tmp_path, "audit")


def test_parts_and_groups_are_chosen_by_name():
    assert select_parts([]) == list(NAMES)
    assert select_parts(["audit, demo"]) == ["demo", "audit"]
    assert select_parts(["cost", "step"]) == list(COST)
    with pytest.raises(UsageError, match=r"unknown part of the results 'audit-costs'.*audit-cost"):
        select_parts(["audit-costs"])


def test_the_page_of_the_documentation_is_made_from_its_figures():
    docs = Path(__file__).parents[2] / "docs"
    if not docs.is_dir():
        pytest.skip("the documentation is not in an installed package")
    assert (docs / "results.md").read_text() == render_page(json.loads((docs / "results.json").read_text()))


def test_every_command_is_one_of_ours():
    for known in all_parts(seeds=5, sizes=Sizes()).values():
        assert known.commands
        for command in known.commands:
            program, *words = shlex.split(command)
            parse_command(program, [word.replace("SEED", "0") for word in words])


def test_the_shortcut_takes_whatever_arms_there_are():
    def seed(more):
        arm = {"accuracy": {"MRI": 60.0 + more}, "reliance": {"mean": 20 + more}, "blank_right": 0.4}
        start = {"accuracy": {"MRI": 50.0 + more}, "out_of_domain": 50.0}
        plain, another = arm | {"out_of_domain": 40.0 + more}, arm | {"out_of_domain": 60.0 + more}
        return {"seed": 0, "start": start, "plain": plain, "another": another}

    outcome = {"train": 6, "test": 2, "seeds": [seed(0.0), seed(2.0)], "gain": {"by_seed": [1.0, 3.0], "mean": 2.0}}
    text = part("shortcut", outcome)
    assert "|  | start | plain | another |" in text
    assert "| accuracy MRI | 51.0 [38.3, 63.7] | 61.0 [48.3, 73.7] | 61.0 [48.3, 73.7] |" in text
    assert "| reliance mean | - | +21.0 [+8.3, +33.7] |" in text
    assert "+2.0 [-10.7, +14.7] points (seeds: +1.0, +3.0)" in text
    assert "| plain | -9.0 [-21.7, +3.7] | - |" in text
    assert "| another | +11.0 [-1.7, +23.7] | +20.0 [+20.0, +20.0] |" in text


def test_the_command_says_where_the_page_is(command, measured, tmp_path):
    _, outcome = measured
    record = outcome["parts"]["audit"] | {"settings": {"items": Sizes().audit_items, "seeds": 1}}
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "audit.json").write_text(json.dumps(record))
    arguments = ("benchmarks.results", "--out", tmp_path, "--parts", "audit", "--seeds", 1)
    code, printed, err = command(*arguments)
    assert code == 0, err
    assert re.search(r"^audit +measured$", printed, re.MULTILINE)
    assert re.search(r"^demo +not run$", printed, re.MULTILINE)
    assert f"Page: {tmp_path / 'results.md'}\n{RESEARCH_USE}" in printed
    assert json.loads(command(*arguments, "--json")[1])["parts"]["audit"] == record
    assert command("benchmarks.results", "--out", tmp_path, "--parts", "adit")[0] == 2
