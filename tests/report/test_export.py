"""Export of a training: the folder loads, the card has what was measured, and nothing private is published."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.report.export import CONFIG, export
from tiny_policy import build_tiny_adapter


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_policy_dir, data_dir):
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
    counts = {"samples": 8, "by_modality": {"MRI": 4, "CT": 4}}
    data = {"train": {"folder": str(data_dir), "hash": "0123456789abcdef" * 4, **counts}}
    (run / "data.json").write_text(json.dumps(data))
    (run / "env.json").write_text(json.dumps({"packages": {"torch": "9.9", "trl": "8.8"}}))
    evaluate(str(run / "model"), data_dir, run.parent / "eval", max_new_tokens=4)
    return run, run.parent / "eval"


def test_the_folder_loads_and_the_card_has_what_was_measured(made, tmp_path, data_dir, command):
    from huggingface_hub import ModelCard
    from transformers import AutoModelForImageTextToText, AutoProcessor

    run, evaluation = made
    folder = export(run, tmp_path / "published", evaluations=[evaluation])
    AutoModelForImageTextToText.from_pretrained(folder)
    AutoProcessor.from_pretrained(folder)
    card = ModelCard.load(folder / "README.md")
    results = json.loads((evaluation / "results.json").read_text())
    figures = {result.dataset_config: result.metric_value for result in card.data.eval_results or []}
    assert figures == {m: round(results["accuracy"][m]["percent"], 2) for m in ("MRI", "CT")}
    low, high = results["accuracy"]["MRI"]["ci95"]
    for wanted in (
        "Research use only. Not a medical device.",
        "not audited",
        "torch 9.9",
        "beta 0.04",
        f"{low:.1f} to {high:.1f}",
    ):
        assert wanted in card.text
    for file in ("README.md", CONFIG):
        text = (folder / file).read_text()
        assert str(run.parent) not in text
        assert "/tmp" not in text
    # Audits appear with their verdicts.
    code, out, _ = command("audit", "data", data_dir, "--json")
    assert code == 0
    (tmp_path / "audit.json").write_text(out)
    text = (export(run, tmp_path / "again", audits=[tmp_path / "audit.json"]) / "README.md").read_text()
    for verdict in json.loads(out)["verdicts"].values():
        assert verdict["sentence"] in text


def logits(folder):
    import torch

    from medvlm_r1.models.load import load_policy

    with torch.inference_mode():
        return load_policy(str(folder), device="cpu").model(input_ids=torch.arange(5, 25)[None]).logits


def distance(folder, other):
    return float((logits(folder) - logits(other)).abs().max())


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_a_checkpoint_is_exported_without_the_state_of_its_training(made, tiny_policy_dir, tmp_path, command, kind):
    checkpoint = made[0] / "checkpoints" / f"checkpoint-{kind}"
    if kind == "adapter":
        build_tiny_adapter(tiny_policy_dir, checkpoint)
    else:
        shutil.copytree(tiny_policy_dir, checkpoint)
    states = {"optimizer.pt", "training_args.bin", "trainer_state.json", "reference.safetensors"}
    for state in states:
        (checkpoint / state).write_bytes(b"{}")
    out = tmp_path / "published"
    code, _, err = command("export", checkpoint, "--out", out)
    assert code == 0, err
    names = {file.name for file in out.iterdir()}
    assert {"model.safetensors", "config.json", "processor_config.json", "README.md", CONFIG} <= names
    assert not names & {*states, "adapter_config.json", "adapter_model.safetensors"}
    assert distance(out, checkpoint) < 1e-4
    assert (distance(checkpoint, tiny_policy_dir) > 0.1) == (kind == "adapter")
    assert f"| checkpoint | {kind} |" in (out / "README.md").read_text()
    for file in out.glob("*.*"):
        assert str(made[0].parent).encode() not in file.read_bytes()


def test_an_adapter_from_elsewhere_is_merged(tiny_policy_dir, data_dir, tmp_path, command):
    adapter = tmp_path / "theirs"
    build_tiny_adapter(tiny_policy_dir, adapter)
    evaluate(str(adapter), data_dir, tmp_path / "eval", max_new_tokens=4)
    folder = export(adapter, tmp_path / "merged", evaluations=[tmp_path / "eval"])
    assert distance(folder, adapter) < 1e-4
    text = (folder / "README.md").read_text()
    assert "How the adapter was trained is unknown" in text
    assert f"base model | `{tiny_policy_dir.name}`" in text
    assert str(tmp_path) not in text
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace(str(tiny_policy_dir), "/gone/base"))
    code, _, err = command("export", adapter, "--out", tmp_path / "b")
    assert (code, f"name the base as '{adapter}#BASE'" in err) == (1, True)
    assert command("export", f"{adapter}#{tiny_policy_dir}", "--out", tmp_path / "b")[0] == 0


def test_open_questions_are_counted_apart_on_the_card(made, tmp_path, data_dir):
    shutil.copytree(data_dir, tmp_path / "data")
    samples = read_folder(data_dir)
    for n_closed, row, n_open in ((2, "| data | MRI | 1 |", 6), (0, "* data: no question has options, ", 8)):
        closed, run = samples[::4][:n_closed], tmp_path / f"eval-{n_closed}"
        write_folder(tmp_path / "data", [s if s in closed else replace(s, options=()) for s in samples], info={})
        evaluate(str(made[0] / "model"), tmp_path / "data", run, max_new_tokens=2)
        text = (export(made[0], tmp_path / f"published-{n_closed}", evaluations=[run]) / "README.md").read_text()
        assert (row in text, f"{n_open} open questions not counted above" in text) == (True, True)


def test_what_cannot_be_published_is_refused(made, tmp_path):
    run, evaluation = made
    (tmp_path / "run" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no finished training.*Or name one of its checkpoints: .*checkpoint-3"):
        export(tmp_path / "run", tmp_path / "a")
    for folder in (run / "model", evaluation):
        with pytest.raises(UserError, match="no finished training"):
            export(folder, tmp_path / "a")
    results = json.loads((evaluation / "results.json").read_text()) | {"model_fingerprint": "another"}
    for text, message in ((json.dumps(results), "another model"), ("{", r"results\.json: not JSON results")):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(UserError, match=message):
            export(run, tmp_path / "b", evaluations=[tmp_path])
    assert not (tmp_path / "b").exists()
    export(run, tmp_path / "c")
    with pytest.raises(UserError, match="already exists"):
        export(run, tmp_path / "c")


def test_upload(made, tmp_path, command, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repository, **arguments):
            if calls:
                raise ConnectionError("no network")
            calls.append((repository, arguments))

        def upload_folder(self, *, repo_id, folder_path):
            assert (Path(folder_path) / "README.md").is_file()
            return f"hub:{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    run, evaluation = made
    code, out, err = command("export", run, "--results", evaluation, "--out", tmp_path / "p", "--push-to-hub", "me/it")
    assert code == 0, err
    assert "hub:me/it" in out
    # Private by default.
    assert calls == [("me/it", {"private": True, "exist_ok": True})]
    assert 'from_pretrained("me/it")' in (tmp_path / "p" / "README.md").read_text()
    assert command("export", run, "--out", tmp_path / "q", "--public")[0] == 2
    # A hub that fails leaves the folder.
    code, _, err = command("export", run, "--out", tmp_path / "q", "--push-to-hub", "me/it")
    assert (code, "no network" in err, "Traceback" in err) == (1, True, False)
    assert (tmp_path / "q" / "README.md").is_file()
