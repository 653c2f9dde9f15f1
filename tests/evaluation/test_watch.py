"""Held-out figures of a training: with the images, without them, and answers against their reasoning."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation import watch
from medvlm_r1.evaluation.watch import HeldOut
from medvlm_r1.models.generate import Generation
from medvlm_r1.models.load import load_policy


class Reader:
    """Answers what the brightness of the red channel says (the fixture's images differ in it); A to a grey image."""

    def __init__(self, *, policy, batch_size):
        assert batch_size == 32

    def generate(self, items, settings):
        assert settings.temperature == 0
        return [Generation(text=self.reply(item), n_tokens=1, truncated=False) for item in items]

    def reply(self, item):
        pixels = np.asarray(item.images[0])
        if np.unique(pixels).tolist() == [128]:
            return "<think>Organ: liver.</think><answer>A</answer>"
        index = int(pixels[0, 0, 0]) // 30
        # The last of them says one thing and answers another.
        letter = "A" if index == 7 else LETTERS[index % 4]
        verdicts = f"A liver {'yes' if index % 4 == 0 else 'no'}, D knee {'yes' if index % 4 == 3 else 'no'}."
        return f"<think>{verdicts}</think><answer>{letter}</answer>"


def test_figures(data_dir, tiny_policy_dir, monkeypatch):
    monkeypatch.setattr(watch, "LocalGenerator", Reader)
    figures = HeldOut(data_dir)(load_policy(str(tiny_policy_dir)), 1)
    assert figures == {
        "accuracy": 87.5,
        "accuracy_MRI": 100.0,
        "accuracy_CT": 75.0,
        "questions_MRI": 4,
        "questions_CT": 4,
        "well_formed": 100.0,
        "blank_accuracy": 25.0,
        # Of the four that conclude (A, D, A, D) one is at odds.
        "contradiction": 25.0,
    }


def test_processes_share_the_questions_out(data_dir, tiny_policy_dir, monkeypatch):
    """One call of `generate` on each process, with real and blank questions; the figures are those of one process."""
    calls = []

    class Counting(Reader):
        def generate(self, items, settings):
            calls.append(len(items))
            return super().generate(items, settings)

    monkeypatch.setattr(watch, "LocalGenerator", Counting)
    policy, held_out = load_policy(str(tiny_policy_dir)), HeldOut(data_dir)
    expected = held_out(policy, 1)
    sent = []
    for process in (0, 1, 2):
        state = SimpleNamespace(process_index=process, num_processes=3)
        monkeypatch.setattr(watch, "PartialState", lambda state=state: state)
        # Every process but the last sees its own answers only, which are not enough for figures.
        monkeypatch.setattr(watch, "gather_object", lambda rows: sent.extend(rows) or list(sent))
        with nullcontext() if process == 2 else pytest.raises(KeyError):
            assert held_out(policy, 1) == expected
    assert calls == [16, 6, 5, 5]


def test_a_policy_answers_and_text_alone_has_no_blank(data_dir, tiny_policy_dir, tmp_path):
    policy = load_policy(str(tiny_policy_dir))
    held_out = HeldOut(data_dir, max_new_tokens=3)
    assert [i.images[0].size for i in held_out.blanks] == [i.images[0].size for i in held_out.inputs]
    figures = held_out(policy, 1)
    assert figures["accuracy"] == figures["blank_accuracy"] == figures["well_formed"] == 0.0
    assert "contradiction" not in figures
    texts = [replace(sample, images=()) for sample in read_folder(data_dir)]
    write_folder(tmp_path, texts, info={"name": "text", "source": "made by the tests", "license": "CC0-1.0"})
    assert "blank_accuracy" not in HeldOut(tmp_path, max_new_tokens=3)(policy, 1)


def test_open_questions_are_excluded(data_dir, tiny_policy_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "LocalGenerator", Reader)
    shutil.copytree(data_dir, tmp_path / "d")
    samples = read_folder(data_dir)
    write_folder(tmp_path / "d", [replace(s, options=()) if n % 2 else s for n, s in enumerate(samples)], info={})
    figures = HeldOut(tmp_path / "d")(load_policy(str(tiny_policy_dir)), 1)
    assert (figures["accuracy"], figures["questions_MRI"], figures["well_formed"]) == (100.0, 2, 100.0)
    write_folder(tmp_path / "d", [replace(s, options=()) for s in samples], info={})
    with pytest.raises(UserError, match="no question has options"):
        HeldOut(tmp_path / "d")


def test_the_command_line_evaluates_on_the_second_folder(write_config, data_dir, tmp_path, command):
    config = write_config(data={"train": str(data_dir), "eval": str(data_dir)}, evaluate_every=1)
    code, _, error = command("train", "grpo", "--config", config)
    assert code == 0, error
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "eval_accuracy" in row]
    assert [row["step"] for row in logged] == [1, 2]
    assert all({"eval_blank_accuracy", "eval_accuracy_MRI", "eval_well_formed"} <= row.keys() for row in logged)
