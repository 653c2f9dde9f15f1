"""No command opens a connection on local input, though nothing tells the hub's library to stay offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "offline_commands.py"
QUESTION = ("--question", "Which organ?", "--option", "brain", "--option", "knee")


def run(commands, cwd):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "GRADIO_"))}
    lines = "".join(json.dumps([str(word) for word in command]) + "\n" for command in commands)
    done = subprocess.run(
        [sys.executable, SCRIPT], input=lines, capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_no_command_connects_on_local_input(tmp_path, data_dir, tiny_policy_dir, write_config, tried):
    model, image = tiny_policy_dir, data_dir / "images" / "0.png"
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"image": image.name, "question": "Which?", "answer": "a", "options": ["a", "b"]}))
    sft = write_config("sft", trainer={"max_steps": 1}).rename(tmp_path / "sft.yaml")
    grpo = write_config("grpo", trainer={"max_steps": 1}).rename(tmp_path / "grpo.yaml")
    short = ("--max-new-tokens", 4)
    commands = [
        ["doctor", "--versions", "--json"],
        ["data", "import", "phantom", "--out", "phantom", "--n", 6, "--modality", "MRI"],
        ["data", "import", "jsonl", rows, "--out", "own", "--images", data_dir / "images"],
        ["data", "split", data_dir, "--out", "parts", "--part", "a=4", "--part", "b=rest"],
        ["data", "check", "parts/a", "--out", "check.html"],
        ["audit", "data", "phantom", "--out", "audit.html"],
        ["ask", "phantom-base", "--image", image, *QUESTION, *short],
        ["eval", model, "--data", data_dir, "--out", "eval-a", *short],
        ["eval", model, "--data", data_dir, "--out", "eval-b", *short],
        ["compare", "eval-a", "eval-b"],
        ["audit", "model", model, "--data", data_dir, "--out", "audited", "--limit", 2, *short],
        ["train", "grpo", "--config", grpo, "--dry-run", "trainer.max_completion_length=40"],
        ["train", "sft", "--config", sft, "out=sft-run"],
        ["train", "grpo", "--config", grpo, "out=grpo-run"],
        ["report", "eval-a", "grpo-run", "--out", "report.html"],
        ["export", "grpo-run", "--out", "published"],
        ["serve", model, "--port", 0],
    ]
    outcomes, log = run(commands, tmp_path)
    assert len(outcomes) == len(commands), log[-3000:]
    for command, outcome in zip(commands, outcomes, strict=True):
        assert outcome == {"code": 0, "tried": []}, f"{command}: {outcome}\n{log[-3000:]}"
    tried("no-network", len(commands))


def test_the_block_blocks(tmp_path, data_dir):
    """A model by a name of the hub is looked for there: then, and only then, something is tried."""
    [outcome], _ = run([["eval", "owner/name", "--data", data_dir, "--out", "y"]], tmp_path)
    assert outcome["code"] == 1
    assert outcome["tried"]
