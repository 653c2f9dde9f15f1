"""GRPO runs of a few steps: outputs, resume, interruption, adapters, forbidden tokens."""

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
import sample_rewards
import torch
from runs import At, rows, same_weights, weights
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from medvlm_r1.errors import UserError
from medvlm_r1.models.load import load_policy, vision_token_ids
from medvlm_r1.training.grpo import train_grpo

REWARD = [{"name": "sample_rewards:distinct_tokens"}]


def test_run_folder_and_final_model(train, monkeypatch):
    def refuse(*_):
        raise AssertionError("a training reached for the network")

    monkeypatch.delenv("CI", raising=False)  # TRL sends no telemetry where it is set
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._telemetry._start_telemetry_thread", refuse)
    progress = At(-1)
    model = train(rewards=REWARD, trainer={"report_to": "tensorboard"}, progress=progress) / "model"
    run = model.parent
    names = "config.yaml env.json data.json metrics.jsonl rollouts.jsonl tensorboard checkpoints model"
    assert {file.name for file in run.iterdir()} == {".lock", *names.split()}
    assert any((run / "tensorboard").iterdir())
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [1, 2]
    calls = [(step, total, bool(logs)) for step, total, logs in progress.calls]
    assert calls == [(1, 2, False), (1, 2, True), (2, 2, False), (2, 2, True), (2, 2, True)]
    environment = json.loads((run / "env.json").read_text())
    assert environment["packages"].keys() >= {"torch", "transformers", "trl", "peft", "accelerate"}
    assert environment["seeds"]["seed"] == 0

    reloaded = AutoModelForImageTextToText.from_pretrained(model)
    chat = AutoProcessor.from_pretrained(model).apply_chat_template([{"role": "user", "content": "x"}])
    assert chat.startswith("<|im_start|>")
    assert not list(model.glob("*.bin"))
    assert sum(parameter.numel() for parameter in reloaded.parameters()) > 1000


def test_every_rollout_is_written(train):
    changes = {"trainer": {"gradient_accumulation_steps": 2, "steps_per_generation": 1, "num_generations": 4}}
    run = train(rewards=[*REWARD, {"name": "format_paper", "weight": 2}], **changes)
    rollouts = rows(run / "rollouts.jsonl")
    # Two steps, two generations in each, of one prompt with four completions.
    assert [row["step"] for row in rollouts] == [1] * 8 + [2] * 8
    assert len({row["sample_id"] for row in rollouts}) == 4
    for start in range(0, 16, 4):
        group = rollouts[start : start + 4]
        assert {row["group"] for row in group} == {0}
        assert len({row["sample_id"] for row in group}) == 1
        rewards = torch.tensor(
            [row["rewards"]["sample_rewards:distinct_tokens"] + 2 * row["rewards"]["format_paper"] for row in group]
        )
        assert torch.allclose(rewards, torch.tensor([row["reward"] for row in group]))
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        assert torch.allclose(advantages, torch.tensor([row["advantage"] for row in group]), atol=1e-5)


def test_interrupted_run_resumes_to_the_same_weights(train, configure, tmp_path):
    # Eight samples, two prompts a step: four steps an epoch. The stop after step 6 lies within the second epoch.
    settings = {"rewards": REWARD, "trainer": {"max_steps": 8}}
    straight = train(**settings, out=str(tmp_path / "straight")) / "model"
    order = [row["sample_id"] for row in sample_rewards.SEEN]

    config = configure(**settings, out=str(tmp_path / "stopped"))
    sample_rewards.SEEN.clear()
    # A shell that starts a job in the background leaves SIGINT ignored, so the handler before is not always Python's.
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"Stopped after step 6 of 8.*same command resumes"):
        train_grpo(config, progress=At(6))
    assert signal.getsignal(signal.SIGINT) is before
    resumed = train_grpo(config)

    assert order == [row["sample_id"] for row in sample_rewards.SEEN]
    assert same_weights(straight, resumed)
    assert not same_weights(Path(config.model), resumed)
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        steps = [row["step"] for row in rows(resumed.parent / name)]
        assert steps == [row["step"] for row in rows(straight.parent / name)]


def test_second_signal_quits_at_once(train):
    def impatient():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    progress = At(1, impatient)
    with pytest.raises(KeyboardInterrupt, match="Quit at once"):
        train(rewards=REWARD, progress=progress)
    assert [step for step, *_ in progress.calls] == [1]


def test_complete_run_is_left_alone(train, configure, capsys):
    config = configure()
    model = train_grpo(config)
    before = {file: file.stat().st_mtime_ns for file in model.parent.rglob("*") if file.is_file()}
    assert train_grpo(config) == model
    assert "complete" in capsys.readouterr().err
    assert before == {file: file.stat().st_mtime_ns for file in model.parent.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"trainer\.learning_rate: 0\.001 there, 0\.5 now"):
        train("grpo", "trainer.learning_rate=0.5")


def test_adapters_are_merged_into_a_plain_model(configure):
    config = configure(rewards=REWARD, lora={"r": 2, "alpha": 4})
    model = train_grpo(config)
    assert not list(model.glob("adapter*"))
    start, end = load_file(Path(config.model) / "model.safetensors"), weights(model)
    assert start.keys() == end.keys()
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed
    assert not any("lm_head" in name or "embed_tokens" in name or "norm" in name for name in changed)
    AutoModelForImageTextToText.from_pretrained(model)


def test_vision_tokens_are_never_sampled(train, tiny_policy_dir, tmp_path):
    policy = load_policy(str(tiny_policy_dir))
    forbidden = vision_token_ids(policy.model)
    biased = tmp_path / "biased"
    shutil.copytree(tiny_policy_dir, biased)
    tensors = weights(tiny_policy_dir)
    # Opposite rows: whatever the hidden state, one vision token or the other wins by far.
    direction = 100 * torch.randn(16, generator=torch.Generator().manual_seed(1))
    for index, token in enumerate(forbidden):
        tensors["lm_head.weight"][token] = direction if index % 2 else -direction
    save_file(tensors, biased / "model.safetensors", metadata={"format": "pt"})
    model = load_policy(str(biased)).model
    unguarded = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=True)
    assert set(unguarded[0, 3:].tolist()) & set(forbidden)

    # Weights this large do not bear a larger step.
    trainer = {"generation_kwargs": {"suppress_tokens": [9]}, "learning_rate": 1e-9}
    train(rewards=REWARD, model=str(biased), trainer=trainer)
    sampled = {token for row in sample_rewards.SEEN for token in row["completion_ids"]}
    assert sampled
    assert not sampled & {9, *forbidden}


def test_periodic_evaluation_is_logged_and_leaves_no_trace(train, configure, tmp_path):
    def evaluate(policy, step):
        assert not policy.model.training
        torch.rand(3)
        return {"accuracy": 10.0 * step}

    settings = {"rewards": REWARD, "trainer": {"max_steps": 4, "logging_steps": 4}}
    plain = train(**settings, out=str(tmp_path / "plain")) / "model"
    watched_config = configure(**settings, out=str(tmp_path / "watched"), evaluate_every=2)
    with pytest.raises(UserError, match="evaluate_every"):
        train_grpo(watched_config)
    watched = train_grpo(watched_config, evaluate=evaluate)
    plain_rows, watched_rows = (rows(model.parent / "metrics.jsonl") for model in (plain, watched))
    logged = [(row["step"], row["eval_accuracy"]) for row in watched_rows if "eval_accuracy" in row]
    assert logged == [(2, 20.0), (4, 40.0)]
    rewards = [[row["reward"] for row in run if "loss" in row] for run in (plain_rows, watched_rows)]
    assert rewards[0] == rewards[1]
    assert same_weights(plain, watched)


def test_a_generation_of_more_prompts_than_the_data_have_is_refused(train):
    with pytest.raises(UserError, match="generation batch takes 16 prompts and the data have 8"):
        train("grpo", "trainer.gradient_accumulation_steps=8")


def test_pixel_bounds_reach_the_final_processor(train):
    model = train("grpo", "max_pixels=1568", "min_pixels=784") / "model"
    size = dict(AutoProcessor.from_pretrained(model).image_processor.size)
    assert size == {"shortest_edge": 784, "longest_edge": 1568}
