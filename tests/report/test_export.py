from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.report import export as module
from medvlm_r1.report.export import export
from tiny_policy import build_tiny_adapter

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_policy_dir: Path, data_dir: Path) -> tuple[Path, Path]:
    """A run folder in the form a training leaves, and an evaluation of its model."""
    run = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(tiny_policy_dir, run / "model")
    config = {
        "model": str(tiny_policy_dir),
        "method": "grpo",
        "data": {"train": str(data_dir), "eval": None},
        "template": "medvlm-r1",
        "rewards": [{"name": "accuracy_paper", "weight": 1.0}],
        "seed": 3,
        "out": str(run),
        "lora": None,
        "trainer": {"beta": 0.04},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    described = {
        "folder": str(data_dir),
        "hash": "0123456789abcdef" * 4,
        "samples": 8,
        "by_modality": {"MRI": 4, "CT": 4},
    }
    (run / "data.json").write_text(json.dumps({"train": described}))
    (run / "env.json").write_text(json.dumps({"packages": {"torch": "9.9", "trl": "8.8"}}))
    evaluate(str(run / "model"), data_dir, run.parent / "eval", max_new_tokens=4)
    return run, run.parent / "eval"


def test_the_folder_loads_and_the_card_says_what_was_measured(made: tuple[Path, Path], tmp_path: Path) -> None:
    from huggingface_hub import ModelCard
    from transformers import AutoModelForImageTextToText, AutoProcessor

    run, evaluation = made
    folder = export(run, tmp_path / "published", evaluations=[evaluation])
    AutoModelForImageTextToText.from_pretrained(folder)
    AutoProcessor.from_pretrained(folder)
    card = ModelCard.load(folder / "README.md")
    results = json.loads((evaluation / "results.json").read_text())
    figures = {one.dataset_config: one.metric_value for one in card.data.eval_results or []}
    assert figures == {m: round(results["accuracy"][m]["percent"], 2) for m in ("MRI", "CT")}
    assert "Research use only. Not a medical device." in card.text
    assert "not audited" in card.text
    assert "torch 9.9" in card.text
    assert "beta 0.04" in card.text
    low, high = results["accuracy"]["MRI"]["ci95"]
    assert f"{low:.1f} to {high:.1f}" in card.text


def logits(folder: Path) -> Any:
    import torch

    from medvlm_r1.models.load import load_policy

    with torch.inference_mode():
        return load_policy(str(folder), device="cpu").model(input_ids=torch.arange(5, 25)[None]).logits


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_a_checkpoint_is_exported_without_the_state_of_its_training(
    made: tuple[Path, Path], tiny_policy_dir: Path, tmp_path: Path, command: Command, kind: str
) -> None:
    run, _ = made
    checkpoint = run / "checkpoints" / f"checkpoint-{kind}"
    if kind == "adapter":
        build_tiny_adapter(tiny_policy_dir, checkpoint)
    else:
        shutil.copytree(tiny_policy_dir, checkpoint)
    for state in ("optimizer.pt", "training_args.bin", "trainer_state.json", "reference.safetensors"):
        (checkpoint / state).write_bytes(b"{}")
    code, _, err = command("export", checkpoint, "--out", tmp_path / "published")
    assert code == 0, err
    names = {file.name for file in (tmp_path / "published").iterdir()}
    assert {"model.safetensors", "config.json", "processor_config.json", "README.md", module.CONFIG} <= names
    assert not names & {"optimizer.pt", "training_args.bin", "trainer_state.json", "adapter_config.json"}
    assert [name for name in names if name.endswith(".safetensors")] == ["model.safetensors"]
    assert float((logits(tmp_path / "published") - logits(checkpoint)).abs().max()) < 1e-4
    assert (float((logits(checkpoint) - logits(tiny_policy_dir)).abs().max()) > 0.1) == (kind == "adapter")
    text = (tmp_path / "published" / "README.md").read_text()
    assert f"| checkpoint | {kind} |" in text
    for file in (tmp_path / "published").glob("*.*"):
        assert str(run.parent).encode() not in file.read_bytes()


def test_an_adapter_from_elsewhere_is_merged(
    tiny_policy_dir: Path, data_dir: Path, tmp_path: Path, command: Command
) -> None:
    from medvlm_r1.evaluation.run import evaluate

    adapter = tmp_path / "theirs"
    build_tiny_adapter(tiny_policy_dir, adapter)
    evaluate(str(adapter), data_dir, tmp_path / "eval", max_new_tokens=4)
    folder = export(adapter, tmp_path / "merged", evaluations=[tmp_path / "eval"])
    assert float((logits(folder) - logits(adapter)).abs().max()) < 1e-4
    text = (folder / "README.md").read_text()
    assert "How the adapter was trained is unknown" in text
    assert f"base model | `{tiny_policy_dir.name}`" in text
    assert str(tmp_path) not in text
    (adapter / "adapter_config.json").write_text(
        (adapter / "adapter_config.json").read_text().replace(str(tiny_policy_dir), "/gone/base")
    )
    code, _, err = command("export", adapter, "--out", tmp_path / "b")
    assert code == 1
    assert f"name the base as '{adapter}#BASE'" in err
    assert command("export", f"{adapter}#{tiny_policy_dir}", "--out", tmp_path / "b")[0] == 0


def test_an_unfinished_training_names_its_checkpoints(made: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no finished training.*Or name one of its checkpoints: .*checkpoint-3"):
        export(tmp_path / "run", tmp_path / "a")
    with pytest.raises(UserError, match="no finished training"):
        export(made[0] / "model", tmp_path / "a")


def test_open_questions_are_counted_apart_on_the_card(made: tuple[Path, Path], tmp_path: Path, data_dir: Path) -> None:
    def card(samples: list[Sample], name: str) -> str:
        data = tmp_path / name / "data"
        shutil.copytree(data_dir, data)
        write_folder(data, samples, info={})
        evaluate(str(made[0] / "model"), data, tmp_path / name / "eval", max_new_tokens=2)
        folder = export(made[0], tmp_path / name / "published", evaluations=[tmp_path / name / "eval"])
        return (folder / "README.md").read_text()

    samples = read_folder(data_dir)
    some = card([replace(s, options=()) if n % 4 else s for n, s in enumerate(samples)], "some")
    assert "| data | MRI | 1 |" in some
    assert "6 open questions not counted above" in some
    alone = card([replace(s, options=()) for s in samples], "alone")
    assert "* data: no question has options, " in alone
    assert "8 open questions not counted above" in alone


def test_no_path_of_the_machine_is_published(made: tuple[Path, Path], tmp_path: Path) -> None:
    run, evaluation = made
    folder = export(run, tmp_path / "published", evaluations=[evaluation])
    for file in ("README.md", module.CONFIG):
        text = (folder / file).read_text()
        assert str(run.parent) not in text
        assert "/tmp" not in text


def test_audits_are_told_by_their_verdicts(
    made: tuple[Path, Path], tmp_path: Path, data_dir: Path, command: Command
) -> None:
    code, out, _ = command("audit", "data", data_dir, "--json")
    assert code == 0
    file = tmp_path / "audit.json"
    file.write_text(out)
    text = (export(made[0], tmp_path / "published", audits=[file]) / "README.md").read_text()
    for verdict in json.loads(out)["verdicts"].values():
        assert verdict["sentence"] in text


def test_what_cannot_be_published_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    run, evaluation = made
    with pytest.raises(UserError, match="no finished training"):
        export(evaluation, tmp_path / "a")
    results = json.loads((evaluation / "results.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.json").write_text(json.dumps(results | {"model_fingerprint": "another"}))
    with pytest.raises(UserError, match="another model"):
        export(run, tmp_path / "b", evaluations=[other])
    (other / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results\.json: not JSON results"):
        export(run, tmp_path / "b", evaluations=[other])
    assert not (tmp_path / "b").exists()
    export(run, tmp_path / "c")
    with pytest.raises(UserError, match="already exists"):
        export(run, tmp_path / "c")


def test_upload_is_private_unless_said(
    made: tuple[Path, Path], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def create_repo(self, repository: str, **given: Any) -> None:
            calls.append((repository, given))

        def upload_folder(self, *, repo_id: str, folder_path: str) -> str:
            assert (Path(folder_path) / "README.md").is_file()
            return f"hub:{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    run, evaluation = made
    code, out, err = command("export", run, "--results", evaluation, "--out", tmp_path / "p", "--push-to-hub", "me/it")
    assert code == 0, err
    assert "hub:me/it" in out
    assert calls == [("me/it", {"private": True, "exist_ok": True})]
    assert 'from_pretrained("me/it")' in (tmp_path / "p" / "README.md").read_text()
    assert command("export", run, "--out", tmp_path / "q", "--public")[0] == 2


def test_a_hub_that_fails_leaves_the_folder(
    made: tuple[Path, Path], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Api:
        def create_repo(self, *_: Any, **__: Any) -> None:
            raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    code, _, err = command("export", made[0], "--out", tmp_path / "p", "--push-to-hub", "me/it")
    assert code == 1
    assert "no network" in err
    assert "Traceback" not in err
    assert (tmp_path / "p" / "README.md").is_file()
