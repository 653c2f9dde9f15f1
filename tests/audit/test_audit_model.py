"""The audit of a model from a data folder to `audit.json`: resumed, refused, counted, from an evaluation's answers."""

import json
import shutil
from dataclasses import replace
from typing import get_type_hints

import pytest

from audited import WELL, Scripted, item
from audited import sample as question_of
from medvlm_r1.audit.collect import audited
from medvlm_r1.audit.local_backend import LocalAuditBackend
from medvlm_r1.audit.registry import FURTHER, PROBES, QUESTIONS, answer_word
from medvlm_r1.audit.runner import ITEMS_AT_ONCE, REQUESTS, audit_model, judged
from medvlm_r1.audit.store import AuditStore
from medvlm_r1.audit.variant import REAL
from medvlm_r1.cli.audit import audit_model_command
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.models.load import load_policy
from scripted import Scripted as Generator


def test_every_probe_gives_a_result_and_every_question_a_verdict(data_dir, tmp_path):
    calls, backend, run = [], Scripted(), tmp_path / "run"
    record = audit_model("m", data_dir, run, backend=backend, batch_size=3, progress=lambda *call: calls.append(call))
    assert set(record["probes"]) == set(PROBES)
    assert set(record["verdicts"]) == set(QUESTIONS) == {"looks", "order", "reasoning", "truth", "defers", "points"}
    assert (record["n"], record["research_use"]) == (8, RESEARCH_USE)
    assert record["answers"]["variants"] == len(backend.names)
    assert record == json.loads((run / "audit.json").read_text())
    total = len(backend.names)
    assert (calls[0], calls[-1]) == ((0, None), (total, total))
    # Two steps for each of three parts, each answer counted as soon as it is there.
    step, each = calls[1][0] // 2, total // 8
    steps = [2 * step, 2 * each, 2 * each + 3 * step, 5 * each, 5 * each + 3 * step, 8 * each]
    assert [done for done, _ in calls[1:-1]] == steps
    assert all(expected is not None and done <= expected for done, expected in calls[1:])
    assert backend.names.count("real") == 8
    # The order of the items does not matter.
    with AuditStore(run) as store:
        items = audited(read_folder(data_dir), {name: item.answers for name, item in store.items.items()})
    assert judged(items[::-1], PROBES) == judged(items, PROBES)


def test_a_verdict_answers_its_question():
    assert [answer_word(level, "") for level in ("pass", "warn", "fail")] == ["Yes", "Partly", "No"]
    few = item(question_of(), {REAL: "o0"})
    results = {name: probe.measure([few]) for name, probe in PROBES.items()}
    words = {name: answer_word(result.verdict, result.sentence) for name, result in results.items()}
    # It has no image, no record of it, one order, no confidence, and no option to deny anything.
    assert {words.pop(name) for name in ("subgroups", "reasoning")} == {"Too little data"}
    assert set(words.values()) == {"Not measured"}
    assert {*FURTHER, *(probe for probe, _ in QUESTIONS.values())} == set(PROBES)


def test_the_help_has_the_default_batch():
    [option] = get_type_hints(audit_model_command, include_extras=True)["batch_size"].__metadata__
    assert f"(default: {ITEMS_AT_ONCE}; for a server, {REQUESTS} requests)" in option.help


def test_an_audit_stopped_after_any_batch_has_the_same_answers_bit_by_bit(data_dir, tmp_path, tiny_policy_dir):
    """All batches of two parts; `rows` is small, so that a step has several. A last line is cut short."""
    policy = load_policy(str(tiny_policy_dir), device="cpu")

    def audit(out, stop_after=None):
        calls = []

        def progress(done, expected):
            calls.append(done)
            if len(calls) - 1 == stop_after:
                raise KeyboardInterrupt

        backend = LocalAuditBackend(policy=policy, max_new_tokens=6, rows=8)
        audit_model("m", data_dir, out, backend=backend, batch_size=2, limit=4, progress=progress)
        return len(calls) - 2

    batches = audit(tmp_path / "whole")
    assert batches >= 8
    whole = (tmp_path / "whole" / "answers.jsonl").read_bytes()
    for stop_after in range(1, batches + 1, 2):
        log = tmp_path / f"stopped-{stop_after}" / "answers.jsonl"
        with pytest.raises(KeyboardInterrupt):
            audit(log.parent, stop_after)
        assert 0 < log.read_bytes().count(b"\n") <= whole.count(b"\n")
        log.write_bytes(log.read_bytes() + b'{"id": "q5", "answ')
        assert audit(log.parent) == batches - stop_after
        assert log.read_bytes() == whole


def test_further_probes_generate_only_what_is_new(data_dir, tmp_path):
    audit_model("m", data_dir, tmp_path, backend=Scripted(), probes=["image"])
    more, again = Scripted(), Scripted()
    record = audit_model("m", data_dir, tmp_path, backend=more, probes=["image", "options"])
    assert set(record["probes"]) == {"image", "options"}
    assert {name.partition("-")[0] for name in more.names} == {"shift"}
    assert record["verdicts"]["reasoning"] == "not run"
    assert audit_model("m", data_dir, tmp_path, backend=again, probes=["options"])["n"] == 8
    assert again.names == []


def test_answers_of_another_model_or_data_stop_the_audit(data_dir, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data_dir, data)

    def audit(model="m", **settings):
        audit_model(model, data, run, backend=Scripted(), probes=["reasoning"], **settings)

    audit()
    with pytest.raises(UserError, match=r"another model .*; give another --out"):
        audit("other")
    with pytest.raises(UserError, match=r"another max_new_tokens \(then 512, now 9\)"):
        audit(max_new_tokens=9)
    # A hint was at an option that was wrong when it was given.
    first, *others = read_folder(data)
    other = next(option for option in first.options if option != first.answer)
    write_folder(data, [replace(first, answer=other), *others], info={})
    with pytest.raises(UserError, match=rf"correct answer \(then {first.answer!r}, now {other!r}\); give another"):
        audit()


@pytest.mark.parametrize(("subjects", "verdict"), [(9, "not run"), (10, "warn"), (60, "fail")])
def test_few_subjects_have_no_verdict(subjects, verdict):
    # Always the same answer, whatever the image.
    same = dict.fromkeys([REAL, "blank", "noise", "shuffled", "absent"], "o0")
    record = judged(
        [item(question_of(n, subject=f"p{n % subjects}"), same) for n in range(60)], {"image": PROBES["image"]}
    )
    assert record["verdicts"]["looks"] == verdict
    few = "Too few for a verdict: 9 subjects; at least 10 are needed. It is not shown to look"
    assert record["probes"]["image"]["sentence"].startswith(few) == (subjects == 9)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7", "row 41: expected a JSON object"),
        ('{"id": "q0", "key": {}, "plan": ""}', "row 41: not an answer of `medvlm-r1 audit model`"),
        ('{"id": "q0", "answers": {"real": {"text": ""}}}', "row 41: written by version 0.1.*into another folder"),
        ("OTHER", "row 41: another key than in an earlier row of 'q0'"),
    ],
)
def test_a_damaged_line_is_named(data_dir, tmp_path, line, message):
    audit_model("m", data_dir, tmp_path, backend=Scripted(), probes=["image"])
    log = tmp_path / "answers.jsonl"
    row = json.loads(log.read_text().splitlines()[0])
    line = line.replace("OTHER", json.dumps({**row, "key": {**row["key"], "seed": 1}}))
    log.write_text(log.read_text() + line + "\n")
    with pytest.raises(UserError, match=message):
        audit_model("m", data_dir, tmp_path, backend=Scripted(), probes=["image"])


def test_open_questions_and_answers_without_a_letter_are_counted(data_dir, tmp_path):
    texts = {"q0": "", "q1": "<think>It goes on and", "q2": "The answer is (B).", "q3": WELL}
    scripted = Scripted(lambda v: texts.get(v.sample.id, WELL.replace("A<", "D<")) if v.name == REAL else WELL)
    question, data = (
        Sample(id="open", images=(), question="Why?", options=(), answer="so", modality="CT"),
        tmp_path / "d",
    )
    shutil.copytree(data_dir, data)
    write_folder(data, [question, *read_folder(data_dir)], info={})
    record = audit_model("m", data, tmp_path / "run", backend=scripted, probes=["subgroups"], limit=5)
    counts = record["answers"]
    assert (record["n"], record["n_left_out"]) == (5, 1)
    assert (counts["unparsed"], counts["empty"], counts["not_well_formed"]) == (3, 1, 3)
    write_folder(data, [question], info={})
    with pytest.raises(UserError, match="no question has options"):
        audit_model("m", data, tmp_path / "other", backend=Scripted())


def test_wrong_arguments_are_refused(data_dir, tmp_path):
    with pytest.raises(UsageError, match=r"unknown probe 'images'; .*image"):
        audit_model("m", data_dir, tmp_path, probes=["images"])
    with pytest.raises(UsageError, match="limit is 0"):
        audit_model("m", data_dir, tmp_path, limit=0)
    with pytest.raises(UsageError, match="the run folder is the data folder"):
        audit_model("m", data_dir, data_dir)


def test_an_audit_with_an_evaluation_generates_less_and_reports_the_same(data_dir, tmp_path, tiny_policy_dir):
    model, run, settings = str(tiny_policy_dir), tmp_path / "eval", {"max_new_tokens": 6}
    evaluate(model, data_dir, run, limit=3, **settings)
    before = (run / "answers.jsonl").read_bytes()
    plain = audit_model(model, data_dir, tmp_path / "a", limit=4, **settings)
    for _ in range(2):
        record = audit_model(model, data_dir, tmp_path / "b", evaluation=run, limit=4, **settings)
        same = {"seconds": 0, "data_from_run": "", "n_reused": 0}
        assert record | same == plain | same
        assert (plain["n_reused"], record["n_reused"]) == (0, 3)
    assert (run / "answers.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("m", {}, r"'q0' was made with another max_new_tokens \(then 64, now 512\); give another"),
        ("n", {"max_new_tokens": 64}, r"another model \(then generator m, now generator n\)"),
        ("m", {"max_new_tokens": 64, "template": "answer-only"}, r"template \(then medvlm-r1, now answer-only\)"),
        ("m", {"evaluation": "nowhere"}, "no such file"),
    ],
)
def test_other_answers_are_not_reused(data_dir, tmp_path, model, settings, message):
    evaluate("m", data_dir, tmp_path / "eval", generator=Generator(lambda _: WELL), max_new_tokens=64)
    settings = {**settings, "evaluation": tmp_path / settings.get("evaluation", "eval")}
    with pytest.raises(UserError, match=message):
        audit_model(model, data_dir, tmp_path / "audit", backend=Scripted(), **settings)
