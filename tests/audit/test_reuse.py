"""An audit that reuses an evaluation's answers: fewer calls, the same figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medvlm_r1.audit.backends import GeneratorAuditBackend
from medvlm_r1.audit.runner import audit_model
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings


class Counting:
    """Answers by the length of the prompt, and counts what it answers."""

    def __init__(self) -> None:
        self.count = 0

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        self.count += len(items)
        texts = [f"<think>So.</think><answer>{'AB'[len(str(item.prompt)) % 2]}</answer>" for item in items]
        return [Generation(text=text, n_tokens=3, truncated=False) for text in texts]


def compared(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "seconds": 0, "data_from_run": "", "n_reused": 0}


def test_an_audit_with_an_evaluation_asks_less_and_finds_the_same(data_dir: Path, tmp_path: Path) -> None:
    run, alone, after = tmp_path / "eval", Counting(), Counting()
    evaluate("m", data_dir, run, generator=Counting(), limit=6)
    before = (run / "answers.jsonl").read_bytes()
    plain = audit_model("m", data_dir, tmp_path / "a", backend=GeneratorAuditBackend(generator=alone))
    for _ in range(2):
        found = audit_model(
            "m", data_dir, tmp_path / "b", backend=GeneratorAuditBackend(generator=after), evaluation=run
        )
        assert compared(found) == compared(plain)
        assert (plain["n_reused"], found["n_reused"]) == (0, 6)
        assert after.count == alone.count - 6
    assert (run / "answers.jsonl").read_bytes() == before


def test_a_local_model_finds_the_same(data_dir: Path, tmp_path: Path, tiny_policy_dir: Path) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 6, "limit": 4}
    evaluate(str(tiny_policy_dir), data_dir, tmp_path / "eval", **settings)
    plain = audit_model(str(tiny_policy_dir), data_dir, tmp_path / "a", **settings)
    found = audit_model(str(tiny_policy_dir), data_dir, tmp_path / "b", evaluation=tmp_path / "eval", **settings)
    assert compared(found) == compared(plain)
    assert found["n_reused"] == 4


def test_answers_made_otherwise_are_refused(data_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "eval"
    evaluate("m", data_dir, run, generator=Counting(), max_new_tokens=64)
    backend = GeneratorAuditBackend(generator=Counting())
    with pytest.raises(
        UserError, match=r"'q0' was made with another max_new_tokens \(then 64, now 512\); give another"
    ):
        audit_model("m", data_dir, tmp_path / "a", backend=backend, evaluation=run)
    with pytest.raises(UserError, match=r"another model \(then generator m, now generator n\)"):
        audit_model("n", data_dir, tmp_path / "b", backend=backend, evaluation=run, max_new_tokens=64)
    with pytest.raises(UserError, match="no such file"):
        audit_model("m", data_dir, tmp_path / "c", backend=backend, evaluation=tmp_path / "nowhere")
