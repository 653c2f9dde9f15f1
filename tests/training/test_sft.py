"""SFT runs of a few steps: what is learned, resume, adapters."""

import os
import signal
from pathlib import Path

import pytest
from runs import At, rows, same_weights
from trl import SFTTrainer

from medvlm_r1.stopping import Preempted
from medvlm_r1.training.sft import train_sft


def test_loss_falls_on_the_letter_alone(train, monkeypatch):
    learned = []
    original = SFTTrainer.compute_loss

    def noting(self, model, inputs, **rest):
        decode = self.processing_class.tokenizer.decode
        for ids, labels in zip(inputs["input_ids"], inputs["labels"], strict=True):
            learned.append((decode(ids[labels == -100], skip_special_tokens=True), decode(labels[labels != -100])))
        return original(self, model, inputs, **rest)

    monkeypatch.setattr(SFTTrainer, "compute_loss", noting)
    model = train("sft", template="answer-only", trainer={"max_steps": -1, "num_train_epochs": 1}) / "model"
    assert sorted(answer for _, answer in learned) == sorted(f"{letter}<|im_end|>\n" for letter in "ABCDABCD")
    assert all(
        "Which organ is shown?\nA) liver\n" in prompt and "Answer with the option's letter only." in prompt
        for prompt, _ in learned
    )
    rollouts = rows(model.parent / "metrics.jsonl")
    assert [row["step"] for row in rollouts] == [1, 2]


def test_learns_the_letters(train):
    trainer = {"max_steps": 30, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    model = train("sft", trainer=trainer) / "model"
    losses = [row.get("loss") for row in rows(model.parent / "metrics.jsonl")]
    assert losses[29] < losses[0] / 3


@pytest.mark.parametrize("lora", [None, {"r": 2, "dropout": 0.1}])
def test_interrupted_run_resumes_to_the_same_weights(train, configure, tmp_path, lora):
    # Two steps an epoch: the stop lies within the second.
    settings = {"lora": lora, "trainer": {"max_steps": 5}}
    straight = train("sft", **settings, out=str(tmp_path / "straight")) / "model"
    config = configure("sft", **settings, out=str(tmp_path / "stopped"))
    with pytest.raises(Preempted, match="Stopped after step 3 of 5"):
        train_sft(config, progress=At(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    resumed = train_sft(config)
    assert same_weights(straight, resumed)
    assert not same_weights(Path(config.model), resumed)


def test_best_checkpoint_has_its_own_weights(train, data_dir, capsys):
    trainer = {
        "max_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        # The loss falls, so the first checkpoint counts as the best and the weights in memory are others.
        "greater_is_better": True,
    }
    data = {"train": str(data_dir), "eval": str(data_dir)}
    model = train("sft", data=data, trainer=trainer) / "model"
    # The evaluation is on the training data here, and the user is told.
    assert "Warning: data.eval shares images or subjects with data.train: 8 of 8 questions" in capsys.readouterr().err
    rollouts = rows(model.parent / "metrics.jsonl")
    losses = {row["step"]: row["eval_loss"] for row in rollouts if "eval_loss" in row}
    assert losses[1] > losses[2]
    assert same_weights(model, model.parent / "checkpoints" / "checkpoint-1")
