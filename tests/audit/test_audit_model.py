"""The audit of a model from a data folder to `audit.json`: resumed, refused, counted."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from audited import item
from audited import sample as question_of

from medvlm_r1.audit.backends import GeneratorAuditBackend
from medvlm_r1.audit.local_backend import LocalAuditBackend
from medvlm_r1.audit.registry import PROBES, QUESTIONS
from medvlm_r1.audit.runner import audit_model, judged
from medvlm_r1.audit.variant import REAL, AuditedItem, Variant, VariantAnswer, parsed_answer, scored_choice
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError
from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings
from medvlm_r1.models.load import load_policy

WELL = "<think>It is seen. It is clear.</think><answer>A</answer>"


class Scripted:
    """Answers as `reply` says; stops like a key press after so many calls."""

    def __init__(self, reply: Callable[[Variant], str] = lambda _: WELL, stop_after: int | None = None) -> None:
        self.local = True
        self.reply = reply
        self.stop_after = stop_after
        self.calls = 0
        self.asked: list[str] = []

    def answer(self, variants: Sequence[Variant]) -> list[VariantAnswer]:
        if not variants:
            return []
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.asked += [variant.name for variant in variants]
        return [
            scored_choice(variant, [1.0, *[0.0] * (len(variant.sample.options) - 1)])
            if variant.letter_only
            else parsed_answer(variant, variant.prefix or self.reply(variant), n_tokens=9, truncated=False)
            for variant in variants
        ]


def test_every_probe_gives_a_result_and_every_question_a_verdict(data_dir: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    scripted = Scripted()
    found = audit_model(
        "m", data_dir, tmp_path / "run", backend=scripted, batch_size=3, progress=lambda *at: seen.append(at)
    )
    assert set(found["probes"]) == set(PROBES)
    assert set(found["verdicts"]) == set(QUESTIONS) == {"looks", "order", "reasoning", "truth", "defers"}
    assert found["n"] == 8
    assert found["research_use"] == RESEARCH_USE
    assert found["answers"]["variants"] == len(scripted.asked)
    assert found == json.loads((tmp_path / "run" / "audit.json").read_text())
    total = len(scripted.asked)
    assert (seen[0], seen[-1]) == ((0, None), (total, total))
    # Two steps for each of three parts, each answer counted as soon as it is there.
    step, each = seen[1][0] // 2, total // 8
    steps = [2 * step, 2 * each, 2 * each + 3 * step, 5 * each, 5 * each + 3 * step, 8 * each]
    assert [done for done, _ in seen[1:-1]] == steps
    assert all(expected is not None and done <= expected for done, expected in seen[1:])
    assert scripted.asked.count("real") == 8


def test_an_interrupted_audit_goes_on_where_it_stood_and_ends_the_same(data_dir: Path, tmp_path: Path) -> None:
    whole = audit_model("m", data_dir, tmp_path / "whole", backend=Scripted(), batch_size=2)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        audit_model("m", data_dir, out, backend=Scripted(stop_after=5), batch_size=2)
    log = out / "answers.jsonl"
    # The process may have died in the middle of a line.
    log.write_bytes(log.read_bytes() + b'{"id": "q5", "answ')
    rest = Scripted()
    resumed = audit_model("m", data_dir, out, backend=rest, batch_size=2)
    # The first step of the third part was on disk.
    assert rest.asked.count("real") == 2
    assert {**resumed, "seconds": 0, "data_from_run": ""} == {**whole, "seconds": 0, "data_from_run": ""}
    again = Scripted()
    assert audit_model("m", data_dir, out, backend=again)["probes"] == whole["probes"]
    assert again.asked == []


def test_an_audit_stopped_after_any_batch_has_the_same_answers_bit_by_bit(
    data_dir: Path, tmp_path: Path, tiny_policy_dir: Path
) -> None:
    """All batches of two parts; `rows` is small, so that a step has several."""
    policy = load_policy(str(tiny_policy_dir), device="cpu")

    def audit(out: Path, stop_after: int | None = None) -> int:
        calls = iter(range(10_000))
        saved: list[int] = []

        def progress(done: int, expected: int | None) -> None:
            saved.append(done)
            if next(calls) == stop_after:
                raise KeyboardInterrupt

        backend = LocalAuditBackend(policy=policy, max_new_tokens=6, rows=8)
        audit_model("m", data_dir, out, backend=backend, batch_size=2, limit=4, progress=progress)
        return len(saved)

    batches = audit(tmp_path / "whole") - 2
    assert batches >= 8
    whole = (tmp_path / "whole" / "answers.jsonl").read_bytes()
    for stop_after in range(1, batches + 1, 2):
        out = tmp_path / f"stopped-{stop_after}"
        with pytest.raises(KeyboardInterrupt):
            audit(out, stop_after)
        assert 0 < (out / "answers.jsonl").read_bytes().count(b"\n") <= whole.count(b"\n")
        assert audit(out) - 2 == batches - stop_after
        assert (out / "answers.jsonl").read_bytes() == whole


def test_further_probes_ask_only_what_is_new(data_dir: Path, tmp_path: Path) -> None:
    audit_model("m", data_dir, tmp_path, backend=Scripted(), probes=["image"])
    more = Scripted()
    found = audit_model("m", data_dir, tmp_path, backend=more, probes=["image", "options"])
    assert set(found["probes"]) == {"image", "options"}
    assert {name.partition("-")[0] for name in more.asked} == {"shift"}
    assert found["verdicts"]["reasoning"] == "not run"


def test_answers_of_another_model_stop_the_audit(data_dir: Path, tmp_path: Path) -> None:
    audit_model("m", data_dir, tmp_path, backend=Scripted(), probes=["image"])
    with pytest.raises(UserError, match=r"another model .*; give another --out"):
        audit_model("other", data_dir, tmp_path, backend=Scripted(), probes=["image"])
    with pytest.raises(UserError, match=r"another max_new_tokens \(then 512, now 9\)"):
        audit_model("m", data_dir, tmp_path, backend=Scripted(), probes=["image"], max_new_tokens=9)


def test_another_right_answer_stops_the_audit(data_dir: Path, tmp_path: Path) -> None:
    """A hint was at an option that was wrong when it was given."""
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data_dir, data)
    audit_model("m", data, run, backend=Scripted(), probes=["reasoning"])
    first, *others = read_folder(data)
    other = next(option for option in first.options if option != first.answer)
    write_folder(data, [replace(first, answer=other), *others], info={})
    with pytest.raises(
        UserError, match=rf"another correct answer \(then {first.answer!r}, now {other!r}\); give another"
    ):
        audit_model("m", data, run, backend=Scripted(), probes=["reasoning"])


def test_few_subjects_have_no_verdict() -> None:
    def items(subjects: int) -> list[AuditedItem]:
        """Always the same answer, whatever the image."""
        names = [REAL, "blank", "noise", "shuffled", "absent"]
        return [item(question_of(n, subject=f"p{n % subjects}"), dict.fromkeys(names, "o0")) for n in range(60)]

    few, enough, many = (judged(items(n), {"image": PROBES["image"]}, local=True) for n in (9, 10, 60))
    assert [found["verdicts"]["looks"] for found in (few, enough, many)] == ["not run", "warn", "fail"]
    assert few["probes"]["image"]["sentence"].startswith(
        "Too few for a verdict: 9 subjects; at least 10 are needed. It is not shown to look"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("7", "row 41: expected a JSON object"),
        ('{"id": "q0", "key": {}, "plan": ""}', "row 41: not an answer of `medvlm-r1 audit model`"),
        ('{"id": "q0", "answers": {"real": {"text": ""}}}', "row 41: written by version 0.1.*into another folder"),
        ("OTHER", "row 41: another key than in an earlier row of 'q0'"),
    ],
)
def test_a_damaged_line_is_named(data_dir: Path, tmp_path: Path, line: str, said: str) -> None:
    audit_model("m", data_dir, tmp_path, backend=Scripted(), probes=["image"])
    log = tmp_path / "answers.jsonl"
    row = json.loads(log.read_text().splitlines()[0])
    line = line.replace("OTHER", json.dumps({**row, "key": {**row["key"], "seed": 1}}))
    log.write_text(log.read_text() + line + "\n")
    with pytest.raises(UserError, match=said):
        audit_model("m", data_dir, tmp_path, backend=Scripted(), probes=["image"])


def test_what_is_no_answer_is_counted(data_dir: Path, tmp_path: Path) -> None:
    texts = {"q0": "", "q1": "<think>It goes on and", "q2": "The answer is (B).", "q3": WELL}

    def reply(variant: Variant) -> str:
        return texts.get(variant.sample.id, "<think>x</think><answer>D</answer>") if variant.name == "real" else WELL

    found = audit_model("m", data_dir, tmp_path, backend=Scripted(reply))
    counts = found["answers"]
    assert (counts["unparsed"], counts["empty"], counts["not_well_formed"]) == (3, 1, 3)


class DyingServer:
    """Answers so many requests and is gone then."""

    def __init__(self, requests: int) -> None:
        self.left = requests

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        self.left -= 1
        if self.left < 0:
            raise UserError("http://localhost:1 does not answer; start the server")
        return [Generation(text=WELL, n_tokens=3, truncated=False) for _ in items]


def test_a_server_that_dies_loses_nothing_that_was_answered(data_dir: Path, tmp_path: Path) -> None:
    def run(server: DyingServer) -> dict[str, Any]:
        backend = GeneratorAuditBackend(generator=server)
        return audit_model("m", data_dir, tmp_path, backend=backend, batch_size=2, probes=["image"])

    with pytest.raises(UserError, match="does not answer"):
        run(DyingServer(2))
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 20
    rest = DyingServer(99)
    found = run(rest)
    assert 99 - rest.left == 2
    assert found["answers"]["variants"] == 40


def test_a_probe_that_needs_the_tokens_is_not_run_on_a_server_and_says_so(data_dir: Path, tmp_path: Path) -> None:
    local = [name for name, probe in PROBES.items() if probe.local]
    found = audit_model("m", data_dir, tmp_path, backend=GeneratorAuditBackend(generator=DyingServer(999)))
    for name in local:
        assert found["probes"][name]["verdict"] == "not run"
        assert name in found["probes"][name]["sentence"]


def test_open_questions_are_left_out_and_counted(data_dir: Path, tmp_path: Path) -> None:
    samples = read_folder(data_dir)
    question = Sample(id="open", images=(), question="Why?", options=(), answer="so", modality="CT")
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for sample in samples:
        (data / sample.images[0]).write_bytes((data_dir / sample.images[0]).read_bytes())
    write_folder(data, [question, *samples], info={})
    found = audit_model("m", data, tmp_path / "run", backend=Scripted(), probes=["subgroups"], limit=5)
    assert (found["n"], found["n_open"]) == (5, 1)
    write_folder(data, [question], info={})
    with pytest.raises(UserError, match="no question has options"):
        audit_model("m", data, tmp_path / "other", backend=Scripted())


def test_wrong_arguments_are_refused(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown probe 'images'; .*image"):
        audit_model("m", data_dir, tmp_path, probes=["images"])
    with pytest.raises(UsageError, match="limit is 0"):
        audit_model("m", data_dir, tmp_path, limit=0)
    with pytest.raises(UsageError, match="the run folder is the data folder"):
        audit_model("m", data_dir, data_dir)
