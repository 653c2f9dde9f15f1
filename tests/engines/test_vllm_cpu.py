"""vLLM's CPU build as a server and in the training process (`make test-engines`)."""

import json
import re
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest
import trl
import yaml
from runs import rows

from medvlm_r1.data.folder import read_folder
from medvlm_r1.models.load import locate
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page.case import Entry, ask, case_reply, make_question
from medvlm_r1.serving.page.image import Choice, open_source

pytestmark = pytest.mark.engines
Command = Callable[..., tuple[int, str, str]]
Record = Callable[[str, object], None]
TOKENS = 80
# Float32 and batches of whole prompts, as transformers computes.
EXACT = ["--dtype", "float32", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192", "--enforce-eager"]


@pytest.fixture(scope="module")
def server(vllm_python, vllm_environment, tmp_path_factory):
    """The embedded base on a vLLM server, as a MODEL of the commands."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [vllm_python, "-m", "vllm.entrypoints.cli.main", "serve", str(locate("phantom-base")), *EXACT]
    command += ["--served-model-name", "base", "--max-model-len", "1024", "--generation-config", "vllm"]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*command, "--port", str(port)], env=vllm_environment, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(300):
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health"):
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
                pytest.fail(log.read_text()[-6000:])
        yield f"openai:http://127.0.0.1:{port}/v1#base"
    finally:
        process.terminate()
        process.wait(60)


def run_both(command, server, folder, *verb, options):
    """Run a command with the embedded base in this process and on the server; the two run folders."""
    outs = [folder / "local", folder / "server"]
    for model, out in zip(("phantom-base", server), outs, strict=True):
        code, _, err = command(*verb, model, *options, "--out", out, "--max-new-tokens", TOKENS)
        assert code == 0, err
    return outs


def test_an_evaluation_on_the_server_has_the_local_texts(command, server, phantom, tmp_path, record_property):
    record_property("engine", "vLLM server")
    record_property("check", "`eval`: texts equal the local ones")
    local, remote = (
        {row["id"]: row["text"] for row in rows(out / "answers.jsonl")}
        for out in run_both(command, server, tmp_path, "eval", options=("--data", phantom))
    )
    equal = sum(local[name] == remote[name] for name in local)
    record_property("result", f"{equal} of {len(local)}")
    assert local == remote


def test_an_audit_on_the_server_has_the_local_verdicts(command, server, phantom, tmp_path, record_property):
    record_property("engine", "vLLM server")
    record_property("check", "`audit model`: verdicts equal the local ones")
    outs = run_both(command, server, tmp_path, "audit", "model", options=("--data", phantom))
    local, remote = (json.loads((out / "audit.json").read_text())["verdicts"] for out in outs)
    ran = sum(verdict != "not run" for verdict in local.values())
    equal = sum(local[name] == remote[name] for name in local)
    record_property("result", f"{equal} of {len(local)}, {ran} of them with a result")
    letters = [
        {(row["id"], row["variant"]): row["probabilities"] for row in rows(out / "answers.jsonl")} for out in outs
    ]
    pairs = [(letters[0][key], value) for key, value in letters[1].items() if value and letters[0].get(key)]
    if pairs:
        differences = [abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)]
        record_property("letter probabilities", max(differences))
        assert max(differences) <= 1e-4
    assert local == remote


def test_a_question_on_the_server_has_the_local_answer(server, phantom, record_property):
    """In one reply, and streamed as on the reader page."""
    record_property("engine", "vLLM server")
    record_property("check", "`ask` and the reader page: answers equal the local ones")
    sample = read_folder(phantom)[0]
    image = phantom / sample.images[0]
    source, _ = open_source(image.read_bytes(), image.name)
    view = Choice(plane=None, slice=0, frame=0, window=None, center=0, width=0)
    question = make_question(source, view, sample.question, "\n".join(sample.options))
    replies = []
    for name in ("phantom-base", server):
        with MedVLM.load(name, max_new_tokens=TOKENS) as model:
            *_, entry = ask(model, question)
            assert isinstance(entry, Entry)
            whole = case_reply(model.ask_batch([question])[0], question.options)
            # A server states no confidence here.
            replies += [replace(reply, confidence=None) for reply in (entry.case.reply, whole)]
    record_property("result", f"{replies.count(replies[0])} of {len(replies)}")
    assert replies[0].letter
    assert replies.count(replies[0]) == len(replies)


def test_a_colocated_training_gets_as_far_as_the_weight_sync(
    vllm_python, vllm_environment, phantom, tmp_path, record_property
):
    """The CPU build packs the weights and frees the originals, which a sync of single tensors would write to."""
    record_property("engine", "vLLM colocated")
    record_property("check", "GRPO with LoRA: starts, and its first weight sync is refused")
    config = {
        "model": "phantom-base",
        "method": "grpo",
        "data": {"train": str(phantom)},
        "out": str(tmp_path / "run"),
        "rewards": [{"name": "accuracy_paper"}],
        "lora": {"r": 4},
        "trainer": {
            **{"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 1024, "use_cpu": True, "beta": 0.0},
            **{"max_steps": 1, "per_device_train_batch_size": 8, "num_generations": 4, "report_to": "none"},
            **{"max_completion_length": 16, "save_strategy": "no"},
        },
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    script = Path(__file__).with_name("colocated_run.py")
    process = subprocess.run(
        [vllm_python, script, file, Path(trl.__file__).parents[1]],
        env=vllm_environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode != 0
    assert "sync_weights" in process.stderr, process.stderr[-6000:]
    record_property("result", re.findall(r"\bAttempted to load weight .+", process.stderr)[0])
